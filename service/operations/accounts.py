"""Accounts of fleet operators and integrators: who may log in at the brokers, with what role, for which OU.

Owns the rows and the rules of names. An account's key is random, shown once, and kept sealed, because a broker's list
of logins may have to be made again; the running service takes a change to its brokers within a second.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.errors import Secret, ServiceError
from service.operations.requests import bad_request, check_placement, conflict, not_found
from service.operations.selectors import is_within
from service.operations.verbs.verb import Role
from service.storage.database import Database
from service.storage.operator_tables import account, command, event
from service.storage.rows import from_ms, to_ms
from service.storage.sealing import Sealer, account_key_aad

LOCAL = "local"  # who works with the command on this machine; no account, and none may be called so
RESERVED = frozenset({LOCAL, "firstlight", "firstlight-admin"})
KEY_BYTES = 32
_NAME = re.compile(r"[a-z0-9-]{1,32}\Z")


class AccountKind(StrEnum):
    OPERATOR = "operator"  # asks on pv1/o/{name}
    INTEGRATOR = "integrator"  # is told events on pv1/e/{name}


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    kind: AccountKind
    role: Role
    ou: str | None  # its scope: this OU and everything below it; None: everything
    environment: str | None  # whose broker lets it in; None: every one
    created_at: datetime
    disabled_at: datetime | None
    key_sha256: bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asks: what the engine needs to know of an account."""

    name: str
    role: Role
    scope: str | None = None

    def may_see(self, ou: str | None) -> bool:
        return is_within(ou, self.scope)


THIS_MACHINE = Operator(LOCAL, Role.ADMIN)


def check_name(name: str) -> None:
    """Raise ServiceError unless it is legal. It is a topic level and a broker's user name, so a narrow rule."""
    if not _NAME.match(name) or ids.is_hex_id(name) or name in RESERVED:
        raise bad_request(
            "account_name_illegal", "an account's name is 1 to 32 of a-z 0-9 -, and no reserved word", name[:64]
        )


async def create(
    database: Database,
    name: str,
    kind: AccountKind,
    *,
    role: Role = Role.VIEWER,
    ou: str | None = None,
    environment: str | None = None,
    now: datetime,
    random_bytes: Callable[[int], bytes],
) -> Secret:
    """Make an account; returns its key (64 hex characters), which is shown this once. Raises ServiceError."""
    check_name(name)
    check_placement(ou, environment)
    key = _new_key(random_bytes)
    async with database.write() as transaction:
        connection = transaction.connection
        if await _row_of(connection, name) is not None:
            raise conflict("account_exists", f"there is an account {name}")
        newest = int((await connection.execute(select(func.coalesce(func.max(event.c.seq), 0)))).scalar_one())
        row = {
            "name": name,
            "kind": kind.value,
            "role": role.value,
            "ou": ou,
            "environment": environment,
            "created_at": to_ms(now),
            "event_cursor": newest,  # it is told what happens from now on
            **_key_columns(name, key, database.sealer),
        }
        await connection.execute(insert(account), [row])
    return key


async def rotate(database: Database, name: str, *, random_bytes: Callable[[int], bytes]) -> Secret:
    """A new key in place of the old one; the account's session ends. Raises ServiceError NOT_FOUND."""
    key = _new_key(random_bytes)
    await _change(database, name, **_key_columns(name, key, database.sealer))
    return key


async def disable(database: Database, name: str, *, now: datetime) -> None:
    """Lock it out; what it has commanded stops at the next page. Raises ServiceError NOT_FOUND."""
    await _change(database, name, disabled_at=to_ms(now))


async def enable(database: Database, name: str) -> None:
    """Raises ServiceError NOT_FOUND."""
    await _change(database, name, disabled_at=None)


async def remove(database: Database, name: str) -> None:
    """What it commanded is nobody's from now on, also if an account is made again under its name.

    Raises ServiceError NOT_FOUND.
    """
    async with database.write() as transaction:
        done = await transaction.connection.execute(delete(account).where(account.c.name == name))
        if not done.rowcount:
            raise not_found("account_unknown", f"no account {name}")
        theirs = update(command).where(command.c.account == name)
        await transaction.connection.execute(theirs.values(account=f"{name} (removed)"))


async def list_all(database: Database) -> list[Account]:
    async with database.read() as connection:
        return [account_of_row(row) for row in await connection.execute(select(account).order_by(account.c.name))]


async def live(database: Database, environment: str) -> list[tuple[Account, Secret]]:
    """Every account that this environment's broker lets in, with its key."""
    query = select(account).where(
        account.c.disabled_at.is_(None), (account.c.environment.is_(None)) | (account.c.environment == environment)
    )
    async with database.read() as connection:
        found = (await connection.execute(query.order_by(account.c.name))).all()
    return [
        (account_of_row(row), Secret(database.sealer.open(row.key_sealed, account_key_aad(row.name)))) for row in found
    ]


async def account_of_command(database: Database, command_id: str) -> Account | None:
    """Who has asked for it; None for a command of this machine, or an account that is gone."""
    query = select(account).join(command, command.c.account == account.c.name).where(command.c.command_id == command_id)
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else account_of_row(row)


async def operator(connection: AsyncConnection, name: str) -> Operator:
    """The operator behind a topic level. Raises ServiceError FORBIDDEN: gone or disabled, or no account: nobody asks from
    outside in the name of this machine.
    """
    row = await _row_of(connection, name)
    if row is None or row.disabled_at is not None or row.kind != AccountKind.OPERATOR.value:
        raise ServiceError("FORBIDDEN", "no such operator", cause="account_unknown", detail=name[:64])
    return Operator(name, Role(row.role), row.ou)


async def operator_of_command(connection: AsyncConnection, name: str) -> Operator:
    """Who has asked, by a command's row. Raises ServiceError FORBIDDEN as `operator` does."""
    return THIS_MACHINE if name == LOCAL else await operator(connection, name)


async def _row_of(connection: AsyncConnection, name: str) -> Any:
    return (await connection.execute(select(account).where(account.c.name == name))).first()


async def _change(database: Database, name: str, **values: Any) -> None:
    async with database.write() as transaction:
        done = await transaction.connection.execute(update(account).where(account.c.name == name).values(**values))
        if not done.rowcount:
            raise not_found("account_unknown", f"no account {name}")


def _new_key(random_bytes: Callable[[int], bytes]) -> Secret:
    return Secret(random_bytes(KEY_BYTES).hex().encode("ascii"))


def _key_columns(name: str, key: Secret, sealer: Sealer) -> dict[str, Any]:
    return {
        "key_sha256": hashlib.sha256(key.reveal()).digest(),
        "key_sealed": sealer.seal(key.reveal(), account_key_aad(name)),
    }


def account_of_row(row: Any) -> Account:
    created_at = from_ms(row.created_at)
    assert created_at is not None
    return Account(
        row.name,
        AccountKind(row.kind),
        Role(row.role),
        row.ou,
        row.environment,
        created_at,
        from_ms(row.disabled_at),
        row.key_sha256,
    )
