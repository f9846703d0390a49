"""Follow what callers change in the catalogue through other gateways.

An answer looks nothing up in the store of notes; so that it does not take for known what another gateway deleted, each
asks now and then whether there is news, which is one number as long as there is none.
"""

from __future__ import annotations

import asyncio

from clozerec_core.telemetry import get_logger
from clozerec_gateway.events import HistoryStoreGone
from clozerec_gateway.loaded import LoadedBundles

PAUSE_S = 1.0
PAUSES_PER_READING = 20
"""Reading takes at most one part in so many of the time: all notes are read while others change the catalogue."""
PAUSE_GONE_S = 5.0

log = get_logger("following")


class NotesFollower:
    """Keeps pictures of the catalogue near to what all gateways were told."""

    def __init__(self, bundles: LoadedBundles) -> None:
        self._bundles = bundles

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            start_s = now_s()
            is_read = await self._look()
            pause_s = max(PAUSE_S, PAUSES_PER_READING * (now_s() - start_s))
            await asyncio.sleep(pause_s if is_read else PAUSE_GONE_S)

    async def _look(self) -> bool:
        try:
            for pipeline in self._bundles.pipelines:
                await pipeline.read_notes()
        except HistoryStoreGone:
            return False  # answers that need the notes ask for themselves, and say so
        except Exception as error:  # the next look may have more luck
            log.warning("notes_not_followed", message=str(error), exc_info=error)
            return False
        return True
