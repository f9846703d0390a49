"""`clozerec.v1.EncoderService` on the wire: messages to domain types and back, and nothing else.

The event loop converts what takes microseconds; a request of many thousand tokens is read on a thread, so that the loop
keeps answering health checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from clozerec.v1 import encoder_pb2, encoder_pb2_grpc
from clozerec_core.bundle import Bundle
from clozerec_core.errors import BadRequest
from clozerec_core.rpc import Service
from clozerec_core.vector_wire import set_vector
from clozerec_core.workers import Workers
from clozerec_encoder.bundles import LoadedBundles
from clozerec_encoder.tokens import ContentToken, Encoded, TextToken, Token, TokenSequence

SERVICE_NAME = "clozerec.v1.EncoderService"

TOKENS_ON_THE_LOOP = 10_000
"""Read within some two milliseconds; more than 64 full sequences of 100 items."""

T = TypeVar("T")


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers from the loaded bundles."""

    def __init__(self, bundles: LoadedBundles) -> None:
        self._bundles = bundles
        self._reader = Workers("encoder's reader", num_threads=1)

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(SERVICE_NAME, lambda server: encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server))

    async def EncodeSequences(
        self, request: encoder_pb2.EncodeSequencesRequest, context: Any
    ) -> encoder_pb2.EncodeSequencesResponse:
        with self._bundles.using(request.bundle_id) as encoder:
            readings = await self._read(
                sum(len(message.tokens) + len(message.rows) for message in request.sequences),
                lambda: encoder.read([_sequence(message, i, request) for i, message in enumerate(request.sequences)]),
            )
            results = await encoder.encode(readings, context.peer())
            response = encoder_pb2.EncodeSequencesResponse(bundle_id=encoder.bundle_id)
            for result in results:
                _write(result, response.sequences.add())
            return response

    def intent_at_once(self, bundle_id: str, rows: Sequence[int], mask_position: int) -> Sequence[float] | None:
        """`EncodeSequences` of one window for a caller of this process, without messages; None: ask the RPC."""
        encoder = self._bundles.get(bundle_id)
        intent_D = None if encoder is None else encoder.intent_at_once(rows, mask_position)
        return None if intent_D is None else intent_D.tolist()

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, context: Any
    ) -> encoder_pb2.EncodeTextsResponse:
        with self._bundles.using(request.bundle_id) as encoder:
            vectors = await encoder.encode_texts(request.texts, context.peer())
            response = encoder_pb2.EncodeTextsResponse(bundle_id=encoder.bundle_id)
            for content, item, truncated in zip(vectors.content, vectors.items, vectors.truncated, strict=True):
                text = response.texts.add(truncated=truncated)
                set_vector(text, "content", content)
                set_vector(text, "item", item)
            return response

    async def GetEncoderInfo(
        self, request: encoder_pb2.GetEncoderInfoRequest, context: Any
    ) -> encoder_pb2.GetEncoderInfoResponse:
        manifest = self._bundles.current.manifest
        info = encoder_pb2.GetEncoderInfoResponse(
            bundle_id=manifest.bundle_id,
            dim=manifest.model.dim,
            max_sequence_length=manifest.model.max_sequence_length,
            loaded_bundle_ids=self._bundles.bundle_ids,
        )
        if manifest.text is not None:
            info.content_dim = manifest.text.content_dim
            info.text_model = manifest.text.model
            info.text_max_tokens = manifest.text.max_tokens
        return info

    def load(self, bundle: Bundle) -> None:
        """Load and warm a verified bundle beside the others; calls may name it from then on."""
        self._bundles.load(bundle)

    def make_current(self, bundle_id: str) -> None:
        """Let calls that name no bundle mean this one."""
        self._bundles.make_current(bundle_id)

    def release(self, bundle_id: str) -> None:
        """Forget a bundle that is not the current one."""
        self._bundles.release(bundle_id)

    def close(self) -> None:
        """Let go of the bundles once no call is under way."""
        self._reader.close()
        self._bundles.close()

    async def _read(self, num_tokens: int, work: Callable[[], T]) -> T:
        return work() if num_tokens <= TOKENS_ON_THE_LOOP else await self._reader.run(work)


def _sequence(message: encoder_pb2.Sequence, number: int, request: encoder_pb2.EncodeSequencesRequest) -> TokenSequence:
    mask_index = message.mask_index if message.HasField("mask_index") else None
    if message.rows:
        if message.tokens:
            raise BadRequest.of(f"sequences[{number}].rows", "send either tokens or rows")
        if not request.bundle_id:
            raise BadRequest.of("bundle_id", "name the bundle whose rows are meant; those of two must not mix")
        return TokenSequence((), mask_index, list(message.rows))
    tokens: list[Token] = [token.item_id for token in message.tokens]
    if "" in tokens:  # an empty id, or another kind of token
        tokens = [_token(token, f"sequences[{number}].tokens[{i}]") for i, token in enumerate(message.tokens)]
    return TokenSequence(tokens, mask_index)


def _token(message: encoder_pb2.Token, field: str) -> Token:
    match message.WhichOneof("kind"):
        case "item_id":
            return message.item_id
        case "content":
            return ContentToken(np.array(message.content.values, np.float32))
        case "text":
            return TextToken(message.text)
        case _:
            raise BadRequest.of(field, "expected one of item_id, content and text")


def _write(result: Encoded, message: encoder_pb2.EncodedSequence) -> None:
    if result.intent is not None:
        set_vector(message, "intent", result.intent)
    if result.unknown or result.vectorless or result.truncated:
        message.unknown_tokens.extend(result.unknown)
        message.vectorless_tokens.extend(result.vectorless)
        message.truncated_tokens.extend(result.truncated)
