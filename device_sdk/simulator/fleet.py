"""A fleet of virtual devices in one process.

Owns the start of each device within the jitter, the end of all, and the summary of times. What the devices share
(chunks, generator, record of replies) is made here.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import IO

from device_sdk.core import actions
from device_sdk.core.identity import Identity, Policy
from device_sdk.core.ports import Crypto
from device_sdk.drivers.aio import AiomqttTransport, Transport
from device_sdk.simulator.device import PowerPlan, VirtualDevice
from device_sdk.simulator.faults import FaultPlan, FaultyTransport
from device_sdk.simulator.memory import SharedChunks
from device_sdk.simulator.record import Reply


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds are from a device's power-up; percentiles are None where no device got that far."""

    devices: int
    online: int
    confirmed: int
    bytes: int
    power_cuts: int
    boots: int
    online_p50_s: float | None
    online_p99_s: float | None
    confirmed_p50_s: float | None
    confirmed_p99_s: float | None


class Fleet:
    """Virtual devices for these identities, each with a generator of its own drawn from `seed`.

    `transport` and `crypto` are shared by all (default: one aiomqtt connection per device, and API keys only); `faults`
    stands before the transport. `replies` holds every reply received, unless `reply_file` (JSON lines) is given.
    """

    def __init__(
        self,
        identities: Iterable[Identity],
        *,
        seed: int,
        policy: Policy | None = None,
        transport: Transport | None = None,
        faults: FaultPlan | None = None,
        power_plan: PowerPlan | None = None,
        jitter_s: float = 1.0,
        target: str | None = None,
        reply_file: IO[str] | None = None,
        crypto: Crypto | None = None,
        on_note: Callable[[Identity, actions.Note], None] = lambda _identity, _note: None,
    ) -> None:
        self.replies: list[Reply] = []
        self._reply_file = reply_file
        self._rng = random.Random(seed)  # noqa: S311  # a simulation: repeatable on purpose
        self._jitter_s = jitter_s
        self._policy = policy
        self._transport = transport or AiomqttTransport()
        self._faults = faults
        self._power_plan = power_plan
        self._target = target
        self._crypto = crypto
        self._on_note = on_note
        self._shared = SharedChunks()
        self.devices = [self._device(identity) for identity in identities]

    def _device(self, identity: Identity) -> VirtualDevice:
        rng = random.Random(self._rng.getrandbits(64))  # noqa: S311  # see above
        transport = self._transport
        if self._faults is not None:
            transport = FaultyTransport(transport, self._faults, random.Random(rng.getrandbits(64)))  # noqa: S311
        return VirtualDevice(
            identity,
            rng=rng,
            policy=self._policy,
            transport=transport,
            shared=self._shared,
            crypto=self._crypto,
            power_plan=self._power_plan,
            target=self._target,
            on_reply=self._record,
            on_note=lambda note: self._on_note(identity, note),
        )

    def add(self, identity: Identity) -> VirtualDevice:
        """One more device; it is not yet powered."""
        device = self._device(identity)
        self.devices.append(device)
        return device

    def clone(self, device: VirtualDevice) -> VirtualDevice:
        """A second unit with the same identity and a copy of flash and firmware, added to the fleet; it is not yet powered."""
        twin = self._device(device.identity)
        twin.flash.copy_from(device.flash)
        twin.installer.copy_from(device.installer)
        self.devices.append(twin)
        return twin

    async def run(self, stop: asyncio.Event) -> None:
        """Power up every device within the jitter, and run all until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                wait_s = self._rng.random() * self._jitter_s
                group.create_task(_power_up(device, wait_s, stop), name=f"power {device.identity.serial}")

    async def run_until_confirmed(self, timeout_s: float) -> bool:
        """Run until every device has confirmed the target; False when `timeout_s` passed first."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.run(stop), name="fleet")
            try:
                async with asyncio.timeout(timeout_s):
                    for device in list(self.devices):
                        await device.confirmed.wait()
            except TimeoutError:
                return False
            finally:
                stop.set()
        return True

    def states(self) -> Counter[str]:
        """How many devices are in which state, for a display."""
        return Counter(device.status.state for device in self.devices)

    def summary(self) -> Summary:
        online = sorted(device.online_s for device in self.devices if device.online_s is not None)
        confirmed = sorted(device.confirmed_s for device in self.devices if device.confirmed_s is not None)
        return Summary(
            devices=len(self.devices),
            online=len(online),
            confirmed=len(confirmed),
            bytes=sum(device.installer.bytes_written for device in self.devices),
            power_cuts=sum(device.power.cuts for device in self.devices),
            boots=sum(device.boots for device in self.devices),
            online_p50_s=percentile(online, 50),
            online_p99_s=percentile(online, 99),
            confirmed_p50_s=percentile(confirmed, 50),
            confirmed_p99_s=percentile(confirmed, 99),
        )

    def _record(self, reply: Reply) -> None:
        if self._reply_file is None:
            self.replies.append(reply)
        else:
            self._reply_file.write(json.dumps(asdict(reply)) + "\n")


def percentile(rising: list[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed; None of none."""
    if not rising:
        return None
    return rising[max(0, -(-len(rising) * percent // 100) - 1)]


async def _power_up(device: VirtualDevice, wait_s: float, stop: asyncio.Event) -> None:
    await asyncio.sleep(wait_s)
    await device.run(stop)
