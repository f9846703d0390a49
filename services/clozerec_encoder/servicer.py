"""`clozerec.v1.EncoderService` on the wire: messages to domain types and back, and nothing else.

Each call runs whole on one worker thread, conversion included, so that the event loop keeps answering health checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clozerec.v1 import encoder_pb2, encoder_pb2_grpc
from clozerec_core.errors import BadRequest
from clozerec_core.rpc import Service
from clozerec_core.workers import Workers
from clozerec_encoder.encoder import ContentToken, Encoded, Encoder, TextToken, Token, TokenSequence

SERVICE_NAME = "clozerec.v1.EncoderService"


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers from one loaded bundle."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._worker = Workers("encoder", num_threads=1)

    def service(self) -> Service:
        """What a server needs to host it."""
        return Service(SERVICE_NAME, lambda server: encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self, server))

    async def EncodeSequences(
        self, request: encoder_pb2.EncodeSequencesRequest, context: Any
    ) -> encoder_pb2.EncodeSequencesResponse:
        return await self._worker.run(lambda: self._encode_sequences(request))

    async def EncodeTexts(
        self, request: encoder_pb2.EncodeTextsRequest, context: Any
    ) -> encoder_pb2.EncodeTextsResponse:
        return await self._worker.run(lambda: self._encode_texts(request))

    async def GetEncoderInfo(
        self, request: encoder_pb2.GetEncoderInfoRequest, context: Any
    ) -> encoder_pb2.GetEncoderInfoResponse:
        manifest = self._encoder.manifest
        info = encoder_pb2.GetEncoderInfoResponse(
            bundle_id=manifest.bundle_id,
            dim=manifest.model.dim,
            max_sequence_length=manifest.model.max_sequence_length,
        )
        if manifest.text is not None:
            info.content_dim = manifest.text.content_dim
            info.text_model = manifest.text.model
            info.text_max_tokens = manifest.text.max_tokens
        return info

    def close(self) -> None:
        """Stop the worker once no call is under way."""
        self._worker.close()

    def _encode_sequences(self, request: encoder_pb2.EncodeSequencesRequest) -> encoder_pb2.EncodeSequencesResponse:
        self._encoder.check_bundle(request.bundle_id)
        sequences = [_sequence(message, f"sequences[{i}]") for i, message in enumerate(request.sequences)]
        results = self._encoder.encode_sequences(sequences)
        return encoder_pb2.EncodeSequencesResponse(
            bundle_id=self._encoder.bundle_id, sequences=[_encoded(result) for result in results]
        )

    def _encode_texts(self, request: encoder_pb2.EncodeTextsRequest) -> encoder_pb2.EncodeTextsResponse:
        self._encoder.check_bundle(request.bundle_id)
        vectors = self._encoder.encode_texts(request.texts)
        texts = [
            encoder_pb2.EncodedText(content=content.tolist(), item=item.tolist(), truncated=truncated)
            for content, item, truncated in zip(vectors.content, vectors.items, vectors.truncated, strict=True)
        ]
        return encoder_pb2.EncodeTextsResponse(bundle_id=self._encoder.bundle_id, texts=texts)


def _sequence(message: encoder_pb2.Sequence, field: str) -> TokenSequence:
    tokens = [_token(token, f"{field}.tokens[{i}]") for i, token in enumerate(message.tokens)]
    return TokenSequence(tokens, message.mask_index if message.HasField("mask_index") else None)


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


def _encoded(result: Encoded) -> encoder_pb2.EncodedSequence:
    return encoder_pb2.EncodedSequence(
        intent=[] if result.intent is None else result.intent.tolist(),
        unknown_tokens=result.unknown,
        vectorless_tokens=result.vectorless,
        truncated_tokens=result.truncated,
    )
