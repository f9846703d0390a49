"""Stores of what callers said, in both kinds, for all tests of what every store promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis_server import RedisServer, redis_server

from clozerec_gateway.redis_events import RedisEvents
from clozerec_gateway.sqlite_events import SqliteEvents

MAX_EVENTS = 5

Open = Callable[[], SqliteEvents | RedisEvents]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store again and again."""
    if request.param == "sqlite":
        return lambda: SqliteEvents(tmp_path, MAX_EVENTS)
    url = request.getfixturevalue("server").url
    with Redis.from_url(url) as client:
        client.flushall()
    return lambda: RedisEvents(url, MAX_EVENTS, timeout_s=5)
