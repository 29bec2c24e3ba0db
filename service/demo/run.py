"""The demo from power-up to the last confirmed device, and what an operator does with devices after that.

Owns the order: make the world, start the service, power the fleet, watch, move and replace, sum up, clean up. The devices are the
simulator's, with the real device core in them; the service is a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from device_sdk.simulator.device import VirtualDevice
from device_sdk.simulator.fleet import Fleet
from service.demo import display
from service.demo.afterwards import Afterwards, Lives
from service.demo.options import DemoOptions
from service.demo.process import DemoError, ServiceProcess
from service.demo.world import PRODUCT, TARGET, World, make_world

T = TypeVar("T")
KEEPS_RELEASE_KEY = "A release key lies on this machine while the demo runs: whoever has it can sign firmware."
POWER_UP_S = 0.5  # devices power up within this time
BYTES_PER_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Summary:
    """Rates are over wall-clock time: activations from the first power-up to the last device's first answered
    `online`, megabytes (10^6 bytes) from the first such answer to the last confirmed device. `lives` is what became of
    the devices that were moved and replaced afterwards; None with a broker of somebody else's, which has no second
    environment beside it.
    """

    devices: int
    confirmed: int
    seconds: float
    bytes: int
    activations_per_second: float
    megabytes_per_second: float
    lives: Lives | None = None

    @property
    def complete(self) -> bool:
        return self.confirmed == self.devices and (self.lives is None or self.lives.complete)


async def run_demo(options: DemoOptions) -> Summary:
    """Run it in a temporary folder that is gone afterwards. Raises DemoError and what making the world raises."""
    with tempfile.TemporaryDirectory(prefix="firstlight-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        size = f"{options.image_bytes / 1024**2:.3g} MiB"
        where = "an embedded broker" if options.broker is None else f"{options.broker.host}:{options.broker.port}"
        print(f"{options.devices} devices, {PRODUCT} {TARGET} of {size}, signed; SQLite, {where}", flush=True)
        print(f"{KEEPS_RELEASE_KEY} This one is gone with the demo's folder.", flush=True)
        if options.broker is not None:
            print("Access control is not exercised: this broker lets everybody in, in both roles.", flush=True)
        world = await make_world(folder, options)
        service = ServiceProcess(world, folder)
        try:
            await service.start()
            return await _run_fleet(world, service, options)
        finally:
            await service.stop()


async def _run_fleet(world: World, service: ServiceProcess, options: DemoOptions) -> Summary:
    fleet = Fleet(world.identities, seed=secrets.randbits(64), jitter_s=POWER_UP_S, target=world.target_version_id)
    shown = display.make_display(fleet.devices, f"{PRODUCT} {TARGET}")
    started = time.monotonic()
    stop = asyncio.Event()
    powered = {asyncio.create_task(fleet.run(stop), name="fleet")}

    def power_up(device: VirtualDevice) -> None:
        powered.add(asyncio.create_task(device.run(stop), name=f"device {device.identity.serial}"))

    try:
        await _watched(asyncio.create_task(_all_confirmed(fleet, options.timeout_s)), shown, service)
        summary = _summary(fleet, started, time.monotonic())
        if options.broker is None and summary.confirmed == summary.devices:
            afterwards = Afterwards(world, fleet, shown.say, power_up)
            lives = await _watched(asyncio.create_task(afterwards.run(options.timeout_s)), shown, service)
            summary = dataclasses.replace(summary, lives=lives)
    finally:
        stop.set()
        shown.close()
        await asyncio.wait(powered)
    return summary


async def _all_confirmed(fleet: Fleet, timeout_s: float) -> None:
    """Until every device is, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for device in list(fleet.devices):
                await device.confirmed.wait()


async def _watched(work: asyncio.Task[T], shown: display.Display, service: ServiceProcess) -> T:
    """What the work gives, while the display is kept up to date. Raises DemoError when the service ends."""
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=display.REFRESH_S)
            shown.update()
            if not service.alive:
                raise DemoError(f"the service ended: {service.last_words()}")
        return await work
    finally:
        work.cancel()


def _summary(fleet: Fleet, started: float, ended: float) -> Summary:
    first_online: dict[str, float] = {}
    for reply in fleet.replies:
        if reply.verb == "online" and reply.ok:
            first_online.setdefault(reply.serial, reply.at)
    measured = fleet.summary()
    activating_s = max(first_online.values(), default=started) - started
    loading_s = ended - min(first_online.values(), default=ended)
    return Summary(
        devices=measured.devices,
        confirmed=measured.confirmed,
        seconds=round(ended - started, 3),
        bytes=measured.bytes,
        activations_per_second=round(len(first_online) / activating_s, 2) if activating_s > 0 else 0.0,
        megabytes_per_second=round(measured.bytes / BYTES_PER_MEGABYTE / loading_s, 3) if loading_s > 0 else 0.0,
    )
