"""The real servers behind TLS, tokens and the inner identity: who gets in, and what changes while they run."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from structlog.testing import capture_logs

from clozerec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from clozerec_cli.serving import GatewayPorts, encoder_server, gateway_server, retriever_server
from clozerec_core import live_file
from clozerec_core.access import new_token
from clozerec_core.bundle import Bundle
from clozerec_core.errors import UsageError
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import TIMEOUT_S

QUESTION = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a", "b", "c"], top_k=1)


@pytest.fixture(autouse=True)
def _look_at_files_on_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_file.LiveFiles.__init__, "__defaults__", (0.0,))


class Authority:
    """A CA and the files that one process is given."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(directory / "ca.pem"))

    @property
    def ca_path(self) -> Path:
        return self._directory / "ca.pem"

    def issue(self, name: str, ca: trustme.CA | None = None) -> tuple[Path, Path]:
        """(Re)writes certificate and key of a name."""
        issued = (ca or self.ca).issue_cert(name, "localhost", "127.0.0.1")
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        key.write_bytes(issued.private_key_pem.bytes())
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return cert, key

    def channel_credentials(self, name: str | None = None) -> grpc.ChannelCredentials:
        """Of a client that believes this CA, and shows a certificate if it has a name."""
        if name is None:
            return grpc.ssl_channel_credentials(self.ca_path.read_bytes())
        cert, key = self.issue(name)
        return grpc.ssl_channel_credentials(self.ca_path.read_bytes(), key.read_bytes(), cert.read_bytes())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_tls(authority: Authority, name: str) -> dict[str, Path]:
    cert, key = authority.issue(name)
    return {"tls_cert_path": cert, "tls_key_path": key}


@asynccontextmanager
async def secured(
    bundle: Bundle,
    inner: Mapping[str, Any],
    gateway: Mapping[str, Any],
    own: Callable[[str], Mapping[str, Any]] = lambda _: {},
) -> AsyncIterator[tuple[GatewayPorts, int]]:
    """The three servers with these settings; the gateway's ports and the encoder's."""
    common = {"bundle": bundle.path, "grpc_port": 0, "grace_s": 1}
    async with AsyncExitStack() as stack:
        encoder_settings = EncoderSettings(**common, **inner, **own("encoder"))
        encoder = await stack.enter_async_context(encoder_server(bundle, encoder_settings))
        retriever_settings = RetrieverSettings(**common, **inner, **own("retriever"))
        retriever = await stack.enter_async_context(retriever_server(bundle, retriever_settings))
        settings = GatewaySettings(
            **common,
            http_port=0,
            encoder_target=f"127.0.0.1:{encoder}",
            retriever_target=f"127.0.0.1:{retriever}",
            **gateway,
        )
        yield await stack.enter_async_context(gateway_server(bundle, settings)), encoder


async def recommend(channel: grpc.aio.Channel, token: str = "") -> str:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
    answer = await stub.Recommend(QUESTION, timeout=TIMEOUT_S, metadata=metadata)
    return answer.items[0].item_id


async def code_of_encoder(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """How a direct call to the encoder is refused."""
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    return refused.value.code()


async def refusal(channel: grpc.aio.Channel, token: str = "") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await recommend(channel, token)
    return refused.value


def write_tokens(path: Path, *entries: Mapping[str, object]) -> None:
    path.write_text(json.dumps({"tokens": entries}))


async def test_a_gateway_with_tokens_answers_their_holders_alone(
    toy_bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token, entry = new_token("web", "read")
    write_tokens(tmp_path / "tokens.json", entry)
    async with secured(toy_bundle, {}, {"tokens_path": tmp_path / "tokens.json"}) as (ports, _):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            assert await recommend(channel, token) == "d"
            for wrong in ("", "guessed"):
                refused = await refusal(channel, wrong)
                assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
            stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as denied:
                await stub.DeleteUser(
                    recommender_pb2.DeleteUserRequest(user_id="u"),
                    timeout=TIMEOUT_S,
                    metadata=(("authorization", f"Bearer {token}"),),
                )
            assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "admin" in denied.value.details()
            # Health is for probes, which have no token.
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)

        async def post(headers: dict[str, str]) -> tuple[int, str]:
            body = {"query_type": "sequential", "session_items": ["a", "b", "c"]}
            url = f"http://127.0.0.1:{ports.http}/v1/recommend"
            async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
                return response.status, await response.text()

        assert (await post({"Authorization": f"Bearer {token}"}))[0] == 200
        assert (await post({}))[0] == 401
        assert "UNAUTHENTICATED" in (await post({"Authorization": "Bearer guessed"}))[1]
    said = "".join(capfd.readouterr())
    assert "audit" in said
    assert token not in said
    assert "guessed" not in said


async def test_tokens_change_without_a_restart_and_a_broken_file_changes_nothing(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    (old, old_entry), (new, new_entry) = new_token("old", "read"), new_token("new", "read")
    path = tmp_path / "tokens.json"
    write_tokens(path, old_entry)
    async with (
        secured(toy_bundle, {}, {"tokens_path": path}) as (ports, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        assert await recommend(channel, old) == "d"
        write_tokens(path, old_entry, new_entry)
        assert [await recommend(channel, each) for each in (old, new)] == ["d", "d"]
        path.write_text("half a fi")
        assert await recommend(channel, new) == "d"
        write_tokens(path, new_entry)
        assert (await refusal(channel, old)).code() is grpc.StatusCode.UNAUTHENTICATED
        assert await recommend(channel, new) == "d"


async def test_a_caller_above_its_rate_is_told_when_to_return(toy_bundle: Bundle) -> None:
    async with (
        secured(toy_bundle, {}, {"rate_limit_per_s": 0.01}) as (ports, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        assert await recommend(channel) == "d"
        refused = await refusal(channel)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(refused).details)
    assert 90 < retry.retry_delay.ToTimedelta().total_seconds() <= 100


async def test_each_message_of_a_stream_counts_as_a_call_and_is_refused_alone(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    token, entry = new_token("web", "read")
    write_tokens(tmp_path / "tokens.json", {**entry, "rate_per_s": 0.01})
    metadata = (("authorization", f"Bearer {token}"),)
    async with (
        secured(toy_bundle, {}, {"tokens_path": tmp_path / "tokens.json"}) as (ports, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        call = stub.RecommendStream(iter([QUESTION] * 20), timeout=TIMEOUT_S, metadata=metadata)
        results = [result async for result in call]
        assert await call.code() is grpc.StatusCode.OK
        # Whoever has used up its rate opens no further stream.
        further = stub.RecommendStream(iter([QUESTION]), timeout=TIMEOUT_S, metadata=metadata)
        assert await further.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [result.response.items[0].item_id for result in results[:1]] == ["d"]
    assert len(results) == 20
    for result in results[1:]:
        assert result.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in result.status.details)
        assert 90 < retry.retry_delay.ToTimedelta().total_seconds() <= 100


async def test_a_token_that_is_taken_back_is_refused_in_streams_that_are_open(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    (old, old_entry), (_, new_entry) = new_token("old", "read"), new_token("new", "read")
    path = tmp_path / "tokens.json"
    write_tokens(path, old_entry)
    async with (
        secured(toy_bundle, {}, {"tokens_path": path}) as (ports, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        call = stub.RecommendStream(timeout=TIMEOUT_S, metadata=(("authorization", f"Bearer {old}"),))
        results = []
        for _ in range(3):
            await call.write(QUESTION)
            results.append(await call.read())
            write_tokens(path, new_entry)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
    assert results[0].response.items[0].item_id == "d"
    assert {each.status.code for each in results[1:]} == {grpc.StatusCode.UNAUTHENTICATED.value[0]}


async def test_a_token_that_is_no_text_is_an_unknown_token_over_http(toy_bundle: Bundle, tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.json", new_token("web", "read")[1])
    with capture_logs() as said:
        async with secured(toy_bundle, {}, {"tokens_path": tmp_path / "tokens.json"}) as (ports, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports.http)
            writer.write(b"GET /v1/info HTTP/1.1\r\nHost: g\r\nConnection: close\r\nAuthorization: Bearer \xff\r\n\r\n")
            answer = await reader.read()
            writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert "unexpected_error" not in [line["event"] for line in said]


async def test_inner_services_answer_the_gateway_alone_while_their_token_rotates(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    accepted, sent = tmp_path / "accepted", tmp_path / "sent"
    accepted.write_text("first-inner-token\n")
    sent.write_text("first-inner-token\n")
    async with (
        secured(toy_bundle, {"inner_token_path": accepted}, {"inner_token_path": sent}) as (ports, encoder_port),
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{encoder_port}") as to_encoder,
    ):
        assert await recommend(channel) == "d"
        assert await code_of_encoder(to_encoder) is grpc.StatusCode.UNAUTHENTICATED
        accepted.write_text("second-inner-token\nfirst-inner-token\n")
        assert await recommend(channel) == "d"
        sent.write_text("second-inner-token\n")
        assert await recommend(channel) == "d"
        accepted.write_text("second-inner-token\n")
        assert await recommend(channel) == "d"
        # The inner token opens inner services, not the public one; and a wrong one is our fault, not the caller's, who
        # is answered as if the inner services were gone.
        accepted.write_text("somebody-elses-token\n")
        request = recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_SEQUENTIAL", session_items=["a", "b", "c"])
        answer = await recommender_pb2_grpc.RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S)
        assert answer.fallback == recommender_pb2.FALLBACK_POPULARITY


async def test_with_mutual_tls_only_the_named_certificate_gets_in(toy_bundle: Bundle, authority: Authority) -> None:
    inner = {"tls_client_ca_path": authority.ca_path, "tls_client_names": ("gateway.test",)}
    gateway = {**server_tls(authority, "gateway.test"), "inner_ca_path": authority.ca_path}
    async with secured(toy_bundle, inner, gateway, lambda name: server_tls(authority, f"{name}.test")) as (ports, port):
        target = f"localhost:{ports.grpc}"
        async with grpc.aio.secure_channel(target, authority.channel_credentials()) as channel:
            assert await recommend(channel) == "d"
        url = f"https://localhost:{ports.http}/healthz"
        trusting = ssl.create_default_context(cafile=str(authority.ca_path))
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            assert response.status == 200
        expected = {None: grpc.StatusCode.UNAVAILABLE, "stranger.test": grpc.StatusCode.UNAUTHENTICATED}
        for name, code in expected.items():
            async with grpc.aio.secure_channel(f"localhost:{port}", authority.channel_credentials(name)) as channel:
                assert await code_of_encoder(channel) is code
        async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
            assert await code_of_encoder(channel) is grpc.StatusCode.UNAVAILABLE


async def test_certificates_of_all_three_rotate_to_another_authority_without_an_error(
    toy_bundle: Bundle, authority: Authority
) -> None:
    def inner_tls(name: str) -> dict[str, Any]:
        return {**server_tls(authority, f"{name}.test"), "tls_client_ca_path": authority.ca_path}

    gateway = {**server_tls(authority, "gateway.test"), "inner_ca_path": authority.ca_path}
    async with secured(toy_bundle, {}, gateway, inner_tls) as (ports, _):
        target = f"localhost:{ports.grpc}"
        before = authority.channel_credentials()
        async with grpc.aio.secure_channel(target, before) as standing:
            assert await recommend(standing) == "d"
            # As a careful operator does: both authorities are believed first, then certificates follow.
            second = trustme.CA()
            authority.ca_path.write_bytes(authority.ca.cert_pem.bytes() + second.cert_pem.bytes())
            assert await recommend(standing) == "d"
            for name in ("encoder.test", "retriever.test", "gateway.test"):
                authority.issue(name, second)
                assert await recommend(standing) == "d"
            authority.ca_path.write_bytes(second.cert_pem.bytes())
            assert await recommend(standing) == "d"
        after = grpc.ssl_channel_credentials(second.cert_pem.bytes())
        async with grpc.aio.secure_channel(target, after, (("grpc.use_local_subchannel_pool", 1),)) as fresh:
            assert await recommend(fresh) == "d"
        async with grpc.aio.secure_channel(target, before, (("grpc.use_local_subchannel_pool", 1),)) as stale:
            assert (await refusal(stale)).code() is grpc.StatusCode.UNAVAILABLE
        trusting = ssl.create_default_context(cafile=str(authority.ca_path))
        url = f"https://localhost:{ports.http}/v1/info"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            assert response.status == 200


@pytest.mark.parametrize("broken", ["key of another", "half a key", "no certificate", "no authority"])
async def test_certificates_that_cannot_serve_are_refused_by_name_and_the_last_good_ones_stay(
    toy_bundle: Bundle, authority: Authority, broken: str
) -> None:
    """Of the gateway, whose files serve its callers, over gRPC and HTTP, and are shown to the inner services."""

    def inner_tls(name: str) -> dict[str, Any]:
        return {**server_tls(authority, f"{name}.test"), "tls_client_ca_path": inner_ca}

    inner_ca = authority.ca_path.with_name("inner-ca.pem")
    inner_ca.write_bytes(authority.ca.cert_pem.bytes())
    gateway = {**server_tls(authority, "gateway.test"), "inner_ca_path": authority.ca_path}
    cert, key = gateway["tls_cert_path"], gateway["tls_key_path"]
    believed = authority.channel_credentials()
    trusting = ssl.create_default_context(cafile=str(authority.ca_path))

    async def asked(ports: GatewayPorts) -> list[object]:
        """Over new connections."""
        target, options = f"localhost:{ports.grpc}", (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(target, believed, options) as channel:
            answers: list[object] = [await recommend(channel)]
        url = f"https://localhost:{ports.http}/v1/info"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            return [*answers, response.status]

    async with secured(toy_bundle, {}, gateway, inner_tls) as (ports, _):
        assert await asked(ports) == ["d", 200]
        with capture_logs() as said:
            if broken == "no authority":
                authority.ca_path.write_bytes(b"half a fi")
            elif broken == "no certificate":
                cert.write_bytes(b"half a fi")
            elif broken == "half a key":
                key.write_bytes(key.read_bytes()[:100])
            else:
                key.write_bytes(authority.issue("other.test")[1].read_bytes())
            assert await asked(ports) == ["d", 200]
        events = {line["event"]: line for line in said}
        assert "file_reloaded" not in events
        named = authority.ca_path if broken == "no authority" else cert
        assert str(named) in events["file_refused"]["files"]
        with capture_logs() as said:
            authority.ca_path.write_bytes(authority.ca.cert_pem.bytes())
            authority.issue("gateway.test")
            assert await asked(ports) == ["d", 200]
        assert "file_reloaded" in [line["event"] for line in said]


async def test_health_has_a_port_of_its_own_without_tls(toy_bundle: Bundle, authority: Authority) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = EncoderSettings(
        bundle=toy_bundle.path, grpc_port=0, grace_s=1, health_port=port, **server_tls(authority, "encoder.test")
    )
    async with encoder_server(toy_bundle, settings), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service="clozerec.v1.EncoderService")
        health = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert await code_of_encoder(channel) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("broken", ["key of another", "missing"])
async def test_a_certificate_that_cannot_serve_stops_the_start_by_name(
    toy_bundle: Bundle, authority: Authority, broken: str
) -> None:
    cert, key = authority.issue("encoder.test")
    if broken == "missing":
        cert.unlink()
    else:
        _, key = authority.issue("other.test")
    settings = EncoderSettings(bundle=toy_bundle.path, grpc_port=0, tls_cert_path=cert, tls_key_path=key)
    with pytest.raises(UsageError, match=str(cert)):
        async with encoder_server(toy_bundle, settings):
            pass
