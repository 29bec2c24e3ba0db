"""Which devices an operator means: a selector, and its pages of devices from the database.

Owns the form of a selector and its statement. Every part given narrows the selection further; a selection is cut to
the operator's OU and below, and names that are unknown or outside of it refuse the whole command. Pages go by device
id, so a device is met once however the selection changes meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, String, and_, bindparam, case, column, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain.device import Device, DeviceState
from service.domain.group import Group
from service.errors import ServiceError
from service.operations.requests import bad_request, check_placement, not_found, parse_device
from service.storage.rows import to_ms
from service.storage.tables import device, product, registration_group, thing

MAX_NAMES = 1000  # named devices or things in one selector; more are a batch, a group or an OU
SHOWN = 20  # names that a refusal repeats

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Selector(BaseModel):
    """What an operator asked for, in his words. At least one part must be given."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    devices: Annotated[tuple[Name, ...] | None, Field(strict=False, min_length=1, max_length=MAX_NAMES)] = None
    things: Annotated[tuple[Name, ...] | None, Field(strict=False, min_length=1, max_length=MAX_NAMES)] = None
    group: Name | None = None
    product: Name | None = None
    ou: Annotated[str, Field(min_length=1, max_length=255)] | None = None  # this one and everything below it
    environment: Name | None = None
    batch: Name | None = None
    state: Annotated[DeviceState | None, Field(strict=False)] = None

    @property
    def is_empty(self) -> bool:
        return not self.model_dump(exclude_none=True)

    def document(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, slots=True)
class Selection:
    """A selector that has been checked, within a scope. `before`: devices registered later are not in it, but for those
    that are named: they were there when the command was checked, whatever the clock has said since.
    """

    selector: Selector
    scope: str | None  # an OU; None: everything
    before: datetime | None


def is_within(ou: str | None, scope: str | None) -> bool:
    """Whether an OU is the scope or below it. What has no OU is in no scope but the whole."""
    return scope is None or (ou is not None and (ou == scope or ou.startswith(scope + "/")))


def ou_of(of: Device, group: Group | None) -> str | None:
    """Where a device belongs: its thing's OU, else its own allocation, else its group's default."""
    if of.thing is not None:
        return of.thing.ou
    return of.ou or (group.default_ou if group is not None else None)


def check(selector: Selector) -> None:
    """Raise ServiceError BAD_REQUEST unless every part is well formed and at least one is given."""
    if selector.is_empty:
        raise bad_request("selector_empty", "say which devices: nothing selects nothing")
    for name in selector.devices or ():
        group_id, _ = parse_device(name)
        if group_id is None:
            raise bad_request("device_illegal", "a selector names devices as GROUP/SERIAL", name[:80])
    for thing_id in selector.things or ():
        if not ids.is_hex_id(thing_id):
            raise bad_request("thing_illegal", "a thing is named by its 32 lower-case hex digits", thing_id[:80])
    for what, word in (("group", selector.group), ("product", selector.product), ("batch", selector.batch)):
        if word is not None and not ids.is_group_id(word):
            raise bad_request("selector_illegal", f"{what} is no legal name", word[:80])
    check_placement(selector.ou, selector.environment)


async def resolve(connection: AsyncConnection, asked: Selection) -> int:
    """How many devices are selected. Raises ServiceError: a name that is not there, outside the scope, or none at all."""
    check(asked.selector)
    await _check_known(connection, asked.selector)
    if asked.selector.devices is not None or asked.selector.things is not None:
        await _check_names(connection, asked)
    total = int((await connection.execute(statement(asked, func.count()), values(asked))).scalar_one())
    if not total:
        raise not_found("selection_empty", "no device is selected")
    return total


async def page(connection: AsyncConnection, asked: Selection, *, after: str, limit: int) -> list[str]:
    """Ids of the next devices, by id after `after`."""
    of_page = statement(asked, device.c.device_id).where(device.c.device_id > after).order_by(device.c.device_id)
    return list((await connection.execute(of_page.limit(limit), values(asked))).scalars())


async def names_page(
    connection: AsyncConnection, asked: Selection, *, after: tuple[str, str] | None, limit: int
) -> list[tuple[str, str]]:
    """(group_id, serial) of the next devices, by name."""
    query = statement(asked, device.c.group_id, device.c.serial).order_by(device.c.group_id, device.c.serial)
    if after is not None:
        query = query.where(
            device.c.group_id >= after[0],
            (device.c.group_id > after[0]) | (device.c.serial > after[1]),
        )
    found = await connection.execute(query.limit(limit), values(asked))
    return [(row[0], row[1]) for row in found]


OU = case(
    (thing.c.thing_id.is_not(None), thing.c.ou),
    else_=func.coalesce(device.c.ou, registration_group.c.default_ou),
)
_ENVIRONMENT = case(
    (thing.c.thing_id.is_not(None), thing.c.environment),
    else_=func.coalesce(device.c.environment, registration_group.c.default_environment),
)


def at_or_below(what: ColumnElement[Any], ou: str) -> ColumnElement[bool]:
    """Not LIKE: a name may hold its wildcards."""
    return or_(what == ou, func.substr(what, 1, len(ou) + 1) == ou + "/")


def statement(asked: Selection, *columns: Any) -> Select[Any]:
    """These columns of the devices that are selected, joined with their group and the thing that they hold.

    To be executed with `values(asked)`.
    """
    selector = asked.selector
    query = select(*columns).select_from(
        device.join(registration_group, registration_group.c.group_id == device.c.group_id).outerjoin(
            thing, thing.c.holder_device_id == device.c.device_id
        )
    )
    if asked.before is not None and selector.devices is None and selector.things is None:
        query = query.where(device.c.registered_at <= to_ms(asked.before))
    if selector.devices is not None:
        query = query.where(device.c.device_id.in_(_NAMED))
    if selector.things is not None:
        query = query.where(thing.c.thing_id.in_(_THINGS))
    exact = {
        device.c.group_id: selector.group,
        registration_group.c.product_id: selector.product,
        _ENVIRONMENT: selector.environment,
        device.c.batch: selector.batch,
        device.c.state: selector.state.value if selector.state is not None else None,
    }
    query = query.where(*(what == value for what, value in exact.items() if value is not None))
    return query.where(*(at_or_below(OU, ou) for ou in (selector.ou, asked.scope) if ou is not None))


def values(asked: Selection) -> dict[str, str]:
    """Names go in as one JSON parameter each."""
    found = {}
    if asked.selector.devices is not None:
        found["devices"] = json.dumps([parse_device(name) for name in dict.fromkeys(asked.selector.devices)])
    if asked.selector.things is not None:
        found["things"] = json.dumps(asked.selector.things)
    return found


_ASKED = func.json_each(bindparam("devices", type_=String)).table_valued(column("value", String), name="asked")
_named = device.alias("named")  # not the statement's own table, which it would be taken for
_NAMED = select(_named.c.device_id).select_from(
    _ASKED.join(
        _named,
        and_(
            _named.c.group_id == func.json_extract(_ASKED.c.value, "$[0]"),
            _named.c.serial == func.json_extract(_ASKED.c.value, "$[1]"),
        ),
    )
)
_ASKED_THINGS = func.json_each(bindparam("things", type_=String)).table_valued(column("value", String), name="ids")
_THINGS = select(_ASKED_THINGS.c.value)


async def _check_known(connection: AsyncConnection, selector: Selector) -> None:
    """A group or a product that nobody made is a slip of the pen, not an empty selection."""
    for what, name, where in (
        ("group", selector.group, registration_group.c.group_id),
        ("product", selector.product, product.c.product_id),
    ):
        if name is not None and (await connection.execute(select(where).where(where == name))).first() is None:
            raise not_found(f"{what}_unknown", f"no {what} {name}")


async def _check_names(connection: AsyncConnection, asked: Selection) -> None:
    selector = asked.selector
    plain = Selection(Selector(devices=selector.devices, things=selector.things), None, asked.before)
    if selector.devices is not None:
        wanted = set(selector.devices)
        query = select(device.c.group_id, device.c.serial).where(device.c.device_id.in_(_NAMED))
        found = {"/".join(row) for row in await connection.execute(query, values(plain))}
    else:
        wanted, found = set(), set()
    if selector.things is not None:
        wanted |= set(selector.things)
        known = await connection.execute(select(thing.c.thing_id).where(thing.c.thing_id.in_(_THINGS)), values(plain))
        found |= set(known.scalars())
    _refuse(sorted(wanted - found), "NOT_FOUND", "device_unknown", "not registered")
    if asked.scope is not None:
        outside = statement(plain, device.c.group_id, device.c.serial, thing.c.thing_id).where(
            or_(OU.is_(None), ~at_or_below(OU, asked.scope)) if asked.scope else false()
        )
        # By the name that was given: whose device holds another OU's thing is not told.
        names = [
            thing_id if selector.things is not None else f"{group_id}/{serial}"
            for group_id, serial, thing_id in await connection.execute(outside, values(plain))
        ]
        _refuse(sorted(names), "FORBIDDEN", "out_of_scope", f"outside of {asked.scope}")


def _refuse(names: list[str], code: str, cause: str, why: str) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ServiceError(
            code, f"{why}: {', '.join(names[:SHOWN])}{more}", cause=cause, state={"devices": names[:SHOWN]}
        )
