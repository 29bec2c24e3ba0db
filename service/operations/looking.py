"""What an operator may look at: one device, a list, its trace. Owns the operator's scope in each; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.domain.catalogue import Catalogue
from service.domain.device import Device
from service.errors import ServiceError
from service.operations import selectors, traces
from service.operations.accounts import Operator
from service.operations.picture import picture
from service.operations.requests import bad_request, find_device, not_found, parse_device
from service.operations.selectors import Selection, Selector, ou_of
from service.storage import queries
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.store import SqlStore

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """One page of a list. `after`: give it to see the next; None at the end."""

    devices: list[dict[str, Any]]
    after: str | None


async def get(database: Database, operator: Operator, name: str) -> dict[str, Any]:
    """A device by GROUP/SERIAL. Raises ServiceError: none, or outside of the operator's OU."""
    device, catalogue = await _seen(database, operator, name)
    return _with_names(picture(device), catalogue)


async def states(database: Database, operator: Operator, names: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """By GROUP/SERIAL, in short, what a CONFLICT is about; without what is outside of the operator's OU."""
    catalogue = await SqlStore(database, {}).catalogue()
    async with database.read() as connection:
        found = await queries.devices(connection, database.sealer, serials=list(names))
    return {
        f"{one.group_id}/{one.serial}": _line(one, _NOW)
        for one in found
        if (one.group_id, one.serial) in names and operator.may_see(ou_of(one, catalogue.groups.get(one.group_id)))
    }


def _with_names(shown: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """With the names of the versions that it speaks of, where they are ours."""
    for of, name in (
        ("firmware_version_id", "firmware_version"),
        ("installed", "installed_version"),
        ("target", "target_version"),
    ):
        version = catalogue.versions.get(shown.get(of, ""))
        if version is not None:
            shown[name] = version.name
    return shown


async def list_page(
    database: Database,
    operator: Operator,
    selector: Selector,
    *,
    now: datetime,
    after: str | None = None,
    limit: int = 50,
) -> Seen:
    """Devices by name; an empty selector is everything that the operator may see. Raises ServiceError BAD_REQUEST.

    A successor is selected by its own place and shown only where the thing that it is to have may be seen too.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise bad_request("limit_illegal", f"a page has 1 to {MAX_PAGE} devices")
    if not selector.is_empty:
        selectors.check(selector)
    last = None
    if after is not None:
        group_id, serial = parse_device(after)
        if group_id is None:
            raise bad_request("device_illegal", "the next page begins after a GROUP/SERIAL")
        last = (group_id, serial)
    async with database.read() as connection:
        names = await selectors.names_page(
            connection, Selection(selector, operator.scope, now), after=last, limit=limit + 1
        )
        found = await queries.devices(connection, database.sealer, serials=names[:limit])
    groups = (await SqlStore(database, {}).catalogue()).groups
    of = {(one.group_id, one.serial): one for one in found if operator.may_see(ou_of(one, groups.get(one.group_id)))}
    shown = [_line(of[name]) for name in names[:limit] if name in of]
    return Seen(shown, "/".join(names[limit - 1]) if len(names) > limit else None)


async def trace(database: Database, operator: Operator, name: str, *, limit: int = 20) -> dict[str, Any]:
    """The newest steps of a device, oldest first, and who held its thing before and does now, as far as it may be seen.

    Raises ServiceError as `get`.
    """
    await _seen(database, operator, name)
    found = await traces.of_device(database, name)
    before = [str(one.name) for one in found.before if await _may_see(database, operator, str(one.name))]
    now = str(found.now) if found.now and await _may_see(database, operator, str(found.now)) else None
    shown = {"steps": [_step(one) for one in found.steps[-limit:]], "before": before, "now": now}
    return {name: value for name, value in shown.items() if value or name == "steps"}


def _step(step: traces.Step) -> dict[str, Any]:
    return {
        "at": to_ms(step.trace.at),
        "verb": step.trace.verb,
        "step": step.trace.step,
        **({"code": step.trace.code} if step.trace.code else {}),
        **({"cause": step.trace.cause, "hint": step.hint} if step.trace.cause else {}),
        **({"detail": step.trace.detail} if step.trace.detail else {}),
    }


async def _may_see(database: Database, operator: Operator, name: str) -> bool:
    try:
        await _seen(database, operator, name)
    except ServiceError:
        return False
    return True


async def _seen(database: Database, operator: Operator, name: str) -> tuple[Device, Catalogue]:
    if parse_device(name)[0] is None:  # who else has this serial is not for everybody to know
        raise bad_request("device_illegal", "name a device as GROUP/SERIAL", name[:80])
    async with database.read() as connection:
        found = await find_device(connection, name)
        devices = await queries.devices(connection, database.sealer, serials=[(found.group_id, found.serial)])
    device = next((one for one in devices if one.serial == found.serial), None)
    if device is None:
        raise not_found("device_unknown", f"no device {name[:80]}")
    catalogue = await SqlStore(database, {}).catalogue()
    if not operator.may_see(ou_of(device, catalogue.groups.get(device.group_id))):
        raise ServiceError("FORBIDDEN", "outside of your OU", cause="out_of_scope")
    return device, catalogue


_NOW = frozenset({"state", "thing", "name", "ou", "environment", "batch", "rev", "firmware", "moving", "successor"})
_LINE = _NOW - {"successor"} | {"group", "serial"}


def _line(device: Device, kept: frozenset[str] = _LINE) -> dict[str, Any]:
    return {name: value for name, value in picture(device).items() if name in kept}
