"""A service as a process of its own, as a container would run it: started, signalled, watched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 180.0
ONE_A_CALL = {"request_failed", "audit"}
"""Lines that are not kept: there may be millions."""


class ServiceProcess:
    """`clozerec serve PART`; `restart` brings it back on the same port."""

    def __init__(self, part: str, *words: str, **variables: str) -> None:
        self.part = part
        self._words = words
        self._variables = variables
        self._port = "0"
        self._http_port = "0"
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.port = 0
        self.http_port = 0
        self.metrics_port = 0
        self.events: list[dict[str, object]] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it says that it serves.

        Raises:
            RuntimeError: it ended instead; the message has its last lines.
        """
        ports = ["--grpc-port", self._port, "--metrics-port", "0"]
        if self.part in ("gateway", "all"):
            ports += ["--http-port", self._http_port]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clozerec_cli", "serve", self.part, *ports, *self._words),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self._variables},
            limit=2**22,
        )
        ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(START_TIMEOUT_S):
            await ready
        self._port, self._http_port = str(self.port), str(self.http_port)

    async def _read(self, ready: asyncio.Future[None]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "unreadable", "line": line.decode(errors="replace")}
            if event["event"] not in ONE_A_CALL:
                self.events.append(event)
            self.metrics_port = event.get("metrics_port", self.metrics_port)
            self.http_port = event.get("http_port", self.http_port)
            self.port = event.get("grpc_port", self.port)
            waits_for = "http_port" if self.part in ("gateway", "all") else "grpc_port"
            if event["event"] == "serving" and waits_for in event and not ready.done():
                ready.set_result(None)
        if not ready.done():
            ready.set_exception(RuntimeError(f"{self.part} ended: {self.events[-3:]}"))

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        await self._reader
        return code

    async def kill(self) -> None:
        """As the kernel does it."""
        self.send(signal.SIGKILL)
        await self.wait()

    async def stop(self) -> None:
        """End it, gently if it listens."""
        if self._process is None or self._process.returncode is not None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def restart(self) -> None:
        """The same again, on the same port."""
        await self.stop()
        await self.start()

    def said(self, event: str) -> list[dict[str, object]]:
        """Its log lines of this name."""
        return [each for each in self.events if each["event"] == event]

    async def metric(self, name: str) -> float:
        """Sum of all samples of this name in a scrape."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            text = await response.text()
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def memory_mb(self) -> float:
        """Resident."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Open files and sockets."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
