"""SQLite's write-ahead log, read just far enough to tell that its tail was torn.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")


def frames_in(path: Path) -> int:
    """How many frames of its current round a log begins, whole or not; 0 for a log that is missing or empty.

    A log is written round after round over itself; the salts in its header tell this round's frames from older ones.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return 0
            _, _, page_size, _, *salts = _HEADER.unpack(header)[:6]
            num_frames = 0
            for start in range(_HEADER.size, size, _FRAME_HEADER.size + page_size):
                file.seek(start)
                frame = file.read(_FRAME_HEADER.size)
                if len(frame) == _FRAME_HEADER.size and list(_FRAME_HEADER.unpack(frame)[2:4]) != salts:
                    break
                num_frames += 1
            return num_frames
    except FileNotFoundError:
        return 0
