"""The order dispatch response: which serial numbers go out with which line of a sales order, and with whom they enrol.

Owns its form and what taking it changes, one order in one transaction. Taken again it changes nothing. The secret ones
of the policies are sealed, and never shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError
from sqlalchemy import select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.domain import enrolment
from service.domain.enrolment import Enrolment, IllegalMove, Standing, Unit
from service.domain.warehouse import GONE
from service.errors import ServiceError
from service.operations.enrolment import rows
from service.operations.enrolment.generic import MAX_DEVICES, Form, Id, Name, unreadable
from service.operations.notes import note
from service.operations.requests import bad_request, conflict, not_found
from service.storage.database import Database
from service.storage.enrolment_tables import enrolment_provider, enrolment_state
from service.storage.rows import to_ms
from service.storage.sealing import Sealer, order_policies_aad
from service.storage.warehouse_tables import device_type, equipment, order_line, order_unit, sales_order

MAX_LINES = 1000
MAX_ORDERS = 1000  # in one document
MAX_POLICY_BYTES = 16 * 1024
_SECRET = re.compile(r"passw|secret|\bpin\b|token|credential", re.IGNORECASE)

Serial = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]


class Line(Form):
    line: Annotated[int, Field(ge=1, le=MAX_LINES)]
    serials: Annotated[list[Serial], Field(max_length=MAX_DEVICES)]


class Wish(Form):
    """That the order asks for enrolment: where, for which of the provider's customers, under which policies."""

    provider_id: Id
    organisation: Name
    policies: dict[Annotated[str, Field(min_length=1, max_length=64)], JsonValue] = Field(default_factory=dict)


class Dispatch(Form):
    order_id: Annotated[str, Field(min_length=1, max_length=64)]
    lines: Annotated[list[Line], Field(max_length=MAX_LINES)] = Field(default_factory=list)
    enrolment: Wish | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of one dispatched order."""

    order_id: str
    bound: int = 0  # units new on it
    already: int = 0
    enrolment: Enrolment = Enrolment.NONE


@dataclass
class _Order:
    order_id: str
    sealer: Sealer
    now: datetime
    site: str | None
    groups: dict[int, str] = field(default_factory=dict)  # of each line
    types: dict[int, str] = field(default_factory=dict)
    room: dict[int, int | None] = field(default_factory=dict)  # units that a line still takes; None: any number


def read(data: bytes) -> list[Dispatch]:
    """One dispatched order, or an array of them. Raises ServiceError BAD_REQUEST."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request("dispatch_illegal", "that is no JSON") from error
    several = found if isinstance(found, list) else [found]
    if not 0 < len(several) <= MAX_ORDERS:
        raise bad_request("dispatch_illegal", f"1 to {MAX_ORDERS} orders at a time")
    try:
        return [Dispatch.model_validate(one) for one in several]
    except ValidationError as error:
        raise unreadable(error, "dispatch_illegal") from None


async def take(database: Database, dispatched: Dispatch, *, by: str, now: datetime) -> Taken:
    """Raises ServiceError; then nothing of this order was changed."""
    async with database.write(audit=False) as transaction:
        connection = transaction.connection
        of = await _open_order(connection, dispatched.order_id, database.sealer, now)
        bound, already = await _bind(connection, of, dispatched)
        state = await _enrol(connection, of, dispatched, bound)
        values: dict[str, Any] = {"state": "dispatched", "dispatched_at": to_ms(now)}
        await connection.execute(
            update(sales_order)
            .where(sales_order.c.order_id == of.order_id, sales_order.c.state == "open")
            .values(**values)
        )
        arguments = {"order": of.order_id, "bound": len(bound), "enrolment": dispatched.enrolment is not None}
        await note(connection, by, "order-dispatch", arguments, now)
    return Taken(of.order_id, len(bound), already, state)


async def take_each(
    database: Database, dispatched: Sequence[Dispatch], *, by: str, now: datetime
) -> tuple[list[Taken], list[tuple[str, ServiceError]]]:
    """Each by itself: those that were taken, and those that were refused and why. Raises ServiceError UNAVAILABLE."""
    taken, refused = [], []
    for one in dispatched:
        try:
            taken.append(await take(database, one, by=by, now=now))
        except ServiceError as error:
            if error.code == "UNAVAILABLE":
                raise
            refused.append((one.order_id, error))
    return taken, refused


async def _open_order(connection: AsyncConnection, order_id: str, sealer: Sealer, now: datetime) -> _Order:
    query = select(sales_order.c.state, sales_order.c.site).where(sales_order.c.order_id == order_id)
    row = (await connection.execute(query)).first()
    if row is None:
        raise not_found("order_unknown", f"no sales order {order_id[:64]!r}")
    if row.state in ("closed", "cancelled"):
        raise conflict("order_state", f"order {order_id} is {row.state}")
    of = _Order(order_id, sealer, now, row.site)
    lines = (
        select(order_line.c.line, order_line.c.device_type, order_line.c.quantity, device_type.c.group_id)
        .join(device_type, device_type.c.name == order_line.c.device_type)
        .where(order_line.c.order_id == order_id)
    )
    for line in await connection.execute(lines):
        of.groups[line.line], of.types[line.line] = line.group_id, line.device_type
        of.room[line.line] = line.quantity or None
    return of


async def _bind(connection: AsyncConnection, of: _Order, dispatched: Dispatch) -> tuple[list[Unit], int]:
    """Units that are new on the order, and how many were on it already."""
    wanted: dict[Unit, int] = {}
    for one in dispatched.lines:
        if one.line not in of.groups:
            raise not_found("line_unknown", f"order {of.order_id} has no line {one.line}")
        for serial in one.serials:
            unit = Unit(of.groups[one.line], serial)
            if not ids.is_serial(serial) or unit in wanted:
                raise bad_request("serial_twice", f"{serial} stands there twice, or is no serial number")
            wanted[unit] = one.line
    there = await _units_of(connection, of.order_id)
    await _check_free(connection, of, wanted)
    new = [unit for unit in wanted if unit not in there]
    moved = [unit for unit in wanted if there.get(unit, wanted[unit]) != wanted[unit]]
    if moved:
        raise conflict("unit_bound", f"{moved[0].serial} is on another line of this order")
    serials = [unit.serial for unit in {*there, *wanted}]
    if len(set(serials)) != len(serials):
        # Providers know serial numbers only: within an order they must be told apart by them.
        raise conflict("serial_ambiguous", "two units of one order have the same serial number")
    _check_room(of, wanted, there)
    await _write_units(connection, of, {unit: wanted[unit] for unit in new})
    return new, len(wanted) - len(new)


async def _units_of(connection: AsyncConnection, order_id: str) -> dict[Unit, int]:
    unit = order_unit.c
    query = select(unit.group_id, unit.serial, unit.line).where(unit.order_id == order_id, unit.released_at.is_(None))
    return {Unit(row.group_id, row.serial): row.line for row in await connection.execute(query)}


async def _check_free(connection: AsyncConnection, of: _Order, wanted: Mapping[Unit, int]) -> None:
    """No unit may be bound to, or enrolled with, another order, be of another type or have gone to another site."""
    unit, state, real = order_unit.c, enrolment_state.c, equipment.c
    names = [(one.group_id, one.serial) for one in wanted]
    done = (Enrolment.NONE.value, Enrolment.UNENROLLED.value)
    for start in range(0, len(names), rows.PAGE):
        page = names[start : start + rows.PAGE]
        bound = select(unit.serial, unit.order_id).where(
            tuple_(unit.group_id, unit.serial).in_(page), unit.released_at.is_(None), unit.order_id != of.order_id
        )
        enrolled = select(state.serial, state.order_id).where(
            tuple_(state.group_id, state.serial).in_(page), state.order_id != of.order_id, state.state.not_in(done)
        )
        for query, cause in ((bound, "unit_bound"), (enrolled, "unit_enrolled")):
            row = (await connection.execute(query)).first()
            if row is not None:
                raise conflict(cause, f"{row.serial} still belongs to order {row.order_id}")
        known = select(real.group_id, real.serial, real.device_type, real.site, real.step)
        for its in await connection.execute(known.where(tuple_(real.group_id, real.serial).in_(page))):
            if its.device_type != of.types[wanted[Unit(its.group_id, its.serial)]]:
                raise conflict("unit_type", f"{its.serial} is a {its.device_type}")
            if its.step in GONE and its.site not in (None, of.site):
                raise conflict("unit_elsewhere", f"{its.serial} is {its.step}, for {its.site}: receive it first")


def _check_room(of: _Order, wanted: Mapping[Unit, int], there: Mapping[Unit, int]) -> None:
    after = {**there, **wanted}
    for line, room in of.room.items():
        if room is not None and sum(1 for at in after.values() if at == line) > room:
            raise conflict("line_full", f"line {line} of order {of.order_id} is for {room} units")


async def _write_units(connection: AsyncConnection, of: _Order, new: Mapping[Unit, int]) -> None:
    if not new:
        return
    values = [
        {
            "order_id": of.order_id,
            "group_id": unit.group_id,
            "serial": unit.serial,
            "line": line,
            "bound_at": to_ms(of.now),
            "released_at": None,
        }
        for unit, line in new.items()
    ]
    statement = upsert(order_unit)
    again = {name: statement.excluded[name] for name in ("line", "bound_at", "released_at")}
    statement = statement.on_conflict_do_update(index_elements=["order_id", "group_id", "serial"], set_=again)
    names = [(unit.group_id, unit.serial) for unit in new]
    for start in range(0, len(values), rows.PAGE):
        await connection.execute(statement, values[start : start + rows.PAGE])
        page = names[start : start + rows.PAGE]
        here = tuple_(equipment.c.group_id, equipment.c.serial).in_(page)
        await connection.execute(update(equipment).where(here).values(site=of.site))


async def _enrol(connection: AsyncConnection, of: _Order, dispatched: Dispatch, bound: list[Unit]) -> Enrolment:
    """Note the wish, and that the units wait for it."""
    wish = dispatched.enrolment
    before = await rows.order(connection, of.order_id, of.sealer)
    if wish is None and not before.enrol:
        return before.standing.order
    changed = False
    if wish is not None:
        changed = await _note_wish(connection, of, before, wish)
        before = await rows.order(connection, of.order_id, of.sealer)
    units = set(bound) if wish is None or before.standing.units else set(await _units_of(connection, of.order_id))
    try:
        after = enrolment.wanted(before.standing, units | set(bound))
        if changed and after.held and after.order is Enrolment.ENROLLED:
            after = enrolment.overridden(after)
    except IllegalMove as error:
        raise conflict("enrolment_state", f"order {of.order_id}: {error}") from error
    await rows.put_standing(connection, before, after, of.now)
    return after.order


async def _note_wish(connection: AsyncConnection, of: _Order, before: rows.OrderOf, wish: Wish) -> bool:
    """Whether the policies of an order that asked before have changed."""
    found = select(enrolment_provider.c.disabled_at).where(enrolment_provider.c.provider_id == wish.provider_id)
    if (await connection.execute(found)).first() is None:
        raise not_found("provider_unknown", f"no provider {wish.provider_id[:64]!r}")
    same = (before.provider_id, before.organisation) == (wish.provider_id, wish.organisation)
    if before.enrol and not same and not _is_idle(before.standing):
        raise conflict("order_enrolled", f"order {of.order_id} is with {before.provider_id} for {before.organisation}")
    if len(json.dumps(wish.policies)) > MAX_POLICY_BYTES:
        raise bad_request("dispatch_illegal", f"policies have at most {MAX_POLICY_BYTES} bytes")
    if before.enrol and same and dict(before.policies) == wish.policies:
        return False
    secret = {name: value for name, value in wish.policies.items() if is_secret(name, value)}
    plain = {name: value for name, value in wish.policies.items() if name not in secret}
    sealed = of.sealer.seal(json.dumps(secret).encode(), order_policies_aad(of.order_id)) if secret else None
    values = {
        "enrol": True,
        "provider_id": wish.provider_id,
        "organisation": wish.organisation,
        "policies": json.dumps(plain, ensure_ascii=False),
        "policies_sealed": sealed,
    }
    await connection.execute(update(sales_order).where(sales_order.c.order_id == of.order_id).values(**values))
    return before.enrol


def is_secret(name: str, value: Any) -> bool:
    """Whether a policy holds a secret: by its name, or by the name of something in it."""
    if _SECRET.search(name):
        return True
    if isinstance(value, dict):
        return any(is_secret(inner, of) for inner, of in value.items())
    return isinstance(value, list) and any(is_secret("", one) for one in value)


def _is_idle(of: Standing) -> bool:
    return of.order in (Enrolment.NONE, Enrolment.UNENROLLED)
