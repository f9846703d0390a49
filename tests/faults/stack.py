"""The three services as real processes, and a client that has learned their answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis_server import RedisServer, redis_server

from faults.asking import Asker, Outcome
from faults.identity import Identities
from faults.processes import ServiceProcess
from faults.table import Arrangement, Place

RATE_PER_S = 50.0
SHARE_OF_CAPACITY = 0.4
"""At which rows ask where the machine is too slow for `RATE_PER_S`: they are about faults, not about speed."""
CAPACITY_S, CAPACITY_CALLS = 1.0, 8


@dataclass
class Stack:
    """Encoders, a retriever and a gateway."""

    place: Place
    encoders: list[ServiceProcess]
    retrievers: list[ServiceProcess]
    gateway: ServiceProcess
    asker: Asker
    link: Path
    """What names the bundle, where the arrangement follows a link."""
    rate_per_s: float
    """At which rows ask: well below what the machine answers while all is well."""
    redis: RedisServer | None = None
    identities: Identities | None = None

    @property
    def retriever(self) -> ServiceProcess:
        """The first, or the only one."""
        return self.retrievers[0]

    @property
    def processes(self) -> list[ServiceProcess]:
        return [*self.encoders, *self.retrievers, self.gateway]

    def point(self, bundle: Path) -> None:
        """Let the link name another bundle."""
        link = self.link.with_name("next")
        link.symlink_to(bundle.resolve())
        link.rename(self.link)


@asynccontextmanager
async def stack(arrangement: Arrangement, place: Place, **variables: str) -> AsyncIterator[Stack]:
    """A running stack.

    Args:
        arrangement: what runs.
        place: bundles, and a directory of its own for state.
        variables: more environment of every process.
    """
    bundle = place.bundle
    async with AsyncExitStack() as running:
        if arrangement.follows_link:
            bundle = place.scratch / "bundles" / "current"
            bundle.parent.mkdir()
            bundle.symlink_to(place.bundle.resolve())
            variables |= {"CLOZEREC_BUNDLE_POLL_S": "0.1", "CLOZEREC_BUNDLE_LINGER_S": "5"}
        if arrangement.drains_slowly:
            variables |= {"CLOZEREC_DRAIN_DELAY_S": "1", "CLOZEREC_GRACE_S": "5"}
        identities = Identities(place.scratch / "identities") if arrangement.has_tls else None
        if identities is not None:
            variables |= identities.variables()
        redis = (
            running.enter_context(redis_server(place.scratch / "redis", free_port())) if arrangement.has_redis else None
        )
        if redis is not None:
            variables["CLOZEREC_REDIS_URL"] = redis.url

        async def begin(part: str, *words: str, **more: str) -> ServiceProcess:
            process = ServiceProcess(part, "--bundle", str(bundle), *words, **variables, **more)
            running.push_async_callback(process.stop)
            await process.start()
            return process

        def state(part: str) -> str:
            directory = place.scratch / part
            directory.mkdir(exist_ok=True)
            return str(directory)

        started = await asyncio.gather(
            *(begin("encoder") for _ in range(arrangement.num_encoders)),
            *(
                begin("retriever", CLOZEREC_STATE_DIR=state(f"retriever-{number}"))
                for number in range(arrangement.num_retrievers)
            ),
        )
        encoders, retrievers = started[: arrangement.num_encoders], started[arrangement.num_encoders :]
        gateway = await begin(
            *("gateway", "--encoder-target", _addresses(encoders), "--retriever-target", _addresses(retrievers)),
            CLOZEREC_STATE_DIR=state("gateway"),
        )
        asker = Asker(gateway.target, place.questions(), identities.caller if identities is not None else None)
        running.push_async_callback(asker.close)
        await asker.learn()
        rate_per_s = min(RATE_PER_S, SHARE_OF_CAPACITY * await asker.closed_loop(Outcome(), CAPACITY_S, CAPACITY_CALLS))
        yield Stack(place, encoders, retrievers, gateway, asker, bundle, rate_per_s, redis, identities)


def free_port() -> int:
    """A port of loopback that nobody listens on: Redis cannot be told to choose one."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port: int = nobody.getsockname()[1]
        return port


def _addresses(processes: Sequence[ServiceProcess]) -> str:
    return "ipv4:" + ",".join(process.target for process in processes)


async def during(load: Awaitable[object], after_s: float, action: Callable[[], Awaitable[None]]) -> None:
    """Let the load run, and do something to the stack in the middle of it."""
    task = asyncio.ensure_future(load)
    await asyncio.sleep(after_s)
    await action()
    await task
