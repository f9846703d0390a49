"""Is the encoder as fast as the silicon allows: alone, over gRPC, with texts, in overload, over a million sequences?

    python bench/encoder.py [SECTION ...]     engine batches rpc bulk text overload memory; default: all of them

References, measured in the same run: torch eager, torch.compile and plain ONNX Runtime (an export of the module, padded
to 50) with the same weights (d64, 2 layers, 4 heads, one thread); an echo of the same message sizes; the same server
with batches of one. Real lengths come from ../shared/data, where it is there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent)]

from encoder_bench import engine, overload, wire  # noqa: E402

SECTIONS = {
    "engine": engine.single_sequences,
    "batches": engine.batches_of_real_lengths,
    "rpc": wire.single_sequences,
    "bulk": wire.bulk,
    "text": wire.texts,
    "overload": overload.open_loop,
    "memory": engine.memory,
}


def main() -> None:
    for name in sys.argv[1:] or SECTIONS:
        print(f"-- {name}")
        with tempfile.TemporaryDirectory() as scratch:
            SECTIONS[name](Path(scratch))


if __name__ == "__main__":
    main()
