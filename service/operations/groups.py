"""Registration groups and their policies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, insert, select, update

from device_sdk.wire import ids
from service.domain.group import Group, KeyKind, Reactivation
from service.domain.group_secrets import WITH_SECRET
from service.domain.self_registration import MAX_PATTERN_CHARS, MAX_QUOTA
from service.errors import Secret
from service.operations.requests import bad_request, check_placement, conflict, not_found, raise_catalogue_rev
from service.operations.verbs import set_settings
from service.operations.versions import legal_target
from service.storage import catalogue_rows, queries
from service.storage.database import Database
from service.storage.tables import device, product, registration_group, version

MIN_SECRET_BYTES = 16
MAX_SECRET_BYTES = 128  # Azure DPS group keys have 64
NEW_SECRET_BYTES = 32
MAX_HOOK_CHARS = 500
MIN_EXPIRY_S, MAX_EXPIRY_S = 60, 365 * 24 * 3600
MIN_FAILOVER_S, MAX_FAILOVER_S = 300, 30 * 24 * 3600
MIN_LIFE_S, MAX_LIFE_S = 3600, 10 * 365 * 24 * 3600
# What may change: never who the group is, nor what its devices prove themselves with.
CHANGEABLE = frozenset(
    {
        "self_registration", "self_quota", "serial_pattern", "quarantine_ou", "hook", "default_ou", "default_environment",
        "pending_expiry_s", "reactivation", "move_method", "clone_policy", "credential_life_s",
        "failover_environment", "failover_ou", "failover_after_s", "target_version_id", "template_settings",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupView:
    group: Group  # its secret shows as ***
    devices: int
    target: str | None = None  # the name of its own target version


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
    if group.key_kind in WITH_SECRET and group.secret is None:
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
        await connection.execute(insert(registration_group), [catalogue_rows.group_row(group, database.sealer)])
        await raise_catalogue_rev(connection)
    return group, made


async def change(database: Database, group_id: str, changes: Mapping[str, Any]) -> Group:
    """Set policies of a group; `changes` by the names of CHANGEABLE. Devices are judged by them from their next message.

    `target_version_id` may be the name or the id of a version of the group's product. Things that are there keep their
    settings: `template_settings` are those of new and of initialised ones. Raises ServiceError NOT_FOUND, BAD_REQUEST,
    CONFLICT (the target is of a retired release key, or a device of the group would refuse it); then nothing is changed.
    """
    if not changes or not CHANGEABLE.issuperset(changes):
        raise bad_request("group_change_illegal", f"say what changes: {', '.join(sorted(CHANGEABLE))}")
    async with database.write() as transaction:
        connection = transaction.connection
        query = select(registration_group).where(registration_group.c.group_id == group_id)
        row = (await connection.execute(query)).first()
        if row is None:
            raise not_found("group_unknown", f"no group {group_id}")
        before = catalogue_rows.group_of(tuple(row), database.sealer)
        if changes.get("target_version_id") is not None:
            wanted = await legal_target(connection, before, str(changes["target_version_id"]))
            changes = {**changes, "target_version_id": wanted}
        after = replace(before, **changes)
        _check(after)
        if after == before:
            transaction.abandon()
            return before
        changed = {
            name: value for name, value in catalogue_rows.group_row(after, database.sealer).items() if name in changes
        }
        await connection.execute(
            update(registration_group).where(registration_group.c.group_id == group_id).values(**changed)
        )
        await raise_catalogue_rev(connection)
    return after


async def list_all(database: Database, group_id: str | None = None) -> list[GroupView]:
    """Every group, or the one asked for, with the number of its devices."""
    count = (
        select(func.count())
        .where(device.c.group_id == registration_group.c.group_id)
        .correlate(registration_group)
        .scalar_subquery()
    )
    named = (
        select(version.c.name)
        .where(version.c.version_id == registration_group.c.target_version_id)
        .correlate(registration_group)
        .scalar_subquery()
    )
    query = select(*registration_group.columns, count, named).order_by(registration_group.c.group_id)
    if group_id is not None:
        query = query.where(registration_group.c.group_id == group_id)
    async with database.read() as connection:
        older = await queries.old_secrets(connection, database.sealer)
        return [
            GroupView(
                catalogue_rows.group_of(tuple(row)[:-2], database.sealer, older.get(row.group_id, ())), row[-2], row[-1]
            )
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
    if group.secret is not None and group.key_kind not in WITH_SECRET:
        raise bad_request("group_secret_needless", "only the key kinds derived and group have a group secret")
    if not MIN_EXPIRY_S <= group.pending_expiry_s <= MAX_EXPIRY_S:
        raise bad_request("pending_expiry_illegal", f"the expiry is {MIN_EXPIRY_S} to {MAX_EXPIRY_S} seconds")
    if group.self_registration and group.key_kind is KeyKind.INDIVIDUAL:
        raise bad_request("self_registration_illegal", "an unknown device cannot prove an individual key")
    if group.self_registration and group.key_kind is KeyKind.PUBLIC_KEY:
        raise bad_request("self_registration_illegal", "an unknown device cannot prove a key that is not registered")
    check_placement(group.default_ou, group.default_environment)
    _check_self_registration(group)
    _check_hook(group.hook)
    _check_failover(group)
    set_settings.check_all(group.template_settings)
    life_s = group.credential_life_s
    if life_s is not None and not MIN_LIFE_S <= life_s <= MAX_LIFE_S:
        raise bad_request("credential_life_illegal", f"a credential lives {MIN_LIFE_S} to {MAX_LIFE_S} seconds")


def _check_self_registration(group: Group) -> None:
    check_placement(group.quarantine_ou, None)
    pattern, quota = group.serial_pattern, group.self_quota
    if pattern is not None and not (0 < len(pattern) <= MAX_PATTERN_CHARS and pattern.isascii() and pattern.split()):
        raise bad_request(
            "serial_pattern_illegal", f"patterns are 1 to {MAX_PATTERN_CHARS} ASCII characters, such as TH-[0-9]*"
        )
    if quota is not None and not 0 <= quota <= MAX_QUOTA:
        raise bad_request("self_quota_illegal", f"a quota is 0 to {MAX_QUOTA}")


def _check_hook(hook: str | None) -> None:
    """Its form; whether anybody answers there shows when a device activates."""
    if hook is None:
        return
    legal = len(hook) <= MAX_HOOK_CHARS and hook.isascii() and hook.isprintable() and " " not in hook
    scheme, _, rest = hook.partition(":")
    if not legal or scheme not in ("http", "https", "python") or not rest:
        raise bad_request("hook_illegal", "a hook is http://..., https://... or python:NAME")


def _check_failover(group: Group) -> None:
    check_placement(group.failover_ou, group.failover_environment)
    after_s = group.failover_after_s
    if (after_s is None) != (group.failover_environment is None):
        raise bad_request("failover_incomplete", "failover needs an environment and a number of seconds, both or none")
    if after_s is not None and not MIN_FAILOVER_S <= after_s <= MAX_FAILOVER_S:
        raise bad_request("failover_illegal", f"failover waits {MIN_FAILOVER_S} to {MAX_FAILOVER_S} seconds")
