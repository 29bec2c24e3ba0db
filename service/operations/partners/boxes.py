"""Set-top boxes: the factory's list of them, and the sale that links one to a user.

Owns boxes and their keys, and the order in which a link is checked (docs/partners/set-top-boxes.md says it to
partners). A box is a device of its service's group besides: what its sign-in is checked against stands there. Raises
PartnerError for what the partner must mend.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain import event
from service.domain.changes import Changes
from service.domain.device import PublicKey
from service.errors import ServiceError
from service.operations import registration
from service.operations.partners import services
from service.operations.partners.answers import Code, PartnerError, required, taken
from service.operations.partners.services import MAX_KEYS, PartnerService, User
from service.operations.placing import placed
from service.operations.registration import RandomBytes, Registration
from service.operations.requests import not_found
from service.storage.box_tables import box, box_key, partner_user
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.store import SqlBatch, SqlStore
from service.storage.tables import device_public_key

FIELDS = frozenset({"serial_no", "public_keys", "chipset_id", "mac"})
MAX_SERIAL_CHARS = 64
MAX_CHIPSET_CHARS = 32
MAX_MAC_CHARS = 18
_SERIAL = re.compile(r"[A-Za-z0-9-]+\Z")
_MAC_SEPARATORS = str.maketrans("", "", ":-. ")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a factory or a sale says of a box."""

    serial_no: str
    public_keys: tuple[PublicKey, ...]  # index 0 to 7 in the order given
    chipset_id: str | None = None
    mac: str | None = None

    @property
    def mac_key(self) -> str | None:
        """What two spellings of one MAC have in common."""
        return None if self.mac is None else self.mac.translate(_MAC_SEPARATORS).lower()


@dataclass(frozen=True, slots=True)
class Linked:
    box_id: int
    serial_no: str
    user: User


@dataclass(frozen=True, slots=True)
class Box:
    box_id: int
    serial_no: str
    email: str | None
    chipset_id: str | None
    mac: str | None
    keys: int


class Imported(StrEnum):
    IMPORTED = "imported"
    ALREADY_IMPORTED = "already_imported"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RowResult:
    serial_no: str
    result: Imported
    error: PartnerError | None = None


def fields_of(row: Mapping[str, object] | ServiceError) -> dict[str, str | None]:
    """What a row of a file or of a JSON list gives by name; what is no text is not given. Keys may be a list."""
    if isinstance(row, ServiceError):
        return {}
    keys = row.get("public_keys")
    if isinstance(keys, list):
        keys = ";".join(str(one) for one in keys[: MAX_KEYS + 1])
    texts = {name: row.get(name) for name in FIELDS} | {"public_keys": keys}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


def read(fields: Mapping[str, str | None], min_keys: int) -> Asked:
    """A box as it is given by name. The checks stand in the order that partners are told.

    Raises PartnerError REQUIRED, CHIPSET_LENGTH, MAC_LENGTH, VALUE_TAKEN (the same key twice).
    """
    # 1. What must be there.
    serial_no = fields.get("serial_no") or ""
    if not serial_no:
        raise required("serial_no")
    if len(serial_no) > MAX_SERIAL_CHARS or not _SERIAL.match(serial_no):
        raise required("serial_no", f"1 to {MAX_SERIAL_CHARS} letters, digits and -")
    keys = read_keys(fields.get("public_keys"), min_keys)
    # 2. What has a bound.
    chipset_id, mac = fields.get("chipset_id") or None, fields.get("mac") or None
    if chipset_id is not None and (len(chipset_id) > MAX_CHIPSET_CHARS or not chipset_id.isprintable()):
        raise PartnerError(Code.CHIPSET_LENGTH, "invalid length of chipset_id")
    if mac is not None and (len(mac) > MAX_MAC_CHARS or not mac.isprintable()):
        raise PartnerError(Code.MAC_LENGTH, "invalid length of mac")
    return Asked(serial_no, keys, chipset_id, mac)


def read_keys(text: str | None, min_keys: int) -> tuple[PublicKey, ...]:
    """`key0_base64;...;key7_base64`, each a DER SubjectPublicKeyInfo. Raises PartnerError REQUIRED, VALUE_TAKEN."""
    if not text:
        raise required("public_keys")
    # A + that was not escaped in a query arrives as a blank.
    parts = text.strip().removesuffix(";").replace(" ", "+").split(";")
    if not min_keys <= len(parts) <= MAX_KEYS:
        wanted = str(MAX_KEYS) if min_keys == MAX_KEYS else f"{min_keys} to {MAX_KEYS}"
        raise required("public_keys", f"{wanted} keys")
    keys = []
    for index, part in enumerate(parts):
        try:
            keys.append(registration.parse_public_key(index, part))
        except ServiceError as error:
            raise required("public_keys", f"key {index}: {error.public}") from error
    if len({one.spki for one in keys}) != len(keys):
        raise taken("public_keys")
    return tuple(keys)


async def link(
    database: Database,
    service: PartnerService,
    fields: Mapping[str, str | None],
    *,
    now: datetime,
    random_bytes: RandomBytes,
) -> Linked:
    """Link a box, made now where there is none, to a user of the service. Raises PartnerError, and then nothing changed.

    A repeat of what was done is told ALREADY_LINKED.
    """
    # 1. to 3. The parameters, before anything is looked up.
    for name in ("serial_no", "email", "public_keys"):
        if not fields.get(name):
            raise required(name)
    asked = read(fields, service.min_keys)
    email = services.read_email(fields.get("email"))
    async with SqlStore(database, {}).batch() as batch:
        connection = batch.connection
        # 4. The user.
        user = await services.user_of(connection, service.name, email)
        if user is None:
            raise PartnerError(Code.EMAIL_UNKNOWN, "email does not exist")
        # 5. The box must be free.
        found = await _box(connection, service.name, asked.serial_no)
        if found is not None and found.user_id is not None:
            if found.user_id == user.user_id:
                raise PartnerError(Code.ALREADY_LINKED, "STB exists and linked")
            raise PartnerError(Code.ASSIGNED, "STB is already assigned")
        # 6. Its keys and its MAC must be nobody else's.
        await _check_unique(connection, asked, 0 if found is None else found.box_id)
        # 7. Done.
        box_id = await _store(batch, service, asked, found, now, random_bytes)
        values = {"user_id": user.user_id, "linked_at": to_ms(now)}
        await connection.execute(update(box).where(box.c.box_id == box_id).values(**values))
        batch.saved = True
    return Linked(box_id, asked.serial_no, user)


async def import_page(
    database: Database,
    service: PartnerService,
    page: Sequence[Mapping[str, str | None]],
    *,
    now: datetime,
    random_bytes: RandomBytes,
) -> list[RowResult]:
    """The factory's boxes, in one transaction; one result for each, in order. The same data again is no error."""
    results = []
    async with SqlStore(database, {}).batch() as batch:
        for fields in page:
            try:
                asked = read(fields, 1)
                found = await _box(batch.connection, service.name, asked.serial_no)
                if found is not None and await _is_same(batch.connection, found, asked):
                    results.append(RowResult(asked.serial_no, Imported.ALREADY_IMPORTED))
                    continue
                if found is not None:
                    raise taken("serial_no")
                await _check_unique(batch.connection, asked, 0)
                await _store(batch, service, asked, None, now, random_bytes)
            except PartnerError as error:
                results.append(RowResult(str(fields.get("serial_no") or "")[:MAX_SERIAL_CHARS], Imported.ERROR, error))
            else:
                batch.saved = True
                results.append(RowResult(asked.serial_no, Imported.IMPORTED))
    return results


async def unlink(database: Database, service: str, serial_no: str) -> None:
    """A box comes back: it is nobody's, and can be sold again. Raises ServiceError NOT_FOUND."""
    async with database.write() as transaction:
        of = box.c
        done = await transaction.connection.execute(
            update(box)
            .where(of.service == service, of.serial_no == serial_no, of.user_id.is_not(None))
            .values(user_id=None, linked_at=None)
        )
        if not done.rowcount:
            raise not_found("box_not_linked", f"{service} has no box {serial_no[:MAX_SERIAL_CHARS]} that is linked")


async def list_page(database: Database, service: PartnerService, *, after: int = 0, limit: int = 1000) -> list[Box]:
    """Boxes by id, after that one."""
    keys = select(func.count()).where(box_key.c.box_id == box.c.box_id).scalar_subquery()
    query = (
        select(box.c.box_id, box.c.serial_no, partner_user.c.email, box.c.chipset_id, box.c.mac, keys)
        .outerjoin(partner_user, partner_user.c.user_id == box.c.user_id)
        .where(box.c.service == service.name, box.c.box_id > after)
        .order_by(box.c.box_id)
        .limit(limit)
    )
    async with database.read() as connection:
        return [Box(*row) for row in await connection.execute(query)]


async def _box(connection: AsyncConnection, service: str, serial_no: str) -> Row[tuple[object, ...]] | None:
    query = select(box).where(box.c.service == service, box.c.serial_no == serial_no)
    return (await connection.execute(query)).one_or_none()


async def _is_same(connection: AsyncConnection, found: Row[tuple[object, ...]], asked: Asked) -> bool:
    query = select(box_key.c.spki).where(box_key.c.box_id == found.box_id).order_by(box_key.c.key_index)
    keys = (await connection.execute(query)).scalars().all()
    same = (found.chipset_id, found.mac_key) == (asked.chipset_id, asked.mac_key)
    return same and list(keys) == [one.spki for one in asked.public_keys]


async def _check_unique(connection: AsyncConnection, asked: Asked, own: int) -> None:
    """`own`: the id of the box that may have them, 0 for none. Raises PartnerError VALUE_TAKEN where another box has one of the keys or the MAC."""
    hashes = [_spki_sha256(one) for one in asked.public_keys]
    keys = select(box_key.c.box_id).where(box_key.c.spki_sha256.in_(hashes), box_key.c.box_id != own)
    if (await connection.execute(keys)).first() is not None:
        raise taken("public_keys")
    if asked.mac_key is not None:
        macs = select(box.c.box_id).where(box.c.mac_key == asked.mac_key, box.c.box_id != own)
        if (await connection.execute(macs)).first() is not None:
            raise taken("mac")


async def _store(
    batch: SqlBatch,
    service: PartnerService,
    asked: Asked,
    found: Row[tuple[object, ...]] | None,
    now: datetime,
    random_bytes: RandomBytes,
) -> int:
    """The box and its device as asked; its id. Raises PartnerError VALUE_TAKEN for a device that is no box of theirs."""
    connection = batch.connection
    values = {"chipset_id": asked.chipset_id, "mac": asked.mac, "mac_key": asked.mac_key}
    if found is None:
        device_id = await _register(batch, service, asked, now, random_bytes)
        row = {"service": service.name, "serial_no": asked.serial_no, "device_id": device_id, "created_at": to_ms(now)}
        box_id = int((await connection.execute(insert(box).returning(box.c.box_id), {**row, **values})).scalar_one())
        await connection.execute(insert(box_key), _key_rows(box_id, asked))
        return box_id
    # What the sale says of a box that nobody has yet counts from now on.
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        await connection.execute(update(box).where(box.c.box_id == found.box_id).values(**given))
    await connection.execute(delete(box_key).where(box_key.c.box_id == found.box_id))
    await connection.execute(insert(box_key), _key_rows(found.box_id, asked))
    of = device_public_key
    await connection.execute(delete(of).where(of.c.device_id == found.device_id))
    keys = [
        {"device_id": found.device_id, "key_index": one.index, "algorithm": one.algorithm.value, "spki": one.spki}
        for one in asked.public_keys
    ]
    await connection.execute(insert(of), keys)
    return int(found.box_id)


async def _register(
    batch: SqlBatch, service: PartnerService, asked: Asked, now: datetime, random_bytes: RandomBytes
) -> str:
    name = (service.group_id, asked.serial_no)
    known = dict((await batch.load(serials=[name])).by_serial)
    if name in known:
        raise taken("serial_no")
    wanted = Registration(*name, public_keys=asked.public_keys)
    _, new = registration.decide(batch.catalogue, [wanted], known, now, random_bytes)
    if not new:
        raise taken("serial_no")
    events = placed((event.of(one, "registered", now) for one in new), batch.catalogue)
    await batch.save(Changes(devices=tuple((None, one) for one in new), events=events))
    return new[0].device_id


def _key_rows(box_id: int, asked: Asked) -> list[dict[str, object]]:
    return [
        {"box_id": box_id, "key_index": one.index, "spki": one.spki, "spki_sha256": _spki_sha256(one)}
        for one in asked.public_keys
    ]


def _spki_sha256(key: PublicKey) -> bytes:
    return hashlib.sha256(key.spki).digest()
