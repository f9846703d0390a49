"""The encoder over a real channel: tokens of every kind, batches, and what it refuses."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import toy_world
from encoder_bundle import random_network, write_encoder_bundle
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from clozerec.v1 import encoder_pb2
from clozerec.v1.encoder_pb2_grpc import EncoderServiceStub
from clozerec_cli.serving import encoder_server
from clozerec_core.bundle import MANIFEST, Bundle, point_current, publish, writing_directory
from clozerec_core.bundle_watch import BUNDLE_REFUSED
from clozerec_encoder.settings import EncoderSettings
from clozerec_trainer.item_features import find_text_model
from clozerec_trainer.model import NetworkSpec
from integration.conftest import TIMEOUT_S


@pytest_asyncio.fixture
async def stub(toy_text_bundle: Bundle) -> AsyncIterator[EncoderServiceStub]:
    settings = EncoderSettings(bundle=toy_text_bundle.path, grpc_port=0, grace_s=1)
    async with (
        encoder_server(toy_text_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield EncoderServiceStub(channel)


def sequence(ids: Iterable[str], mask_index: int | None = None) -> encoder_pb2.Sequence:
    return encoder_pb2.Sequence(tokens=[encoder_pb2.Token(item_id=each) for each in ids], mask_index=mask_index)


async def encode(stub: EncoderServiceStub, *sequences: encoder_pb2.Sequence) -> list[encoder_pb2.EncodedSequence]:
    request = encoder_pb2.EncodeSequencesRequest(sequences=sequences)
    return list((await stub.EncodeSequences(request, timeout=TIMEOUT_S)).sequences)


async def test_batched_equals_one_by_one(stub: EncoderServiceStub) -> None:
    sequences = [sequence(ids) for ids in ("a", "abc", "bcd", "abcdefgh", "cdefghijklmnop", "zq", "")]
    sequences += [sequence("abcdef", mask_index=position) for position in range(7)]
    batched = await encode(stub, *sequences)
    for each, together in zip(sequences, batched, strict=True):
        (alone,) = await encode(stub, each)
        assert list(alone.unknown_tokens) == list(together.unknown_tokens)
        np.testing.assert_allclose(alone.intent, together.intent, atol=1e-5)


async def test_a_batch_of_all_kinds_of_tokens_equals_one_by_one(stub: EncoderServiceStub) -> None:
    """Ids, content vectors and texts, known and unknown, with the mask in every place."""
    words = ["cast iron pan", "a lamp", "steel tea kettle", *toy_world.TITLES[:4]]
    embedded = await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=words), timeout=TIMEOUT_S)
    tokens = [
        *(encoder_pb2.Token(item_id=item_id) for item_id in [*toy_world.ITEM_IDS, "zz"]),
        *(encoder_pb2.Token(text=text) for text in words),
        *(encoder_pb2.Token(content=encoder_pb2.ContentVector(values=text.content)) for text in embedded.texts),
    ]
    choice = random.Random(7)
    sequences = []
    for length in [*range(1, 13), *range(1, 13)]:
        mask_index = choice.choice([None, *range(length + 1)])
        sequences.append(encoder_pb2.Sequence(tokens=choice.choices(tokens, k=length), mask_index=mask_index))
    for each, together in zip(sequences, await encode(stub, *sequences), strict=True):
        (alone,) = await encode(stub, each)
        np.testing.assert_allclose(alone.intent, together.intent, atol=1e-5)


async def test_rows_say_what_ids_say(stub: EncoderServiceStub, toy_text_bundle: Bundle) -> None:
    bundle_id = toy_text_bundle.bundle_id
    for ids, mask_index in ((toy_world.ITEM_IDS, None), (toy_world.ITEM_IDS[:3], 1), (toy_world.ITEM_IDS[:1], None)):
        rows = encoder_pb2.Sequence(rows=toy_text_bundle.catalogue.rows_of(ids), mask_index=mask_index)
        request = encoder_pb2.EncodeSequencesRequest(bundle_id=bundle_id, sequences=[rows])
        (by_row,) = (await stub.EncodeSequences(request, timeout=TIMEOUT_S)).sequences
        assert [by_row] == await encode(stub, sequence(ids, mask_index))


@pytest.mark.parametrize(
    ("bundle_id", "wrong", "field"),
    [
        (True, encoder_pb2.Sequence(rows=[0, 10_000]), "sequences[0].rows"),
        (True, encoder_pb2.Sequence(rows=[0], mask_index=2), "sequences[0].mask_index"),
        (True, encoder_pb2.Sequence(rows=[0], tokens=[encoder_pb2.Token(item_id="a")]), "sequences[0].rows"),
        (False, encoder_pb2.Sequence(rows=[0]), "bundle_id"),
    ],
)
async def test_wrong_rows_are_refused_by_name(
    stub: EncoderServiceStub, toy_text_bundle: Bundle, bundle_id: bool, wrong: encoder_pb2.Sequence, field: str
) -> None:
    request = encoder_pb2.EncodeSequencesRequest(
        bundle_id=toy_text_bundle.bundle_id if bundle_id else "", sequences=[wrong]
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.EncodeSequences(request, timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_intents_are_unit_vectors_and_nothing_readable_gives_none(stub: EncoderServiceStub) -> None:
    known, unknown, empty = await encode(stub, sequence("abc"), sequence("zq"), sequence(""))
    assert np.linalg.norm(known.intent) == pytest.approx(1, abs=1e-5)
    assert not unknown.intent
    assert list(unknown.unknown_tokens) == [0, 1]
    assert not empty.intent


async def test_only_the_window_counts(stub: EncoderServiceStub, toy_text_bundle: Bundle) -> None:
    max_len = toy_text_bundle.manifest.model.max_sequence_length
    newest = "ponmlkjihgfedcba"[-max_len:]
    long, short = await encode(stub, sequence("ponmlkjihgfedcba"), sequence(newest))
    np.testing.assert_allclose(long.intent, short.intent, atol=1e-6)


async def test_unknown_tokens_do_not_move_the_gap(stub: EncoderServiceStub) -> None:
    with_unknown, plain = await encode(stub, sequence("zabzcd", mask_index=4), sequence("abcd", mask_index=2))
    np.testing.assert_allclose(with_unknown.intent, plain.intent, atol=1e-6)


async def test_a_text_and_its_content_vector_are_the_same_token(stub: EncoderServiceStub) -> None:
    text = "cast iron pan"
    texts = await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=[text]), timeout=TIMEOUT_S)
    content = encoder_pb2.ContentVector(values=texts.texts[0].content)
    before = [encoder_pb2.Token(item_id="a")]
    by_text, by_content = await encode(
        stub,
        encoder_pb2.Sequence(tokens=[*before, encoder_pb2.Token(text=text)]),
        encoder_pb2.Sequence(tokens=[*before, encoder_pb2.Token(content=content)]),
    )
    np.testing.assert_allclose(by_text.intent, by_content.intent, atol=1e-5)


async def test_texts_are_embedded_as_sentence_transformers_does(
    stub: EncoderServiceStub, toy_text_bundle: Bundle
) -> None:
    response = await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=toy_world.TITLES), timeout=TIMEOUT_S)
    served = np.array([text.content for text in response.texts], np.float32)
    # content.npy was computed by sentence-transformers when the bundle was trained.
    cosines = (served * toy_text_bundle.content).sum(axis=1)
    assert cosines.min() > 0.9999


async def test_odd_texts_are_embedded_as_sentence_transformers_does(stub: EncoderServiceStub) -> None:
    texts = ["x", "Füße, 東京 и κόσμος 😀", "a\tb\n\nc", "!?", "word " * 400, "supercalifragilistic" * 50, "é " * 300]
    response = await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=texts), timeout=120)
    served = np.array([text.content for text in response.texts], np.float32)
    expected = find_text_model(None).load().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    assert (served * expected).sum(axis=1).min() > 0.9999
    assert [text.truncated for text in response.texts] == [False, False, False, False, True, False, True]


async def test_one_sequence_does_not_wait_for_another_callers_thousand(toy_text_bundle: Bundle) -> None:
    settings = EncoderSettings(bundle=toy_text_bundle.path, grpc_port=0, grace_s=1)
    many = encoder_pb2.EncodeSequencesRequest(sequences=[sequence("abcdefg")] * 1000)
    one = encoder_pb2.EncodeSequencesRequest(sequences=[sequence("abc")])
    own_channel = (("grpc.use_local_subchannel_pool", 1),)  # callers are told apart by their connection
    async with (
        encoder_server(toy_text_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", own_channel) as greedy,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", own_channel) as modest,
    ):
        large = asyncio.create_task(_await(EncoderServiceStub(greedy).EncodeSequences(many, timeout=120)))
        answered = 0
        while not large.done():
            await EncoderServiceStub(modest).EncodeSequences(one, timeout=TIMEOUT_S)
            answered += 1
        assert len((await large).sequences) == 1000
        assert answered > 5  # of the thousand's thirty batches each leaves room


async def test_32_long_texts_at_once_are_answered(stub: EncoderServiceStub) -> None:
    texts = [f"{title} " * 100 for title in toy_world.TITLES * 2]
    response = await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(texts=texts), timeout=120)
    assert [text.truncated for text in response.texts] == [True] * 32
    assert np.linalg.norm([text.item for text in response.texts], axis=1) == pytest.approx(np.ones(32), abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (encoder_pb2.Sequence(tokens=[encoder_pb2.Token()]), "sequences[0].tokens[0]"),
        (encoder_pb2.Sequence(tokens=[encoder_pb2.Token(item_id="")]), "sequences[0].tokens[0].item_id"),
        (encoder_pb2.Sequence(tokens=[encoder_pb2.Token(text=" ")]), "sequences[0].tokens[0].text"),
        (
            encoder_pb2.Sequence(tokens=[encoder_pb2.Token(content=encoder_pb2.ContentVector(values=[1.0]))]),
            "sequences[0].tokens[0].content",
        ),
        (
            encoder_pb2.Sequence(
                tokens=[encoder_pb2.Token(content=encoder_pb2.ContentVector(values=[float("nan")] * 384))]
            ),
            "sequences[0].tokens[0].content",
        ),
        (sequence("ab", mask_index=3), "sequences[0].mask_index"),
    ],
)
async def test_wrong_sequences_are_refused_by_name(
    stub: EncoderServiceStub, bad: encoder_pb2.Sequence, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await encode(stub, bad)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}: ")


async def test_no_sequences_and_no_texts_are_refused(stub: EncoderServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await encode(stub)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.EncodeTexts(encoder_pb2.EncodeTextsRequest(), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_much_waiting_is_refused_with_the_time_to_try_again(toy_bundle: Bundle) -> None:
    settings = EncoderSettings(bundle=toy_bundle.path, grpc_port=0, grace_s=1, encoder_max_waiting_tokens=1)
    request = encoder_pb2.EncodeSequencesRequest(sequences=[sequence("abcdefgh")] * 1000)
    async with (
        encoder_server(toy_bundle, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        calls = [EncoderServiceStub(channel).EncodeSequences(request, timeout=TIMEOUT_S) for _ in range(30)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) < len(answers), "the first finds an empty queue"
    retry = error_details_pb2.RetryInfo()
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(error)
        assert status is not None
        assert any(detail.Unpack(retry) for detail in status.details)
        assert 0 < retry.retry_delay.ToNanoseconds() < 10**9
    assert refused


async def test_texts_outside_the_window_are_not_embedded(stub: EncoderServiceStub, toy_text_bundle: Bundle) -> None:
    max_len = toy_text_bundle.manifest.model.max_sequence_length
    ids = [encoder_pb2.Token(item_id=each) for each in "abcdefghijklmnop"[:max_len]]
    long_texts = [encoder_pb2.Token(text=f"{number} " + "word " * 400) for number in range(3)]
    cut, read = await encode(
        stub, encoder_pb2.Sequence(tokens=[*long_texts, *ids]), encoder_pb2.Sequence(tokens=[*ids, *long_texts])
    )
    assert (list(cut.truncated_tokens), list(read.truncated_tokens)) == ([], [max_len, max_len + 1, max_len + 2])
    (alone,) = await encode(stub, encoder_pb2.Sequence(tokens=ids))
    np.testing.assert_allclose(cut.intent, alone.intent, atol=1e-5)


@pytest.mark.parametrize("how", ["ids", "rows"])
async def test_a_request_of_a_million_tokens_leaves_the_health_check_quick(stub: EncoderServiceStub, how: str) -> None:
    """Quick means here: answered while the request is still at work."""
    long = sequence("ab" * 5000) if how == "ids" else encoder_pb2.Sequence(rows=[0, 1] * 5000)
    info = await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
    request = encoder_pb2.EncodeSequencesRequest(
        bundle_id=info.bundle_id, sequences=[long] * (60 if how == "ids" else 1000)
    )
    large = asyncio.create_task(_await(stub.EncodeSequences(request, timeout=120)))
    checks = 0
    while not large.done():
        await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
        checks += 1
    assert len((await large).sequences) == len(request.sequences)
    assert checks > 5


async def _await(call: Any) -> Any:
    return await call


async def test_pointing_the_link_elsewhere_switches_under_load_without_an_error(tmp_path: Path) -> None:
    spec = NetworkSpec(12, 7, 2, 3, 0.1, True)
    first, second = (
        write_encoder_bundle(tmp_path, random_network(spec, seed), bundle_id=name)
        for seed, name in enumerate(("first", "second"))
    )
    settings = EncoderSettings(bundle=point_current(first), grpc_port=0, grace_s=1, bundle_poll_s=0.01)
    request = encoder_pb2.EncodeSequencesRequest(sequences=[sequence(["i3", "i14"])])
    answered = []
    async with (
        encoder_server(first, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = EncoderServiceStub(channel)

        async def ask_until(bundle: Bundle) -> None:
            while True:
                answered.append((await stub.EncodeSequences(request, timeout=TIMEOUT_S)).bundle_id)
                if answered[-1] == bundle.bundle_id:
                    return

        await asyncio.gather(*(ask_until(first) for _ in range(8)))
        point_current(second)
        await asyncio.gather(*(ask_until(second) for _ in range(8)))
        request.bundle_id = "first"
        assert (await stub.EncodeSequences(request, timeout=TIMEOUT_S)).bundle_id == "first"
        info = await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
        assert list(info.loaded_bundle_ids) == ["first", "second"]
        request.bundle_id = ""
        point_current(first)
        await asyncio.gather(*(ask_until(first) for _ in range(8)))


async def test_a_bundle_is_switched_to_only_when_its_network_has_run_at_every_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose network fails at the longest sequences, which no caller has sent yet, never becomes the current one."""
    first, second = (
        write_encoder_bundle(tmp_path, random_network(NetworkSpec(12, 7, 2, 3, 0.1, True), seed), bundle_id=name)
        for seed, name in enumerate(("first", "second"))
    )
    longer = second.manifest.model.model_copy(update={"max_sequence_length": 9})
    with writing_directory(tmp_path) as staging:
        shutil.copytree(second.path, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        failing = publish(
            staging, tmp_path, second.manifest.model_copy(update={"bundle_id": "failing", "model": longer})
        )
    settings = EncoderSettings(bundle=point_current(first), grpc_port=0, grace_s=0, bundle_poll_s=0.01)
    async with (
        encoder_server(first, settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = EncoderServiceStub(channel)

        async def bundle_ids() -> list[str]:
            info = await stub.GetEncoderInfo(encoder_pb2.GetEncoderInfoRequest(), timeout=TIMEOUT_S)
            return [info.bundle_id, *info.loaded_bundle_ids]

        point_current(failing)
        said = ""
        while BUNDLE_REFUSED not in said:
            assert await bundle_ids() == ["first", "first"]
            said += capsys.readouterr().out
        assert await bundle_ids() == ["first", "first"]
        point_current(second)
        while (await bundle_ids())[0] != "second":
            pass
