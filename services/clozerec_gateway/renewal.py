"""After a switch to a bundle of another text model: items whose content is of the last one are embedded again.

In the background, in small batches, for as long as the gateway runs: a gateway that has yet to switch may still bring
content of the old model. Where several gateways do it at once, the encoder's cache has what another one asked for.
"""

from __future__ import annotations

import asyncio

from clozerec_core.errors import ClozerecError
from clozerec_core.telemetry import get_logger
from clozerec_gateway.loaded import LoadedBundles

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
"""Between looks; doubled while there is nothing to do, or it fails."""

log = get_logger("renewal")


class ContentRenewal:
    """Keeps content vectors in the space of the bundle that is current."""

    def __init__(self, bundles: LoadedBundles) -> None:
        self._bundles = bundles

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._bundles.switched.clear()
            pause_s = FIRST_PAUSE_S if await self._look() else min(LONGEST_PAUSE_S, 2 * pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._bundles.switched.wait()
                pause_s = FIRST_PAUSE_S
            except TimeoutError:
                pass

    async def _look(self) -> bool:
        """Whether something was done, so that more may be left."""
        pipeline = self._bundles.current
        try:
            num_embedded = await pipeline.items.embed_again()
        except Exception as error:  # the next look may have more luck
            known = isinstance(error, ClozerecError)
            log.warning("content_not_renewed", message=str(error), exc_info=None if known else error)
            return False
        if num_embedded:
            log.info("content_renewed", count=num_embedded, bundle_id=pipeline.manifest.bundle_id)
        return bool(num_embedded)
