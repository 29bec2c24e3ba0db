"""Labels of a batch: made for printing, looked up when one is scanned.

Owns the rows of the table `label` and who gets one. What stands on a label is credentials/labels.py's, what a scan
does domain/onboarding.py's, how a sheet looks sheets.py's.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import String, bindparam, column, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids, limits
from service.credentials import labels as texts
from service.credentials.labels import CODE_BYTES, LabelText
from service.domain import event
from service.domain.changes import Changes
from service.domain.device import Device, DeviceState
from service.domain.group import Group, KeyKind
from service.domain.identity import RANDOM_BYTES, uuid7
from service.domain.onboarding import Label
from service.errors import Secret
from service.operations.placing import placed
from service.operations.registration import RandomBytes
from service.operations.requests import bad_request, check_batch, conflict, not_found
from service.operations.sheets import PrintedLabel
from service.storage import tables
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.sealing import Sealer, label_key_aad
from service.storage.store import SqlBatch, SqlStore

MAX_LABELS = 5000  # in one go: a page of 24 takes half a second to draw
MIN_VALID, MAX_VALID = timedelta(minutes=5), timedelta(days=3650)
SHOWN = 10  # serials that a refusal repeats

of = tables.label.c


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be printed. No serials: every registered device with this batch tag; then the group may be left out."""

    group_id: str | None
    batch: str
    expires_at: datetime
    serials: tuple[str, ...] = ()
    register: bool = False  # make the devices known at once, instead of when their label is scanned
    may_make_keys: bool = False  # keys of kind individual that the service makes; the caller keeps them


async def issue(database: Database, order: Order, *, now: datetime, random_bytes: RandomBytes) -> list[PrintedLabel]:
    """Make one label for each serial, in order, in one transaction; older unused labels of these serials end.

    Raises ServiceError BAD_REQUEST, NOT_FOUND (group, serials of that batch), CONFLICT (a serial whose label was used, a
    batch of several groups).
    """
    expires_at = order.expires_at.replace(microsecond=0)
    _check(order, expires_at, now)
    async with SqlStore(database, {}).batch() as batch:
        group_id = order.group_id or await _group_of(batch.connection, order)
        group = batch.catalogue.groups.get(group_id)
        if group is None:
            raise not_found("group_unknown", f"no group {group_id[: limits.MAX_GROUP_ID_CHARS]!r}")
        serials = order.serials or await _tagged(batch.connection, order.batch, group_id)
        known = (await batch.load(serials=[(group.group_id, serial) for serial in serials])).by_serial
        await _check_unused(batch.connection, group.group_id, serials)
        await _cancel(batch.connection, group.group_id, serials, now)
        maker = _Maker(order, group, batch.sealer, expires_at, now, random_bytes)
        for serial in serials:
            maker.add(serial, registered=(group.group_id, serial) in known)
        await batch.connection.execute(insert(tables.label), maker.rows)
        await _save(batch, maker.new, now)
    return maker.printed


class _Maker:
    """Makes one label after the other: the row, what is printed, the device where it is to be registered."""

    def __init__(
        self, order: Order, group: Group, sealer: Sealer, expires_at: datetime, now: datetime, random_bytes: RandomBytes
    ) -> None:
        self._order = order
        self._group = group
        self._sealer = sealer
        self._expires_at = expires_at
        self._now = now
        self._random_bytes = random_bytes
        self.rows: list[dict[str, Any]] = []
        self.printed: list[PrintedLabel] = []
        self.new: list[Device] = []

    def add(self, serial: str, *, registered: bool) -> None:
        order, group = self._order, self._group
        label = LabelText(Secret(self._random_bytes(CODE_BYTES)), group.group_id, serial, self._expires_at)
        key = None if registered else self._new_key(serial)
        if order.register and not registered:
            self.new.append(self._device(serial, key))
        sealed = None
        if key is not None and not order.register:
            sealed = self._sealer.seal(key.reveal(), label_key_aad(label.label_id))
        self.rows.append(
            {
                "label_id": label.label_id,
                "group_id": group.group_id,
                "serial": serial,
                "batch": order.batch,
                "created_at": to_ms(self._now),
                "expires_at": to_ms(self._expires_at),
                "key_sealed": sealed,
            }
        )
        text = texts.encode(label, self._sealer.label_key)
        shown = None if key is None else base64.b64encode(key.reveal()).decode("ascii")
        self.printed.append(PrintedLabel(text, group.group_id, serial, order.batch, self._expires_at, shown))

    def _new_key(self, serial: str) -> Secret | None:
        kind = self._group.key_kind
        if kind is KeyKind.PUBLIC_KEY and self._order.register:
            raise conflict("public_key_count", f"{serial} must be registered with its public keys first")
        if kind is not KeyKind.INDIVIDUAL:
            return None
        if not self._order.may_make_keys:
            raise conflict(
                "labels_need_keys",
                f"{serial} is not registered and its key kind is individual: name a file for the keys, or register it first",
            )
        return Secret(self._random_bytes(limits.DEVICE_KEY_BYTES))

    def _device(self, serial: str, key: Secret | None) -> Device:
        return Device(
            device_id=uuid7(self._now, self._random_bytes(RANDOM_BYTES)),
            group_id=self._group.group_id,
            serial=serial,
            state=DeviceState.REGISTERED,
            registered_at=self._now,
            key=key,
            batch=self._order.batch,
        )


async def _save(batch: SqlBatch, new: Sequence[Device], now: datetime) -> None:
    await batch.save(
        Changes(
            devices=tuple((None, device) for device in new),
            events=placed((event.of(device, "registered", now) for device in new), batch.catalogue),
            counters={"device_registered": len(new)},
        )
    )


def _check(order: Order, expires_at: datetime, now: datetime) -> None:
    check_batch(order.batch)
    if not now + MIN_VALID <= expires_at <= now + MAX_VALID:
        raise bad_request("labels_expiry", f"labels are valid for 5 minutes to {MAX_VALID.days} days")
    if len(order.serials) > MAX_LABELS:
        raise bad_request("labels_many", f"at most {MAX_LABELS} labels at a time")
    wrong = [serial for serial in order.serials if not ids.is_serial(serial)]
    if wrong:
        raise bad_request("serial_illegal", "a serial is 1 to 128 of A-Z a-z 0-9 . _ : -", ascii(wrong[0])[:80])
    twice = [serial for serial, count in Counter(order.serials).items() if count > 1]
    if twice:
        raise bad_request("serial_twice", f"named twice: {', '.join(twice[:SHOWN])}")


async def _group_of(connection: AsyncConnection, order: Order) -> str:
    """The group of the batch's devices: a label is of one group."""
    if order.serials:
        raise bad_request("labels_group", "say the group of these serials")
    device = tables.device.c
    query = select(device.group_id).where(device.batch == order.batch).distinct().order_by(device.group_id)
    found = list((await connection.execute(query.limit(SHOWN + 1))).scalars())
    if not found:
        raise not_found("batch_empty", f"no device has batch {order.batch}; name group and serials")
    if len(found) > 1:
        raise conflict(
            "labels_groups", f"batch {order.batch} has devices of several groups: {', '.join(found)}; name one"
        )
    return str(found[0])


async def _tagged(connection: AsyncConnection, batch: str, group_id: str) -> tuple[str, ...]:
    device = tables.device.c
    query = select(device.serial).where(device.batch == batch, device.group_id == group_id)
    found = tuple((await connection.execute(query.order_by(device.serial).limit(MAX_LABELS + 1))).scalars())
    if not found:
        raise not_found("batch_empty", f"no device of {group_id} has batch {batch}; name the serials")
    if len(found) > MAX_LABELS:
        raise bad_request("labels_many", f"at most {MAX_LABELS} labels at a time; name the serials")
    return found


_ASKED = func.json_each(bindparam("serials", type_=String)).table_valued(column("value", String), name="asked")
_OF_THESE = of.serial.in_(select(_ASKED.c.value))


async def _check_unused(connection: AsyncConnection, group_id: str, serials: Sequence[str]) -> None:
    query = select(of.serial).where(of.group_id == group_id, _OF_THESE, of.used_at.is_not(None)).order_by(of.serial)
    used = list((await connection.execute(query, {"serials": json.dumps(serials)})).scalars())
    if used:
        raise conflict("label_used", f"already onboarded with a label: {', '.join(used[:SHOWN])}")


async def _cancel(connection: AsyncConnection, group_id: str, serials: Sequence[str], now: datetime) -> None:
    older = update(tables.label).where(of.group_id == group_id, _OF_THESE, of.used_at.is_(None))
    await connection.execute(
        older.where(of.cancelled_at.is_(None)).values(cancelled_at=to_ms(now)), {"serials": json.dumps(serials)}
    )


async def find(connection: AsyncConnection, sealer: Sealer, label_id: str) -> Label:
    """Raises ServiceError NOT_FOUND: a label that we signed and that is not here, e.g. in a restored backup."""
    row = (await connection.execute(select(tables.label).where(of.label_id == label_id))).first()
    if row is None:
        raise not_found("label_unknown", "this label is not known here")
    key = None if row.key_sealed is None else Secret(sealer.open(row.key_sealed, label_key_aad(label_id)))
    created_at, expires_at = from_ms(row.created_at), from_ms(row.expires_at)
    assert created_at is not None
    assert expires_at is not None
    return Label(
        label_id=row.label_id,
        group_id=row.group_id,
        serial=row.serial,
        batch=row.batch,
        created_at=created_at,
        expires_at=expires_at,
        used_at=from_ms(row.used_at),
        used_by=row.used_by,
        cancelled_at=from_ms(row.cancelled_at),
        key=key,
    )


async def users(connection: AsyncConnection, group_id: str, serial: str) -> frozenset[str]:
    """The accounts that have used a label of this serial."""
    query = select(of.used_by).where(of.group_id == group_id, of.serial == serial, of.used_by.is_not(None))
    return frozenset((await connection.execute(query)).scalars())


async def mark_used(
    connection: AsyncConnection, label: Label, account: str, now: datetime, *, command_id: str | None
) -> None:
    """First use. The key that was made with the label is the device's from now on."""
    statement = update(tables.label).where(of.label_id == label.label_id, of.used_at.is_(None))
    await connection.execute(
        statement.values(used_at=to_ms(now), used_by=account, used_command_id=command_id, key_sealed=None)
    )
