"""Registration groups and their policies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import func, insert, select

from device_sdk.wire import ids
from service.domain.group import Group, KeyKind, Reactivation
from service.errors import Secret
from service.operations.requests import bad_request, check_placement, conflict, not_found, raise_catalogue_rev
from service.storage import rows
from service.storage.database import Database
from service.storage.tables import device, product, registration_group

MIN_SECRET_BYTES = 16
MAX_SECRET_BYTES = 128  # Azure DPS group keys have 64
NEW_SECRET_BYTES = 32
MIN_EXPIRY_S, MAX_EXPIRY_S = 60, 365 * 24 * 3600
_WITH_SECRET = (KeyKind.DERIVED, KeyKind.GROUP)


@dataclass(frozen=True, slots=True)
class GroupView:
    group: Group  # its secret shows as ***
    devices: int


def parse_secret(text: str) -> Secret:
    """A group secret from base64. Raises ServiceError BAD_REQUEST."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("group_secret_illegal", "the group secret is not base64") from error
    if not MIN_SECRET_BYTES <= len(raw) <= MAX_SECRET_BYTES:
        raise bad_request("group_secret_illegal", f"a group secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")
    return Secret(raw)


async def create(
    database: Database, group: Group, *, random_bytes: Callable[[int], bytes]
) -> tuple[Group, Secret | None]:
    """Make a group; returns it and, where its kind needs a secret and none was given, the new secret.

    That secret can be seen this once only. Raises ServiceError BAD_REQUEST, CONFLICT, NOT_FOUND.
    """
    _check(group)
    made: Secret | None = None
    if group.key_kind in _WITH_SECRET and group.secret is None:
        made = Secret(random_bytes(NEW_SECRET_BYTES))
        group = replace(group, secret=made)
    async with database.write() as transaction:
        connection = transaction.connection
        known = select(product.c.product_id).where(product.c.product_id == group.product_id)
        if (await connection.execute(known)).first() is None:
            raise not_found("product_unknown", f"no product {group.product_id}")
        taken = select(registration_group.c.group_id).where(registration_group.c.group_id == group.group_id)
        if (await connection.execute(taken)).first() is not None:
            raise conflict("group_exists", f"there is a group {group.group_id}")
        await connection.execute(insert(registration_group), [rows.group_row(group, database.sealer)])
        await raise_catalogue_rev(connection)
    return group, made


async def list_all(database: Database, group_id: str | None = None) -> list[GroupView]:
    """Every group, or the one asked for, with the number of its devices."""
    count = (
        select(func.count())
        .where(device.c.group_id == registration_group.c.group_id)
        .correlate(registration_group)
        .scalar_subquery()
    )
    query = select(*registration_group.columns, count).order_by(registration_group.c.group_id)
    if group_id is not None:
        query = query.where(registration_group.c.group_id == group_id)
    async with database.read() as connection:
        return [
            GroupView(rows.group_of(tuple(row)[:-1], database.sealer), row[-1])
            for row in await connection.execute(query)
        ]


async def show(database: Database, group_id: str) -> GroupView:
    """Raises ServiceError NOT_FOUND."""
    found = await list_all(database, group_id)
    if not found:
        raise not_found("group_unknown", f"no group {group_id}")
    return found[0]


def _check(group: Group) -> None:
    if not ids.is_group_id(group.group_id):
        raise bad_request("group_id_illegal", "a group id is 1 to 64 of A-Z a-z 0-9 . _ -")
    if group.key_kind is KeyKind.GROUP and group.reactivation is not Reactivation.OPERATOR:
        # Every device of such a group can speak for all of them.
        raise bad_request("group_needs_operator", "key kind group needs --reactivation operator")
    if group.secret is not None and group.key_kind not in _WITH_SECRET:
        raise bad_request("group_secret_needless", "only the key kinds derived and group have a group secret")
    if not MIN_EXPIRY_S <= group.pending_expiry_s <= MAX_EXPIRY_S:
        raise bad_request("pending_expiry_illegal", f"the expiry is {MIN_EXPIRY_S} to {MAX_EXPIRY_S} seconds")
    if group.self_registration and group.key_kind is KeyKind.INDIVIDUAL:
        raise bad_request("self_registration_illegal", "an unknown device cannot prove an individual key")
    if group.self_registration and group.key_kind is KeyKind.PUBLIC_KEY:
        raise bad_request("self_registration_illegal", "an unknown device cannot prove a key that is not registered")
    check_placement(group.default_ou, group.default_environment)
