"""`search.safetensors`: what approximate search needs beside the index, measured when the bundle was written.

Only large catalogues have one; without it every search is an exact scan.

Shapes: N items, K cells, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from clozerec_core.bundle import SEARCH, Bundle
from clozerec_core.errors import BadBundle
from clozerec_core.hybrid import Floats


def num_proposed(top_k: int, quantised: bool) -> int:
    """Rows that the graph is to propose, which are then scored exactly: beyond those asked for there is room for ties,
    and for what quantised codes put in the wrong order."""
    return 3 * top_k + 32 if quantised else top_k + 6


@dataclass(frozen=True)
class SearchFile:
    """The cells that vectors lie in, and how wide to search."""

    centroids_KD: Floats
    """L2-normalised means of the cells."""
    cell_of_N: NDArray[np.uint16]
    """The cell of each item."""
    ef_search: int
    """HNSW's width at which the measured recall was reached."""
    rows_to_scan: int
    """Rows of the nearest cells that are scored under a filter, where the query lies apart from what passes."""
    rows_nearby: int
    """The same where rows pass all around the query; measured to reach the recall."""
    recall: float
    """Recall@10 of the graph at that width, over queries beside sampled items."""

    @classmethod
    def open(cls, bundle: Bundle) -> SearchFile | None:
        """A verified bundle's; None where it has none.

        Raises:
            BadBundle: it does not fit the manifest.
        """
        if SEARCH not in bundle.manifest.files:
            return None
        try:
            file: Any = safe_open(bundle.file(SEARCH), framework="numpy")
            said = file.metadata()
            read = cls(
                file.get_tensor("centroids"),
                file.get_tensor("cell_of"),
                int(said["ef_search"]),
                int(said["rows_to_scan"]),
                int(said.get("rows_nearby", said["rows_to_scan"])),
                float(said["recall"]),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            raise BadBundle(f"{SEARCH} of bundle {bundle.path} is damaged") from None
        if len(read.cell_of_N) != bundle.manifest.model.num_items:
            raise BadBundle(
                f"{SEARCH} of bundle {bundle.path} has {len(read.cell_of_N)} items, not as the manifest says"
            )
        return read

    def save(self, path: Path) -> None:
        """Write it down."""
        said = {name: str(getattr(self, name)) for name in ("ef_search", "rows_to_scan", "rows_nearby", "recall")}
        save_file({"centroids": self.centroids_KD, "cell_of": self.cell_of_N}, path, said)
