"""The second half of a demo: what an operator does with devices that are in service.

Owns the two commands, a reprovision and a replacement, given through the operators' engine while the service runs, and
the watching until each device has ended where it was sent. Tells what happens one line at a time.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from device_sdk.core.identity import Identity
from device_sdk.simulator.device import VirtualDevice
from device_sdk.simulator.fleet import Fleet
from service.credentials.keyfile import KeyFile
from service.demo.world import GROUP, SECOND_ENVIRONMENT, World, identity_like
from service.domain.device import Device, DeviceState
from service.installation import domain_environments
from service.operations import devices
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.storage.database import Database

MOVED_DEVICES = 5
SECOND_OU = "demo/second"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Lives:
    """How many devices have moved, of how many that were sent, and whether the replacement holds its thing."""

    sent: int
    moved: int
    replaced: bool

    @property
    def complete(self) -> bool:
        return self.moved == self.sent and self.replaced


class Afterwards:
    """`say` gets each line; `power_up` runs one more device until the demo ends."""

    def __init__(
        self, world: World, fleet: Fleet, say: Callable[[str], None], power_up: Callable[[VirtualDevice], None]
    ) -> None:
        self._world = world
        self._fleet = fleet
        self._say = say
        self._power_up = power_up
        self._asked = 0

    async def run(self, timeout_s: float) -> Lives:
        """Move up to five devices and replace the last one. Raises ServiceError, KeyFileError."""
        settings = self._world.settings
        self._database = await Database.open(
            settings.database_path, KeyFile.load(settings.key_file).sealer(), check=False
        )
        self._commands = Commands(self._database, domain_environments(settings), random_bytes=os.urandom)
        sent = [identity.serial for identity in self._world.identities[:MOVED_DEVICES]]
        moved: list[str] = []
        replaced = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._move(sent, moved)
                replaced = await self._replace(self._world.identities[-1])
        except TimeoutError:
            self._say("not everything has ended in time")
        finally:
            await self._database.close()
        return Lives(len(sent), len(moved), replaced)

    async def _move(self, sent: list[str], moved: list[str]) -> None:
        before = {serial: await self._show(serial) for serial in sent}
        self._say(f"reprovision: {', '.join(sent)} to {SECOND_OU} in environment {SECOND_ENVIRONMENT}")
        await self._ask("reprovision", sent, ou=SECOND_OU, environment=SECOND_ENVIRONMENT)
        while len(moved) < len(sent):
            await asyncio.sleep(_LOOK_S)
            for serial in [one for one in sent if one not in moved]:
                now, then = await self._show(serial), before[serial]
                if now.thing is None or then.thing is None or now.thing.environment != SECOND_ENVIRONMENT:
                    continue
                moved.append(serial)
                kept = (now.group_id, now.key, now.thing.thing_id) == (then.group_id, then.key, then.thing.thing_id)
                self._say(
                    f"moved: {serial} is in {now.thing.environment}, as {now.thing.name!r}"
                    + ("; group, key and thing are as before" if kept else "; group, key or thing CHANGED")
                )

    async def _replace(self, old: Identity) -> bool:
        """Whether the new device holds the old one's thing and runs the target."""
        thing = (await self._show(old.serial)).thing
        assert thing is not None
        new = identity_like(old, f"{old.serial}-NEW", os.urandom(32))
        self._say(f"replace: {old.serial} by {new.serial}, a device with its own key that was never registered")
        key = base64.b64encode(new.key or b"").decode()
        await self._ask("replace", [old.serial], new=f"{GROUP}/{new.serial}", device_key=key)
        device = self._fleet.add(new)
        self._power_up(device)
        await device.confirmed.wait()
        holder, out = await self._show(new.serial), await self._show(old.serial)
        if holder.thing is None or holder.thing.thing_id != thing.thing_id or out.state is not DeviceState.REPLACED:
            return False
        self._say(f"replaced: {new.serial} is {thing.name!r} now; {old.serial} is let in no more")
        return True

    async def _ask(self, verb: str, serials: list[str], **arguments: Any) -> None:
        self._asked += 1
        asked = {
            "id": str(self._asked),
            "selector": {"devices": [f"{GROUP}/{serial}" for serial in serials]},
            "arguments": arguments,
        }
        await self._commands.submit(THIS_MACHINE, verb, Request.model_validate(asked))

    async def _show(self, serial: str) -> Device:
        return await devices.show(self._database, f"{GROUP}/{serial}")
