"""The JSON front to the letter, with the bodies that the documentation promises."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator

import aiohttp
import grpc
import polars as pl
import pytest
import pytest_asyncio
from unit.gateway.test_json_codec import DESIGN_BODIES

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from clozerec_core.bundle import Bundle
from clozerec_gateway.json_codec import parse_json, to_json
from clozerec_trainer.payload import parse_payload
from clozerec_trainer.train import train
from integration.conftest import TIMEOUT_S, Gateway, running


@pytest.fixture(scope="module")
def shop_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A shop whose ids and columns are those of the documented bodies."""
    directory = tmp_path_factory.mktemp("shop")
    items = [f"item_{number}" for number in (1024, 89, 300, 1, 2, 3, 4, 5)]
    pl.DataFrame(
        {
            "item_id": items,
            "brand": ["Samsung", "Sony"] * 4,
            "category": ["Electronics", "Electronics", "Books", "Electronics"] * 2,
            "in_stock": [True, True, False, True, True, True, False, False],
        }
    ).write_csv(directory / "items.csv")
    events = [
        {"user_id": f"user_{777 + person}", "item_id": items[(person + step) % 6], "timestamp": 1_700_000_000 + step}
        for person in range(20)
        for step in range(4)
    ]
    pl.DataFrame(events).write_csv(directory / "interactions.csv")
    keys = {
        "interactions": "interactions.csv",
        "items": "items.csv",
        "user_column": "user_id",
        "item_column": "item_id",
        "timestamp_column": "timestamp",
        "hidden_size": 16,
        "attention_heads": 2,
        "model_depth": 1,
        "training_epochs": 1,
        "device": "cpu",
    }
    return train(parse_payload(keys, directory), directory / "bundles").bundle


@pytest_asyncio.fixture
async def shop(shop_bundle: Bundle) -> AsyncIterator[Gateway]:
    async with running(shop_bundle, "all in one") as started:
        yield started


@pytest.mark.parametrize("body", DESIGN_BODIES)
async def test_the_documented_bodies_work_as_they_stand(shop: Gateway, body: str) -> None:
    status, answer, headers = await shop.post("/v1/recommend", body)
    assert status == 200, answer
    assert answer["items"]
    assert answer["query_type"] in body
    assert answer["fallback"] == "none"
    assert set(answer) == {
        "items", "query_type", "fallback", "bundle_id", "recommendation_id", "unknown_item_ids", "exhausted",
        "next_page_token",
    }  # fmt: skip
    assert set(answer["items"][0]) == {"item_id", "score", "display_name", "metadata", "source", "reasons"}
    assert headers["x-request-id"]


async def test_the_documented_filters_hold(shop: Gateway) -> None:
    _, similar, _ = await shop.post("/v1/recommend", DESIGN_BODIES[0])
    assert {item["metadata"]["brand"] for item in similar["items"]} == {"Samsung"}
    _, following, _ = await shop.post("/v1/recommend", DESIGN_BODIES[3])
    assert {(item["metadata"]["category"], item["metadata"]["in_stock"]) for item in following["items"]} == {
        ("Electronics", True)
    }


@pytest.mark.parametrize("body", DESIGN_BODIES)
async def test_grpc_and_json_give_the_same_answer(shop: Gateway, body: str) -> None:
    _, over_http, _ = await shop.post("/v1/recommend", body)
    async with grpc.aio.insecure_channel(shop.target) as channel:
        request = parse_json(body, recommender_pb2.RecommendRequest)
        over_grpc = to_json(await RecommenderServiceStub(channel).Recommend(request, timeout=TIMEOUT_S))
    del over_http["recommendation_id"], over_grpc["recommendation_id"]
    assert over_http == over_grpc


async def test_a_plain_curl_without_content_type_works(shop: Gateway) -> None:
    status, _, _ = await shop.post(
        "/v1/recommend", DESIGN_BODIES[1], **{"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert status == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"query_type": "sequential"}, 400, "INVALID_ARGUMENT", "session_items"),
        ({"query_type": "user_to_item", "user_id": "u", "topK": 3}, 400, "INVALID_ARGUMENT", "topK"),
        (
            {"query_type": "user_to_item", "user_id": "u", "filters": {"meta.colour": 1}},
            400,
            "INVALID_ARGUMENT",
            "filters.meta.colour",
        ),
        ("not json", 400, "INVALID_ARGUMENT", "body"),
        ({"query_type": "item_to_item", "item_id": "zz"}, 404, "NOT_FOUND", None),
        ({"query_type": "user_to_item", "user_id": "u", "bundle_id": "zz"}, 400, "FAILED_PRECONDITION", None),
        ({"query_type": "user_to_item", "user_id": "u", "page_token": "x"}, 400, "INVALID_ARGUMENT", "page_token"),
    ],
)
async def test_errors_have_one_shape(shop: Gateway, body: object, status: int, code: str, field: str | None) -> None:
    answered, document, _ = await shop.post("/v1/recommend", body)
    assert answered == status
    assert set(document) == {"error"}
    assert document["error"]["code"] == code
    assert document["error"]["message"]
    by_type = {detail["@type"].rsplit(".")[-1]: detail for detail in document["error"]["details"]}
    assert by_type["ErrorInfo"]["domain"] == "clozerec"
    fields = [violation["field"] for violation in by_type.get("BadRequest", {}).get("field_violations", [])]
    assert fields == ([field] if field else [])


async def test_items_are_looked_up_in_the_order_asked(shop: Gateway) -> None:
    status, document, _ = await shop.post("/v1/items:get", {"item_ids": ["item_89", "zz", "item_1024"]})
    assert status == 200
    assert [item["item_id"] for item in document["items"]] == ["item_89", "item_1024"]
    assert document["items"][0]["metadata"] == {"brand": "Sony", "category": "Electronics", "in_stock": True}
    assert document["unknown_item_ids"] == ["zz"]
    status, document, _ = await shop.post("/v1/items:get", {"item_ids": []})
    assert (status, document["error"]["code"]) == (400, "INVALID_ARGUMENT")


async def test_info_names_the_bundle_the_schema_and_the_limits(shop: Gateway) -> None:
    status, document = await shop.get("/v1/info")
    assert status == 200
    assert document["bundle_ids"] == [shop.bundle.bundle_id]
    assert document["num_items"] == 8
    assert document["columns"] == [
        {"name": "brand", "type": "string"},
        {"name": "category", "type": "string"},
        {"name": "in_stock", "type": "bool"},
    ]
    assert document["limits"]["max_top_k"] == 1000
    assert document["text_engine"] is False


async def test_health_is_json(shop: Gateway) -> None:
    assert (await shop.get("/healthz"))[0] == 200
    assert (await shop.get("/readyz")) == (200, {"status": "ready"})


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "reason"),
    [
        ("/v1/nothing", b"{}", 404, "NOT_FOUND", "UNKNOWN_PATH"),
        ("/v1/info", b"{}", 405, "UNIMPLEMENTED", "WRONG_METHOD"),
        ("/v1/recommend", b" " * 4 * 1024 * 1024 + b"{}", 413, "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE"),
    ],
)
async def test_what_reaches_no_rpc_is_refused_in_the_same_shape(
    shop: Gateway, path: str, body: bytes, status: int, code: str, reason: str
) -> None:
    answered, document, headers = await shop.post(path, body, **{"X-Request-Id": "mine"})
    assert (answered, document["error"]["code"], headers["x-request-id"]) == (status, code, "mine")
    (info,) = document["error"]["details"]
    assert (info["reason"], info["metadata"]) == (reason, {"request_id": "mine"})


@pytest.mark.parametrize("given", ["", "m", "5", "500 m", "-1S", "123456789m", "١m", "1.5S", "1s"])
async def test_a_timeout_in_another_notation_is_refused_by_name(shop: Gateway, given: str) -> None:
    status, document, _ = await shop.post("/v1/recommend", DESIGN_BODIES[1], **{"Grpc-Timeout": given})
    assert (status, document["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert document["error"]["details"][1]["field_violations"][0]["field"] == "grpc-timeout"


async def test_a_caller_may_set_a_deadline(shop: Gateway) -> None:
    status, _, _ = await shop.post("/v1/recommend", DESIGN_BODIES[1], **{"Grpc-Timeout": "20S"})
    assert status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rsplit(":")[-1]))
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nGrpc-Timeout: 50m\r\nContent-Length: 99\r\n\r\n"
    writer.write(head + b"{")  # and never the rest: by default it would be waited for ten seconds
    async with asyncio.timeout(TIMEOUT_S):
        assert (await reader.readline()).split()[1] == b"504"
    writer.close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"not gzip", {"Content-Encoding": "gzip"}),
        (b'{"query_type": "user_to_item", "user_id": "\\ud800"}', {}),
    ],
)
async def test_bodies_that_cannot_be_read_are_bad_requests(shop: Gateway, body: bytes, headers: dict[str, str]) -> None:
    status, document, _ = await shop.post("/v1/recommend", body, **headers)
    assert (status, document["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert document["error"]["details"][1]["field_violations"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("path", "key", "largest"), [("/v1/recommend", "item_text", 4), ("/v1/items:delete", "item_ids", 16)]
)
async def test_a_body_that_is_too_large_is_refused_as_http_does(
    shop: Gateway, path: str, key: str, largest: int
) -> None:
    padding = b" " * (largest * 1024 * 1024)
    body = b'{"%s": ""}' % key.encode()
    status, document, _ = await shop.post(path, padding[: -len(body)] + body)
    assert (status, document["error"]["code"]) == (400, "INVALID_ARGUMENT")  # it was read
    status, document, _ = await shop.post(path, padding + body)
    assert (status, document["error"]["code"]) == (413, "RESOURCE_EXHAUSTED")


async def test_a_message_of_sixteen_mib_is_read_and_a_larger_one_refused(shop: Gateway) -> None:
    async with grpc.aio.insecure_channel(shop.target) as channel:
        stub = RecommenderServiceStub(channel)
        for size, code in (
            (16 * 1024 * 1024 - 64, grpc.StatusCode.INVALID_ARGUMENT),  # read: no id is that long
            (16 * 1024 * 1024, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.DeleteItems(recommender_pb2.DeleteItemsRequest(item_ids=["x" * size]), timeout=TIMEOUT_S)
            assert refused.value.code() is code


async def test_a_malformed_trace_context_harms_nobody(shop: Gateway) -> None:
    status, _, _ = await shop.post("/v1/recommend", DESIGN_BODIES[1], traceparent="\u00e9")
    assert status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/info HTTP/1.1\r\nAuthorization: Bearer \xff", b"200"),
        (b"GET /v1/info HTTP/1.1\r\nX-Request-Id: \xff\r\nTraceparent: \xff\r\nTracestate: \xff=\xff", b"200"),
        (b"GET /v1/info HTTP/1.1\r\nAccept-Encoding: \xff\r\nOrigin: \xff", b"200"),
        (b"POST /v1/recommend HTTP/1.1\r\nContent-Type: \xff; charset=\xff", b"400"),
        (b"GET /v1/%ff?a=%ff HTTP/1.1\r\nX: y", b"404"),
        (b"OPTIONS /v1/recommend HTTP/1.1\r\nOrigin: \xff\r\nAccess-Control-Request-Method: POST", b"400"),
    ],
)
async def test_what_is_no_text_in_a_header_or_path_is_no_fault_of_ours(
    shop_bundle: Bundle, caplog: pytest.LogCaptureFixture, head: bytes, status: bytes
) -> None:
    async with running(shop_bundle, "all in one", cors_origins=["https://shop.example"]) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
        writer.write(head + b"\r\nHost: g\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        assert (await reader.read()).split()[1] == status
        writer.close()
    assert [record for record in caplog.records if record.name == "aiohttp.server"] == []


async def test_a_large_body_is_read_like_a_small_one(shop: Gateway) -> None:
    body = {"query_type": "user_to_item", "user_id": "user_777", "exclude_item_ids": [f"x-{n}" for n in range(10_000)]}
    status, answer, _ = await shop.post("/v1/recommend", body)
    assert status == 200
    # Six items have been touched, four of them by this person.
    assert len(answer["items"]) == 2


async def test_a_request_id_is_taken_over_or_made(shop: Gateway) -> None:
    _, _, headers = await shop.post("/v1/recommend", DESIGN_BODIES[1], **{"X-Request-Id": "my-id-7"})
    assert headers["x-request-id"] == "my-id-7"
    _, _, headers = await shop.post("/v1/recommend", DESIGN_BODIES[1], **{"X-Request-Id": "not usable!"})
    assert headers["x-request-id"] not in ("", "not usable!")


async def test_a_long_deadline_gives_no_longer_to_send_a_body(shop_bundle: Bundle) -> None:
    async with running(shop_bundle, "all in one", default_timeout_s=0.1) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":")[-1]))
        writer.write(b"POST /v1/recommend HTTP/1.1\r\nHost: g\r\nGrpc-Timeout: 1H\r\nContent-Length: 99\r\n\r\n{")
        async with asyncio.timeout(TIMEOUT_S):
            assert (await reader.readline()).split()[1] == b"504"
        writer.close()


async def test_openapi_describes_every_path_and_field_with_the_words_of_the_protos(shop: Gateway) -> None:
    status, document = await shop.get("/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert set(document["paths"]) == {
        "/v1/recommend", "/v1/interactions", "/v1/items:upsert", "/v1/items:delete", "/v1/items:get",
        "/v1/users:delete", "/v1/info",
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    assert set(schemas["RecommendRequest"]["properties"]) == set(
        recommender_pb2.RecommendRequest.DESCRIPTOR.fields_by_name
    )
    assert all(field.get("description") for field in schemas["RecommendRequest"]["properties"].values())
    assert schemas["RecommendRequest"]["properties"]["query_type"]["enum"] == [
        "item_to_item", "user_to_item", "contextual", "sequential",
    ]  # fmt: skip
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(schemas)


async def test_pages_of_named_origins_may_call_and_others_not(shop_bundle: Bundle) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-request-id"}
    async with running(shop_bundle, "all in one", cors_origins=["https://shop.example"]) as gateway:
        url = gateway.url + "/v1/recommend"
        async with aiohttp.ClientSession() as session:
            async with session.options(url, headers={"Origin": "https://shop.example", **asked}) as preflight:
                assert preflight.status == 200
                assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"
                assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            async with session.options(url, headers={"Origin": "https://else.example", **asked}) as refused:
                assert refused.status == 403
            async with session.post(url, data=DESIGN_BODIES[1], headers={"Origin": "https://shop.example"}) as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
                assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"].lower()


async def test_without_the_setting_no_page_may_call(shop: Gateway) -> None:
    _, _, headers = await shop.post("/v1/recommend", DESIGN_BODIES[1], Origin="https://shop.example")
    assert not [name for name in headers if name.startswith("access-control")]


async def test_bodies_may_be_gzip_both_ways(shop: Gateway) -> None:
    body = {"query_type": "item_to_item", "item_id": "item_1024", "exclude_item_ids": ["x"] * 500, "top_k": 10}
    packed = gzip.compress(json.dumps(body).encode())
    status, answer, headers = await shop.post("/v1/recommend", packed, **{"Content-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert answer["items"]
