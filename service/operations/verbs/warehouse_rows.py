"""What the warehouse's verbs share: rows that are each done or refused for themselves, names, scope, what is told.

Owns no verb. A row's outcome is numbered in the order asked, so a caller finds his row again; what is no unit is named
by its noun, as in `site/hall-1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain.device import Device
from service.domain.event import Event
from service.domain.warehouse import Equipment, IllegalStepError, Site, Visit
from service.errors import ServiceError
from service.operations.outcomes import Outcome, Result, refused
from service.operations.requests import bad_request, conflict, parse_device
from service.operations.selectors import is_within
from service.operations.verbs.making import Made
from service.operations.verbs.verb import World
from service.storage import warehouse_writes as writes
from service.storage.warehouse_queries import Name

MAX_ROWS = 100  # in one command; the command line's imports send a page after the other
Row = TypeVar("Row")


def decide(
    rows: Iterable[Row], name_of: Callable[[Row], Name], take: Callable[[Row], bool], *, first: int = 0
) -> tuple[Outcome, ...]:
    """One outcome for each row, in order. `take` says whether the row changes anything, or refuses by raising."""
    outcomes = []
    for number, row in enumerate(rows, start=first):
        name, of = name_of(row), f"{number:06d}"
        try:
            changed = take(row)
        except ServiceError as error:
            outcomes.append(refused(of, *name, error))
        except IllegalStepError as error:
            illegal = conflict("unit_step", str(error))
            outcomes.append(refused(of, *name, illegal))
        else:
            outcomes.append(Outcome(of, *name, Result.CHANGED if changed else Result.UNCHANGED))
    return tuple(outcomes)


def check_word(what: str, text: str) -> None:
    """Raise ServiceError BAD_REQUEST unless it is a name as groups have."""
    if not ids.is_group_id(text):
        raise bad_request("name_illegal", f"{what} is 1 to 64 of A-Z a-z 0-9 . _ -", text[:80])


def check_scope(ou: str | None, world: World) -> None:
    """Raise ServiceError FORBIDDEN unless that OU is the operator's."""
    if not is_within(ou, world.scope):
        raise ServiceError("FORBIDDEN", f"{ou or 'no OU'} is outside of {world.scope}", cause="out_of_scope")


def unit_name(text: str) -> Name:
    """Group and serial of GROUP/SERIAL. Raises ServiceError BAD_REQUEST."""
    group_id, serial = parse_device(text)
    if group_id is None:
        raise bad_request("device_illegal", "name a unit as GROUP/SERIAL", text[:80])
    return group_id, serial


@dataclass
class Done:
    """What the rows of one command have changed so far, unit by unit."""

    account: str
    now: datetime
    command_id: str
    units: dict[Name, Equipment] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    devices: dict[str, tuple[Device | None, Device]] = field(default_factory=dict)  # by device_id
    forgotten: list[Name] = field(default_factory=list)  # their item reports are of an earlier call of `stage`

    def keep(self, unit: Equipment, step: str, site: Site | None, order_id: str | None = None, note: str = "") -> None:
        """Store the unit, and that it was there."""
        name = (unit.group_id, unit.serial)
        self.units[name] = unit
        self.visits.append(Visit(*name, step, self.now, order_id, unit.site, self.account, note))
        data = {"order": order_id, "site": unit.site, "note": note or None}
        self.events.append(
            Event(
                kind=step,
                group_id=unit.group_id,
                serial=unit.serial,
                ou=site.ou if site is not None else None,
                command_id=self.command_id,
                data={name: value for name, value in data.items() if value is not None},
                at=self.now,
            )
        )

    def change(self, before: Device | None, after: Device) -> None:
        if before is None or before is not after:
            first = self.devices.get(after.device_id, (before, after))[0]
            self.devices[after.device_id] = (first, after)

    def made(self, outcomes: Sequence[Outcome], more: dict[str, object] | None = None) -> Made:
        async def write(connection: AsyncConnection) -> None:
            await writes.put_units(connection, self.units.values())
            await writes.add_visits(connection, self.visits)
            await writes.forget_reports(connection, self.forgotten)

        return Made(tuple(outcomes), tuple(self.devices.values()), tuple(self.events), more or {}, write)


def begun(world: World) -> Done:
    return Done(world.account, world.now, world.command_id)
