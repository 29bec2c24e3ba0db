"""The demo from power-up to the last confirmed device.

Owns the order: make the world, start the service, power the fleet, watch, sum up, clean up. The devices are the
simulator's, with the real device core in them; the service is a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from device_sdk.simulator.fleet import Fleet
from service.demo import display
from service.demo.options import DemoOptions
from service.demo.process import DemoError, ServiceProcess
from service.demo.world import PRODUCT, TARGET, World, make_world

POWER_UP_S = 0.5  # devices power up within this time
BYTES_PER_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Summary:
    """Rates are over wall-clock time: activations from the first power-up to the last device's first answered
    `online`, megabytes (10^6 bytes) from the first such answer to the last confirmed device.
    """

    devices: int
    confirmed: int
    seconds: float
    bytes: int
    activations_per_second: float
    megabytes_per_second: float


async def run_demo(options: DemoOptions) -> Summary:
    """Run it in a temporary folder that is gone afterwards. Raises DemoError and what making the world raises."""
    with tempfile.TemporaryDirectory(prefix="firstlight-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        size = f"{options.image_bytes / 1024**2:.3g} MiB"
        where = "an embedded broker" if options.broker is None else f"{options.broker.host}:{options.broker.port}"
        print(f"{options.devices} devices, {PRODUCT} {TARGET} of {size}, signed; SQLite, {where}", flush=True)
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
    running = asyncio.create_task(fleet.run_until_confirmed(options.timeout_s), name="fleet")
    try:
        while not running.done():
            await asyncio.wait({running}, timeout=display.REFRESH_S)
            shown.update()
            if not service.alive:
                raise DemoError(f"the service ended: {service.last_words()}")
        await running
    finally:
        shown.close()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({running})
    return _summary(fleet, started, time.monotonic())


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
