"""Servers in processes of their own: the encoder as it is deployed, and an echo."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc
import uvloop

from clozerec_cli.serving import encoder_server
from clozerec_core.bundle import Bundle
from clozerec_core.garbage import settle
from clozerec_encoder.settings import EncoderSettings

ECHO = "/bench.Echo/Echo"
ENCODE_SEQUENCES = "/clozerec.v1.EncoderService/EncodeSequences"
ENCODE_TEXTS = "/clozerec.v1.EncoderService/EncodeTexts"

Call = Callable[[bytes], Awaitable[bytes]]


@contextmanager
def encoder(bundle: Bundle, **settings: Any) -> Iterator[int]:
    """The encoder's port."""
    with _process(_serve_encoder, bundle, settings) as port:
        yield port


@contextmanager
def echo(answer_size: int) -> Iterator[int]:
    """The port of a bare grpc.aio server that answers each call with so many bytes."""
    with _process(_serve_echo, answer_size) as port:
        yield port


@asynccontextmanager
async def calling(port: int, method: str) -> Any:
    """A function from request bytes to response bytes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(method)
        yield lambda message: call(message, timeout=60)


@contextmanager
def _process(target: Callable[..., None], *args: Any) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(timeout=30)


def _serve_encoder(pipe: Connection, bundle: Bundle, settings: dict[str, Any]) -> None:
    served = EncoderSettings(bundle=bundle.path, grpc_port=0, grace_s=0, log_level="error", **settings)
    uvloop.run(_until_closed(pipe, _settled(encoder_server(bundle, served))))


def _serve_echo(pipe: Connection, answer_size: int) -> None:
    asyncio.run(_until_closed(pipe, _echo_server(b"x" * answer_size)))


@asynccontextmanager
async def _settled(server: AbstractAsyncContextManager[int]) -> Any:
    """With the garbage collector as `clozerec serve` leaves it, whose event loop is uvloop's, too."""
    async with server as port:
        settle()
        yield port


async def _until_closed(pipe: Connection, server: AbstractAsyncContextManager[int]) -> None:
    async with server as port:
        pipe.send(port)
        await asyncio.to_thread(_wait, pipe)


def _wait(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


@asynccontextmanager
async def _echo_server(answer: bytes) -> Any:
    async def handle(request: bytes, context: Any) -> bytes:
        return answer

    _, service, method = ECHO.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(handle)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)
