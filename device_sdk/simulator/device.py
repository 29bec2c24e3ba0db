"""One virtual device: power-up, core, reboot, power cut, and again.

Owns what outlives a power cut (flash and slots), the times that are measured, and the randomness of one device. The
protocol is the real core's, on the real asyncio driver.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_sdk.core import actions, status
from device_sdk.core.identity import Identity, Policy
from device_sdk.core.ports import Crypto, Product
from device_sdk.core.staging import first_client
from device_sdk.drivers.aio import SHUTDOWN, STOPPED, AiomqttTransport, AnyClient, Driver, Transport, ended
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller, MemoryItems, SharedChunks
from device_sdk.simulator.power import Power, PowerLostError
from device_sdk.simulator.record import RecordingTransport, Reply

OFF = "off"


@dataclass(frozen=True, slots=True)
class PowerPlan:
    """Power cuts of one device: `cuts` of them, each at a flash or installer operation 1..`within` after a power-up or,
    for the share `timed` of them, at a random moment of its first `within_s` seconds. Off for `off_s`; a reboot takes
    `reboot_s`.
    """

    cuts: int = 0
    within: int = 200
    within_s: float = 5.0
    off_s: float = 0.05
    reboot_s: float = 0.0
    timed: float = 0.5


class VirtualDevice:
    """A device that keeps nothing on disk. run() it; `status`, `online_s`, `confirmed_s` may be read at any time.

    `target` is the version_id (or name) that counts as confirmed; None: any version that did not come from the
    factory. `on_reply` gets every reply received. `rng` makes everything of this device that is random.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        rng: random.Random,
        policy: Policy | None = None,
        transport: Transport | None = None,
        shared: SharedChunks | None = None,
        crypto: Crypto | None = None,
        power_plan: PowerPlan | None = None,
        product: Product | None = None,
        target: str | None = None,
        on_reply: Callable[[Reply], None] = lambda _reply: None,
        on_note: Callable[[actions.Note], None] = lambda _note: None,
    ) -> None:
        self.identity = identity
        self.policy = policy or Policy()
        self.target = target
        self.power = Power(rng)
        self.flash = MemoryFlash(self.power)
        shared = shared or SharedChunks()
        self.installer = MemoryInstaller(self.power, shared, self.policy.chunk_size)
        self.items = MemoryItems(self.power, shared, self.policy.chunk_size)
        self.boxed = asyncio.Event()  # it has left the warehouse's work behind and is off
        self.unpacked = asyncio.Event()  # set it, and a unit that is off starts again
        self.status = status.Status(OFF, None, None, None, None)
        self.boots = 0
        self.online_s: float | None = None
        self.confirmed_s: float | None = None
        self.confirmed = asyncio.Event()
        self._rng = rng
        self._crypto = crypto or FullCrypto()
        self._product = product
        self._plan = power_plan or PowerPlan()
        self._on_reply = on_reply
        self._on_note = on_note
        self._transport = RecordingTransport(transport or AiomqttTransport(), identity, self._replied, self.policy.root)
        self._powered_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Live, through reboots and power cuts, until `stop` is set."""
        self._powered_at = time.monotonic()
        while not stop.is_set():
            off_s = self._plan.reboot_s
            try:
                ended_by = await self._life(stop)
                if ended_by == STOPPED:
                    break
                if ended_by == SHUTDOWN:
                    self.boxed.set()
                    await _either(self.unpacked, stop)
            except PowerLostError:
                off_s = self._plan.off_s
            self.status = status.Status(OFF, None, self.status.version, None, None)
            await _pause(off_s, stop)
        self.status = status.Status(OFF, None, self.status.version, None, None)

    async def _life(self, stop: asyncio.Event) -> str:
        """One boot: "stopped" or "reboot"; PowerLostError when the power was cut."""
        self.power.restore()
        cut_after_s = self._draw_cut()
        self.boots += 1
        self.installer.boot()
        self.items.boot()
        client = first_client(
            self.identity,
            self.policy,
            self.flash,
            self.installer,
            self._crypto,
            self._rng.randbytes,
            self._product,
            self.items,
        )
        driver = Driver(client, transport=self._transport, on_note=self._on_note, on_change=self._changed)
        running = asyncio.create_task(driver.run(stop), name=f"device {self.identity.serial}")
        try:
            await asyncio.wait({running}, timeout=cut_after_s)
        finally:
            if not running.done():
                self.power.cut()
                await ended(running)
        if running.cancelled():
            raise PowerLostError
        return running.result()

    def _draw_cut(self) -> float | None:
        """Plan the next power cut, if any is left: at an operation, or after the seconds returned."""
        if self.power.cuts >= self._plan.cuts:
            return None
        if self._rng.random() < self._plan.timed:
            return self._rng.random() * self._plan.within_s
        self.power.cut_at = self.power.operations + self._rng.randint(1, self._plan.within)
        return None

    def _replied(self, reply: Reply) -> None:
        if self.online_s is None and reply.verb == "online" and reply.ok:
            self.online_s = time.monotonic() - self._powered_at
        self._on_reply(reply)

    def _changed(self, client: AnyClient) -> None:
        now = client.status
        self.status = now
        if self.confirmed_s is None and now.state == status.ONLINE and self._has_target():
            self.confirmed_s = time.monotonic() - self._powered_at
            self.confirmed.set()

    def _has_target(self) -> bool:
        booted = self.installer.booted()
        held = (booted["version_id"], booted["name"])
        return not booted["trial"] and (self.target in held if self.target else held[0] is not None)


async def _either(event: asyncio.Event, stop: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(one.wait()) for one in (event, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
