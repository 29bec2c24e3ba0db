"""A pipeline that does nothing by itself, so that the same steps always lead to the same life.

Owns what takes the place of the loops that look at the clock of the machine; ticks are the world's (lifecycle.py).
"""

from __future__ import annotations

import asyncio

from service.logins import expected_logins
from service.pipeline.service import Pipeline


class StillPipeline(Pipeline):
    """Ticks when told, and revokes what was dropped in settle(), not beside what else is done."""

    def __init__(self, **parts) -> None:
        super().__init__(**parts)
        self._rows = parts["upkeep"], parts["store"]
        self._service_key = parts["keys"].service_private_key()
        self.ticker.run = self.revoker.run = asyncio.Event().wait

    async def settle(self, running: asyncio.Task[None]) -> None:
        """Until nothing is left to do. `running`: what serves; a fault of it is raised here."""
        woken = self.revoker._woken
        while woken.is_set() or not (self.idle and self.streamer.idle):
            if running.done():
                running.result()
            if woken.is_set() and self.idle:
                woken.clear()
                await self.revoker.revoke_all()
            await asyncio.sleep(0.0002)  # the database works in a thread, which asking again and again would slow

    async def compare_logins(self) -> None:
        """What a deployment does at every connect and every minute: the brokers let in what the database says.

        A broker that failed may lack the login of a device that asked once and is gone; nothing else brings it there.
        """
        for environment, granter in self.granters.items():
            await granter.reconcile(expected_logins(*self._rows, environment, self._service_key))
