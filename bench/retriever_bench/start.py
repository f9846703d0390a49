"""Time from the bundle's directory to the first answer, and what is resident then; in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

MOST_S, MOST_TIMES = 5.0, 3.0


def memory_and_time(world: object, bundle: object, cache: Path) -> None:
    subprocess.run([sys.executable, __file__, str(bundle.path)], check=True)  # type: ignore[attr-defined]


def _measure(path: Path) -> None:
    from clozerec_core.bundle import Bundle
    from clozerec_core.garbage import settle
    from clozerec_retriever.retriever import Retriever

    imported_mib = _resident_mib()
    started, began_s = time.monotonic(), time.process_time()
    retriever = Retriever.open(Bundle.open(path))
    retriever.warm_up()
    took_s, worked_s = time.monotonic() - started, time.process_time() - began_s
    settle()  # as every process does when it is ready
    resident_mib = _resident_mib()
    model = retriever.manifest.model
    raw_mib = model.num_items * model.dim * 4 / 2**20
    ready = "holds" if took_s <= MOST_S else "SHORT"
    print(f"ready in {took_s:.1f} s, {worked_s:.1f} of processor time (at most {MOST_S:g})  {ready}")
    times = resident_mib["VmRSS"] / raw_mib
    print(
        f"resident {resident_mib['VmRSS']:.0f} MiB, {resident_mib['RssAnon']:.0f} of it anonymous, "
        f"{imported_mib['VmRSS']:.0f} before the bundle was opened: {times:.2f}x the raw vectors (at most "
        f"{MOST_TIMES:g} at 1,000,000)  {'holds' if times <= MOST_TIMES else 'SHORT'}"
    )


def _resident_mib() -> dict[str, float]:
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) / 1024 for name, value in lines if name in ("VmRSS", "RssAnon", "VmHWM")}


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
