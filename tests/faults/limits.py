"""A limit of the kernel on one process's memory, as a container has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_GROUP = "memory cgroup"
ROOT = Path("/sys/fs/cgroup")
VERSIONS = ((ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max"))


def memory_groups() -> tuple[Path, str] | None:
    """Where memory groups can be made, and the file with their limit; None: nowhere here."""
    for directory, limit in VERSIONS:
        group = directory / "clozerec-faults-probe"
        try:
            group.mkdir()
        except OSError:
            continue
        has_limit = (group / limit).exists()
        group.rmdir()
        if has_limit:
            return directory, limit
    return None


@contextmanager
def limited_growth(pid: int, limit_mb: float) -> Iterator[None]:
    """The kernel kills the process when it takes this much more than it has: what it took before stays where it was
    counted."""
    found = memory_groups()
    assert found is not None
    directory, limit = found
    group = directory / f"clozerec-faults-{pid}"
    group.mkdir()
    try:
        (group / limit).write_text(str(int(limit_mb * 2**20)))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        group.rmdir()
