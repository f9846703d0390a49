"""A Redis of the test's own, from the system's `redis-server`; tests that need one are skipped where it is missing."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

PROGRAM = "redis-server"


@dataclass(frozen=True)
class RedisServer:
    """A running server that listens on a Unix socket only."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/redis.sock"

    def freeze(self) -> None:
        """Stop answering, with the connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once, as by the kernel."""
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """A server whose files lie in `directory`; one that starts there again finds its data."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed (Debian: apt-get install redis-server)")
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "redis.sock"
    socket.unlink(missing_ok=True)
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen([PROGRAM, *options], stdout=subprocess.DEVNULL)
    try:
        _wait_until_it_answers(process, socket)
        yield RedisServer(process, directory)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], socket: Path) -> None:
    while process.poll() is None:
        if socket.exists():
            with Redis(unix_socket_path=str(socket)) as client:
                try:
                    client.ping()
                except ConnectionError:
                    continue
                return
    raise AssertionError("redis-server ended before it answered")
