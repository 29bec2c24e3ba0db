"""A site with two environments, each on its own pair of real Mosquittos, and one service for both.

Owns the second environment; everything else is site.py's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.render import render
from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.installation import broker_plan, domain_environments
from service.logins import expected_logins
from service.mqtt.port import EVERYWHERE, Role
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.settings import load_settings
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.environment_section import environment_section
from tests.support.mosquitto import Mosquittos
from tests.support.ports import free_ports
from tests.support.site import GROUP, Site

EAST = "east"


class TwoPlaces(Site):
    """`local` is where devices come in, `east` where they may be sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "mosquitto")
        bootstrap, api_key, *ours = free_ports(4)
        endpoints = {"bootstrap": bootstrap, "api_key": api_key}
        links = dict(zip(("bootstrap", "operational"), ours, strict=True))
        with self.config.open("a", encoding="utf-8") as file:
            file.write(environment_section(EAST, endpoints, links))
        self.settings = load_settings(self.config)
        self.east = Mosquittos(folder / "unused-east")
        self._asked = time.time_ns()

    async def make(self, **more: object) -> None:
        await super().make(**more)  # type: ignore[arg-type]
        Authority.create(self.settings.ca_dir(EAST), EAST, datetime.now(UTC))
        self.east = Mosquittos(self.folder / "unused-east", load_issuer(self.settings.ca_dir(EAST)))
        self.east.plan = broker_plan(self.settings, EAST)

    async def start_east(self, role: Role) -> None:
        async with self.database() as database:
            key = KeyFile.load(self.settings.key_file).service_private_key()
            store = SqlStore(database, domain_environments(self.settings))
            logins = [one async for one in expected_logins(Upkeep(database), store, EAST, key)]
        await asyncio.to_thread(render, self.east.plan, self.east.issuer, logins, set(), datetime.now(UTC))
        await asyncio.to_thread(self.east.start, role)

    async def stop_east(self, role: Role, number: int = signal.SIGKILL) -> None:
        await asyncio.to_thread(self.east.stop, role, number)

    async def reprovision(self, environment: str, ou: str, **arguments: object) -> str:
        """The whole group is sent there; the command's id."""
        self._asked += 1
        asked = {
            "id": str(self._asked),
            "selector": {"group": GROUP},
            "arguments": {"environment": environment, "ou": ou, **arguments},
        }
        async with self.database() as database:
            commands = Commands(database, domain_environments(self.settings), random_bytes=os.urandom)
            status = await commands.submit(THIS_MACHINE, "reprovision", Request.model_validate(asked))
        return status.command.command_id

    def factory_data(self) -> list[tuple[object, ...]]:
        """What no command may change, as it is stored."""
        groups = self.query("SELECT group_id, key_kind, secret_sealed FROM registration_group ORDER BY 1")
        return groups + self.query("SELECT device_id, group_id, serial, key_sealed FROM device ORDER BY 1")

    async def close(self) -> None:
        await super().close()
        for role in [*self.east.processes]:
            await self.stop_east(role)


@asynccontextmanager
async def two_places(folder: Path) -> AsyncIterator[TwoPlaces]:
    """Made, with all four brokers running and no service yet."""
    site = TwoPlaces(folder)
    try:
        await site.make()
        for role in EVERYWHERE:
            await site.start_broker(role)
            await site.start_east(role)
        yield site
    finally:
        await site.close()
