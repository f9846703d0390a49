"""One of two addresses goes silent, as a frozen process or a cut cable does: it is left out, and comes back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from clozerec_cli.serving import encoder_server, gateway_server, retriever_server
from clozerec_core.bundle import Bundle
from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings
from integration.conftest import Gateway
from integration.test_gateway_faults import EVERY_TYPE, NONE, Relay

LEFT_OUT_AFTER_S = 15.0
"""Three seconds, and patience with a busy machine."""
RIGHT_IN_A_ROW = 8
"""Calls go to the addresses in turn: so many right answers do not come from a silent one."""


async def test_a_silent_encoder_is_left_out_while_the_other_answers(
    toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with AsyncExitStack() as stack:
        common = {"bundle": toy_bundle.path, "grpc_port": 0, "grace_s": 0}
        encoder = await stack.enter_async_context(encoder_server(toy_bundle, EncoderSettings(**common)))
        retriever = await stack.enter_async_context(
            retriever_server(toy_bundle, RetrieverSettings(**common, state_dir=tmp_path_factory.mktemp("retriever")))
        )
        relays = Relay(), Relay()
        for relay in relays:
            await relay.listen(encoder)
            stack.push_async_callback(relay.close)
        settings = GatewaySettings(
            **common,
            http_port=0,
            state_dir=tmp_path_factory.mktemp("gateway"),
            encoder_target="ipv4:" + ",".join(f"127.0.0.1:{relay.port}" for relay in relays),
            retriever_target=f"127.0.0.1:{retriever}",
            encoder_timeout_s=0.3,
        )
        ports = await stack.enter_async_context(gateway_server(toy_bundle, settings))
        gateway = Gateway(toy_bundle, f"127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")

        async def is_right() -> bool:
            return (await gateway.recommend(**EVERY_TYPE[3])).fallback == NONE

        async def until_right_again() -> None:
            in_a_row = 0
            async with asyncio.timeout(LEFT_OUT_AFTER_S):
                while in_a_row < RIGHT_IN_A_ROW:
                    in_a_row = in_a_row + 1 if await is_right() else 0
                    await asyncio.sleep(0.02)

        await until_right_again()
        relays[0].freeze()
        await until_right_again()
        relays[1].freeze()
        relays[0].thaw()
        await until_right_again()
