"""Certificates that change, expire or are wrong, and tokens that nobody knows."""

from __future__ import annotations

import asyncio

import grpc
import trustme

from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub
from faults.asking import DEADLINE_S, OWN_CHANNEL, Asker, Caller, Outcome
from faults.identity import served_serial
from faults.stack import Stack, during
from faults.table import RECOVERY_S, Arrangement, Tally, check, row, until

WITH_TLS = Arrangement(has_tls=True)


async def _shows(stack: Stack, serial: int) -> None:
    """Wait until every port shows newcomers the certificate of this number."""

    async def all_show() -> bool:
        shown = [await asyncio.to_thread(served_serial, process.port) for process in stack.processes]
        return set(shown) == {serial}

    await until(all_show)


@row(
    "certificates of all parts change under load",
    "0 errors, 0 fallbacks, newcomers included; every port shows the new one, without a restart",
    on=WITH_TLS,
)
async def rotate_certificates(stack: Stack) -> Outcome:
    assert stack.identities is not None
    identities, outcome, newcomers = stack.identities, Outcome(), Outcome()

    async def rotate() -> None:
        serial = identities.rotate()
        await asyncio.gather(_shows(stack, serial), _newcomers(stack, newcomers))

    await during(stack.asker.at_rate(stack.rate_per_s, 3, outcome), 0.5, rotate)
    outcome += newcomers
    check(outcome, fallbacks=False)
    return outcome


async def _newcomers(stack: Stack, outcome: Outcome) -> None:
    """Callers with a handshake of their own, one after the other, until the rotation is surely through."""
    assert stack.identities is not None
    for _ in range(10):
        caller = stack.identities.credentials(), stack.identities.caller[1]
        asker = Asker(stack.gateway.target, stack.place.questions(), caller)
        asker.knows_what(stack.asker)
        await asker.ask(0, outcome)
        await asker.close()


@row(
    "the certificate expires, and is replaced",
    "callers under way are answered, newcomers hear UNAVAILABLE; right again by itself",
    on=WITH_TLS,
)
async def expire_certificate(stack: Stack) -> Outcome:
    assert stack.identities is not None
    outcome, newcomer = Outcome(), Outcome()
    expired = stack.identities.rotate(is_expired=True)
    try:
        await during(stack.asker.at_rate(stack.rate_per_s, 2, outcome), 0, lambda: _shows(stack, expired))
        caller = stack.identities.credentials(), stack.identities.caller[1]
        asker = Asker(stack.gateway.target, stack.place.questions(), caller)
        await asker.ask(0, newcomer)
        await asker.close()
        assert set(newcomer.codes) == {"UNAVAILABLE"}, newcomer
    finally:
        valid = stack.identities.rotate()
    await _shows(stack, valid)
    await stack.asker.until_right(RECOVERY_S, outcome)
    check(outcome)
    return outcome


@row(
    "a token nobody knows, none at all, another authority's certificate",
    "UNAUTHENTICATED, or UNAVAILABLE before a byte is read; nobody else notices",
    on=WITH_TLS,
)
async def strangers(stack: Stack) -> Tally:
    assert stack.identities is not None
    credentials, token = stack.identities.caller
    foreign = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    outcome, codes = Outcome(), Tally()

    async def knock() -> None:
        for caller in ((credentials, "x" * 43), (credentials, ""), (foreign, token)):
            codes[await _code(stack, caller)] += 1

    await during(stack.asker.at_rate(stack.rate_per_s, 0.5, outcome), 0.1, knock)
    check(outcome, fallbacks=False)
    assert codes == {"UNAUTHENTICATED": 2, "UNAVAILABLE": 1}, codes
    return codes


async def _code(stack: Stack, caller: Caller) -> str:
    async with grpc.aio.secure_channel(stack.gateway.target, caller[0], OWN_CHANNEL) as channel:
        metadata = (("authorization", f"Bearer {caller[1]}"),)
        try:
            await RecommenderServiceStub(channel).Recommend(
                stack.place.questions()[0], timeout=DEADLINE_S, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"
