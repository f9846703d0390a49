"""How long does `clozerec serve all` take to be ready, and how much memory does it hold, also after long texts?

    python bench/footprint.py [BUNDLE]            default: the demo's bundle

Reference: the limits that we promise (ready in 5 s, 450 MB at the peak), and a Python that has imported nothing.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import grpc

from clozerec.v1 import recommender_pb2
from clozerec.v1.recommender_pb2_grpc import RecommenderServiceStub

READY_LIMIT_S = 5.0
MEMORY_LIMIT_MB = 450
FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
LONG_TEXT = "A lighthouse keeper finds a letter in a bottle and sets out to sea. " * 100


def memory_mb(process_id: int) -> tuple[float, float]:
    """Resident memory now and at its peak."""
    status = Path(f"/proc/{process_id}/status").read_text()
    kilobytes = {line.split(":")[0]: float(line.split()[1]) for line in status.splitlines() if line.startswith("Vm")}
    return kilobytes["VmRSS"] / 1024, kilobytes["VmHWM"] / 1024


async def ask_long_texts(target: str, how_many: int) -> None:
    """All at once."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = RecommenderServiceStub(channel)
        requests = (
            recommender_pb2.RecommendRequest(query_type="QUERY_TYPE_ITEM_TO_ITEM", item_text=f"{number} {LONG_TEXT}")
            for number in range(how_many)
        )
        await asyncio.gather(*(stub.Recommend(request, timeout=120) for request in requests))


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "demo-run/bundles/current"
    if not Path(bundle).is_dir():
        print(f"skipped: {bundle} is not there; make demo writes it")
        return
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bare:
        time.sleep(0.5)
        bare_mb, _ = memory_mb(bare.pid)
        bare.communicate(b"\n")
    started = time.monotonic()
    command = [sys.executable, "-m", "clozerec_cli", "serve", "all", "--bundle", bundle]
    process = subprocess.Popen([*command, *FREE_PORTS], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(event["grpc_port"] for event in map(json.loads, process.stderr) if "grpc_port" in event)
        ready_s = time.monotonic() - started
        idle_mb, _ = memory_mb(process.pid)
        asyncio.run(ask_long_texts(f"127.0.0.1:{port}", 32))
        after_mb, peak_mb = memory_mb(process.pid)
    finally:
        process.terminate()
        process.communicate()
    print(
        f"start to ready       {ready_s:8.2f} s    {ready_s / READY_LIMIT_S:.2f} of the {READY_LIMIT_S:.0f} s promised"
    )
    print(f"memory when ready    {idle_mb:8.0f} MB   {idle_mb / bare_mb:.1f} times a bare Python")
    print(f"after 32 long texts  {after_mb:8.0f} MB")
    print(
        f"peak                 {peak_mb:8.0f} MB   {peak_mb / MEMORY_LIMIT_MB:.2f} of the {MEMORY_LIMIT_MB} MB promised"
    )


if __name__ == "__main__":
    main()
