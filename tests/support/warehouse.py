"""A warehouse for tests: a device type, a site and an order with units on it, all made by operators' commands."""

from __future__ import annotations

import itertools

from service.operations.accounts import THIS_MACHINE, Operator
from service.operations.command_rows import Status
from service.operations.commands import Commands
from service.operations.outcomes import Outcome
from service.storage import warehouse_queries as queries
from service.storage.database import Database
from tests.support.commands import ask
from tests.support.storage import DERIVED

SETTINGS = {"features": {"kiosk": True}, "payment": {"terminal": "T1"}, "network": {"ssid": "hall"}}
SITE = {"name": "hall-1", "ou": "acme/eu/hall-1", "title": "First hall"}
_IDS = itertools.count()


class Warehouse:
    """Asks as one operator; every command has an id of its own."""

    def __init__(self, commands: Commands, operator: Operator = THIS_MACHINE) -> None:
        self.commands, self.operator = commands, operator

    async def ask(self, verb: str, *, dry_run: bool = False, **arguments: object) -> Status:
        request = ask(f"w-{next(_IDS)}", arguments=arguments, dry_run=dry_run)
        return await self.commands.submit(self.operator, verb, request)

    async def results(self, verb: str, *, dry_run: bool = False, **arguments: object) -> list[str]:
        """Of each row: changed, unchanged, or the cause of its refusal."""
        status = await self.ask(verb, dry_run=dry_run, **arguments)
        return [one.cause or one.result.value for one in status.outcomes]

    async def done(self, verb: str, **arguments: object) -> tuple[Outcome, ...]:
        """What must not be refused."""
        status = await self.ask(verb, **arguments)
        assert status.command.refused == 0, status.outcomes
        return status.outcomes

    async def furnish(self, *serials: str, group: str = DERIVED.group_id, order: str = "SO-1") -> None:
        """The type `tablet`, the site `hall-1` and an order for it with these units."""
        await self.done("create-type", types=[{"name": "tablet", "group": group}])
        await self.done("create-site", sites=[SITE])
        await self.done("enter-order", rows=[{"order": order, "site": "hall-1", "type": "tablet"}])
        if serials:
            await self.done("enter-order", rows=[{"order": order, "serial": one} for one in serials])


async def unit_of(database: Database, serial: str, group: str = DERIVED.group_id):
    async with database.read() as connection:
        return (await queries.units(connection, [(group, serial)])).get((group, serial))


async def steps_of(database: Database, serial: str, group: str = DERIVED.group_id) -> list[str]:
    async with database.read() as connection:
        return [one.step for one in await queries.visits(connection, (group, serial))]


async def put_unit(database: Database, unit) -> None:
    """As a device's own calls leave it."""
    from service.storage import warehouse_writes as writes

    async with database.write() as transaction:
        await writes.put_units(transaction.connection, [unit])
