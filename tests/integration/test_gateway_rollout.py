"""A new bundle under the gateway's feet: it switches by itself, without an error, and goes back."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clozerec.v1 import recommender_pb2
from clozerec_cli.serving import all_in_one, encoder_server, gateway_server, retriever_server
from clozerec_cli.settings import AllSettings
from clozerec_core.bundle import MANIFEST, Bundle, point_current, publish, writing_directory
from clozerec_core.rpc_client import LocalStub
from clozerec_encoder.bundles import LoadedBundles as LoadedEncoders
from clozerec_encoder.servicer import EncoderServicer
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.assembly import assembled
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.assembly import build
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import TIMEOUT_S, Gateway
from integration.test_recommend import refused

SHOPPER = "user-3"
SESSION = {"query_type": "sequential", "session_items": ["a", "b", "c"], "top_k": 2}


def copied(bundle: Bundle, directory: Path, bundle_id: str, **changes: object) -> Bundle:
    """The same bundle under another id; `changes` go into the manifest."""
    with writing_directory(directory) as staging:
        shutil.copytree(bundle.path, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        return publish(staging, directory, bundle.manifest.model_copy(update={"bundle_id": bundle_id} | changes))


@asynccontextmanager
async def serving(link: Path, arrangement: str, state_dir: Path) -> AsyncIterator[Gateway]:
    bundle = Bundle.open(link)
    common = {"bundle": link, "grpc_port": 0, "grace_s": 0, "bundle_poll_s": 0.05}
    # A machine that is slow while two bundles load is no fault of the services.
    patient = {"encoder_timeout_s": TIMEOUT_S, "retriever_timeout_s": TIMEOUT_S}
    async with AsyncExitStack() as stack:
        if arrangement == "all in one":
            settings = AllSettings(**common, **patient, http_port=0, state_dir=state_dir, bundle_linger_s=0.2)
            ports = await stack.enter_async_context(all_in_one(bundle, settings))
        else:
            encoder = await stack.enter_async_context(encoder_server(bundle, EncoderSettings(**common)))
            retriever = await stack.enter_async_context(
                retriever_server(bundle, RetrieverSettings(**common, state_dir=state_dir))
            )
            gateway_settings = GatewaySettings(
                **common,
                **patient,
                bundle_linger_s=0.2,  # the inner services keep the old one for longer, as they do by default
                http_port=0,
                state_dir=state_dir,
                encoder_target=f"127.0.0.1:{encoder}",
                retriever_target=f"127.0.0.1:{retriever}",
            )
            ports = await stack.enter_async_context(gateway_server(bundle, gateway_settings))
        yield Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")


@pytest.mark.parametrize("arrangement", ["all in one", "one process each"])
async def test_the_gateway_follows_the_link_there_and_back(
    toy_bundle: Bundle, tmp_path: Path, arrangement: str
) -> None:
    old, new = copied(toy_bundle, tmp_path, "old"), copied(toy_bundle, tmp_path, "new")
    link = point_current(old)
    async with serving(link, arrangement, tmp_path / "state") as gateway:
        first = await gateway.recommend(**SESSION)
        page = first.next_page_token
        for bundle in (new, old):
            point_current(bundle)
            while (answer := await gateway.recommend(**SESSION)).bundle_id != bundle.bundle_id:
                assert list(answer.items) == list(first.items)
            assert list(answer.items) == list(first.items)
            while len((await gateway.get("/v1/info"))[1]["bundle_ids"]) > 1:
                pass
            if bundle is new:
                code, reason, _ = await refused(gateway, **SESSION, page_token=page)
                assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_PAGE")
                assert (await refused(gateway, **SESSION, bundle_id="old"))[1] == "BUNDLE_NOT_LOADED"


@pytest.mark.parametrize("arrangement", ["all in one", "one process each"])
async def test_after_a_switch_to_another_text_model_added_items_are_found_by_their_text_again(
    toy_text_bundle: Bundle, tmp_path: Path, arrangement: str
) -> None:
    """There, and back, without an upsert in between; the items have no metadata that a text could be made of."""
    text = toy_text_bundle.manifest.text
    assert text is not None
    old = copied(toy_text_bundle, tmp_path, "old")
    new = copied(toy_text_bundle, tmp_path, "new", text=text.model_copy(update={"model": "another"}))
    texts = {"kettle": "steel tea kettle", "bell": "a brass bell"}
    link = point_current(old)
    async with serving(link, arrangement, tmp_path / "state") as gateway:
        items = [{"item_id": item_id, "text": text} for item_id, text in texts.items()]
        _, document, _ = await gateway.post("/v1/items:upsert", {"items": items})
        assert [result["status"]["code"] for result in document["results"]] == [0, 0]
        for bundle in (new, old):
            point_current(bundle)
            for item_id, text in texts.items():
                query = {"query_type": "item_to_item", "item_text": text, "top_k": 1}
                # Until it is embedded again it has no vector, and another item is the nearest.
                while (answer := await gateway.recommend(**query)).bundle_id != bundle.bundle_id or [
                    (item.item_id, item.score) for item in answer.items
                ] != [(item_id, 1.0)]:
                    pass
            session = {"query_type": "sequential", "session_items": list(texts), "top_k": 1}
            assert (await gateway.recommend(**session)).fallback == recommender_pb2.FALLBACK_NONE


async def test_while_pods_are_replaced_a_gateway_finds_the_replicas_that_have_its_bundle(
    toy_text_bundle: Bundle, tmp_path: Path
) -> None:
    """Of each part one has the old bundle and one the new, and so have the gateways."""
    bundles = [copied(toy_text_bundle, tmp_path, name) for name in ("old", "new")]
    questions = [
        SESSION,
        {"query_type": "item_to_item", "item_id": "a"},
        {"query_type": "item_to_item", "item_text": "a brass bell"},
        {"query_type": "contextual", "user_id": "user-3", "item_id": "d"},
    ]
    async with AsyncExitStack() as stack:
        encoders, retrievers = [], []
        for bundle in bundles:
            common = {"bundle": bundle.path, "grpc_port": 0, "grace_s": 0}
            encoders.append(await stack.enter_async_context(encoder_server(bundle, EncoderSettings(**common))))
            state_dir = tmp_path / f"state-{bundle.bundle_id}"
            settings = RetrieverSettings(**common, state_dir=state_dir)
            retrievers.append(await stack.enter_async_context(retriever_server(bundle, settings)))
        for bundle in bundles:
            settings = GatewaySettings(
                bundle=bundle.path,
                grpc_port=0,
                http_port=0,
                grace_s=0,
                state_dir=tmp_path / f"gateway-{bundle.bundle_id}",
                encoder_target="ipv4:" + ",".join(f"127.0.0.1:{port}" for port in encoders),
                retriever_target="ipv4:" + ",".join(f"127.0.0.1:{port}" for port in retrievers),
            )
            ports = await stack.enter_async_context(gateway_server(bundle, settings))
            gateway = Gateway(bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")
            for question in questions * 3:
                answer = await gateway.recommend(**question)
                assert (answer.bundle_id, answer.fallback) == (bundle.bundle_id, recommender_pb2.FALLBACK_NONE)
                assert answer.items


async def test_a_text_that_no_encoder_can_read_for_this_bundle_is_to_be_asked_again(
    toy_text_bundle: Bundle, tmp_path: Path
) -> None:
    """All encoders have the next bundle by now: not the caller's fault, who has named none."""
    old, new = (copied(toy_text_bundle, tmp_path, name) for name in ("old", "new"))
    async with AsyncExitStack() as stack:
        encoder = await stack.enter_async_context(
            encoder_server(new, EncoderSettings(bundle=new.path, grpc_port=0, grace_s=0))
        )
        settings = GatewaySettings(
            bundle=old.path,
            grpc_port=0,
            http_port=0,
            grace_s=0,
            state_dir=tmp_path / "state",
            encoder_target=f"127.0.0.1:{encoder}",
        )
        ports = await stack.enter_async_context(gateway_server(old, settings))
        gateway = Gateway(old, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")
        code, reason, _ = await refused(gateway, query_type="item_to_item", item_text="a brass bell")
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_a_released_bundle_stays_open_for_requests_under_way(toy_bundle: Bundle, tmp_path: Path) -> None:
    second = copied(toy_bundle, tmp_path / "bundles", "second")
    common = {"bundle": toy_bundle.path, "grpc_port": 0}
    encoder = EncoderServicer(LoadedEncoders(toy_bundle, EncoderSettings(**common)))
    retriever = build(toy_bundle, RetrieverSettings(**common, state_dir=tmp_path))
    settings = GatewaySettings(**common, http_port=0, state_dir=tmp_path)
    stubs: Any = LocalStub(encoder), LocalStub(retriever)
    async with assembled(toy_bundle, settings, *stubs) as (_, bundles):
        for part in (encoder, retriever, bundles):
            await asyncio.to_thread(part.load, second)
            part.make_current("second")
        first = bundles.get(toy_bundle.bundle_id)
        with bundles.using(first), bundles.using(first):
            bundles.release(toy_bundle.bundle_id)
            assert await first.histories.is_in_bundle(SHOPPER)
        await asyncio.to_thread(lambda: [each.join() for each in threading.enumerate() if each.name == "release"])
        with pytest.raises(RuntimeError):
            await first.histories.is_in_bundle("user-4")
    encoder.close()
    retriever.close()
