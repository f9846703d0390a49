"""A Redis of the test's own, from the system's `redis-server`; tests that need one are skipped where it is missing."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

PROGRAM = "redis-server"


class RedisServer:
    """A running server that listens on a Unix socket, or on a loopback port where there is one."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self._socket}"

    def start(self) -> None:
        """Begin, with the data that it had; returns once it answers."""
        self._socket.unlink(missing_ok=True)
        addresses = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self._socket)]
        files = ["--dir", str(self.directory), "--appendonly", "yes", "--save", ""]
        self.process = subprocess.Popen([PROGRAM, *addresses, *files], stdout=subprocess.DEVNULL)
        _wait_until_it_answers(self.process, self._socket)

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

    @property
    def _socket(self) -> Path:
        return self.directory / "redis.sock"


@contextmanager
def redis_server(directory: Path, port: int = 0) -> Iterator[RedisServer]:
    """A server whose files lie in `directory`; one that starts there again finds its data.

    Args:
        directory: made where it is missing.
        port: of loopback; 0: a Unix socket alone.
    """
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed (Debian: apt-get install redis-server)")
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(directory, port)
    try:
        yield server
    finally:
        server.thaw()
        server.kill()


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
