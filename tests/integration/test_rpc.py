"""What every server does alike: health, reflection, malformed bytes, deadlines, request ids, drain, ports."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from clozerec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2, recommender_pb2_grpc, retriever_pb2_grpc
from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_core.rpc import LIVENESS, GrpcServer, Service
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import TIMEOUT_S, Gateway

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)).status


async def test_each_service_answers_for_its_own_name(toy_bundle: Bundle) -> None:
    encoder = encoder_server(toy_bundle, EncoderSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1))
    retriever = retriever_server(toy_bundle, RetrieverSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1))
    for server, name in ((encoder, "clozerec.v1.EncoderService"), (retriever, "clozerec.v1.RetrieverService")):
        async with server as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for known in ("", "liveness", name):
                assert await health_of(channel, known) == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await health_of(channel, "clozerec.v1.RecommenderService")
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_service(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {service.name async for reply in call for service in reply.list_services_response.service}
    assert {"clozerec.v1.RecommenderService", "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f"])
async def test_malformed_bytes_are_a_bad_request_without_inner_text(gateway: Gateway, raw: bytes) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        call = channel.unary_unary("/clozerec.v1.RecommenderService/Recommend")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(raw, timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "request: the bytes are not this method's protobuf message"


async def test_a_request_id_comes_back_and_names_the_error(gateway: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        metadata = (("x-request-id", "my-id-7"),)
        call = stub.GetServiceInfo(recommender_pb2.GetServiceInfoRequest(), timeout=TIMEOUT_S, metadata=metadata)
        await call
        assert ("x-request-id", "my-id-7") in tuple(await call.trailing_metadata())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Recommend(recommender_pb2.RecommendRequest(), timeout=TIMEOUT_S, metadata=metadata)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(refused.value).details)
    assert info.metadata["request_id"] == "my-id-7"


async def test_a_stopping_server_says_so_first_and_finishes_what_it_began(toy_bundle: Bundle) -> None:
    settings = EncoderSettings(bundle=toy_bundle.path, grpc_port=0, drain_delay_s=1, grace_s=5)
    server = encoder_server(toy_bundle, settings)
    port = await server.__aenter__()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="clozerec.v1.EncoderService")
        )
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await watch.read()).status == NOT_SERVING
        # Balancers have not noticed yet: calls are still answered.
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        info = await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
        assert info.bundle_id == toy_bundle.bundle_id
        watch.cancel()
        await stopping


async def test_a_server_that_listens_is_alive_and_not_serving_until_it_is_ready(toy_bundle: Bundle) -> None:
    name = "clozerec.v1.EncoderService"
    server = GrpcServer(
        [Service(name, lambda _: None)], EncoderSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=0)
    )
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def status(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)).status

        assert [await status(LIVENESS), await status(name), await status("")] == [SERVING, NOT_SERVING, NOT_SERVING]
        await server.ready(port)
        assert [await status(LIVENESS), await status(name), await status("")] == [SERVING] * 3
    await server.stop()


async def test_a_port_in_use_is_named(toy_bundle: Bundle, gateway: Gateway) -> None:
    taken = int(gateway.target.rsplit(":")[-1])
    with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{taken}.*in use"):
        async with encoder_server(toy_bundle, EncoderSettings(bundle=toy_bundle.path, grpc_port=taken)):
            pass
    taken = int(gateway.url.rsplit(":")[-1])
    settings = GatewaySettings(bundle=toy_bundle.path, grpc_port=0, http_port=taken)
    with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{taken}.*--http-port"):
        async with gateway_server(toy_bundle, settings):
            pass


async def test_inner_services_refuse_a_foreign_bundle(toy_bundle: Bundle) -> None:
    settings = RetrieverSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1)
    async with (
        retriever_server(toy_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        from clozerec.v1 import retriever_pb2

        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Search(retriever_pb2.SearchRequest(bundle_id="other", intent=[1.0] * 16), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_more_callers_on_a_connection_than_its_limit_wait_and_are_all_answered(toy_bundle: Bundle) -> None:
    settings = EncoderSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1, max_concurrent_streams=4)
    async with (
        encoder_server(toy_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        request = encoder_pb2.GetEncoderInfoRequest()
        await stub.GetEncoderInfo(request, timeout=TIMEOUT_S)  # from here on the caller knows the limit
        answers = await asyncio.gather(*(_answer(stub.GetEncoderInfo(request, timeout=TIMEOUT_S)) for _ in range(200)))
    assert {answer.bundle_id for answer in answers} == {toy_bundle.bundle_id}


async def _answer(call: Any) -> Any:
    return await call


async def test_a_probe_does_not_wait_behind_the_calls_that_came_before_it(toy_bundle: Bundle) -> None:
    settings = EncoderSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1, max_concurrent_streams=1_000)
    ended: list[str] = []
    async with (
        encoder_server(toy_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),)) as other,
    ):
        assert await health_of(other, "") == SERVING
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)

        async def ask() -> None:
            await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
            ended.append("call")

        async def probe() -> None:
            await health_of(other, "")
            ended.append("probe")

        await asyncio.gather(*(ask() for _ in range(500)), probe())
    assert ended.index("probe") < 250
