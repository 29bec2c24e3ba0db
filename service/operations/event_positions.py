"""Up to which event each integrator has been told, by each environment's brokers.

Owns these positions: one for every integrator and environment, so that neither a broker that is away, nor another
integrator, nor another process on the same database makes anybody miss or hear twice. They stand in `meta`; where there
is none yet, an account begins with what was newest when it was made.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert

from service.operations.accounts import Account, AccountKind, account_of_row
from service.storage.database import Database
from service.storage.operator_tables import account
from service.storage.tables import meta


async def of_integrators(database: Database, environment: str) -> list[tuple[Account, int]]:
    """Every integrator that this environment lets in, with the number of the event up to which it was told there."""
    query = select(account).where(
        account.c.kind == AccountKind.INTEGRATOR.value,
        account.c.disabled_at.is_(None),
        (account.c.environment.is_(None)) | (account.c.environment == environment),
    )
    told = select(meta.c.name, meta.c.value).where(meta.c.name.startswith(_name_of(environment, ""), autoescape=True))
    async with database.read() as connection:
        found = (await connection.execute(query.order_by(account.c.name))).all()
        positions: dict[str, int] = {name: int(value) for name, value in await connection.execute(told)}
    # An account that was removed and made again under its name has a newer beginning than its position.
    return [
        (account_of_row(row), max(positions.get(_name_of(environment, row.name), 0), int(row.event_cursor)))
        for row in found
    ]


async def advance(database: Database, environment: str, name: str, seq: int) -> None:
    """Forward only. Raises ServiceError."""
    first = insert(meta).values(name=_name_of(environment, name), value=seq)
    newer = first.on_conflict_do_update(index_elements=[meta.c.name], set_={"value": seq}, where=meta.c.value < seq)
    async with database.write() as transaction:
        await transaction.connection.execute(newer)


async def forget_the_gone(database: Database, environment: str) -> None:
    """Drop the positions of accounts that are no more. Raises ServiceError."""
    prefix = _name_of(environment, "")
    gone = delete(meta).where(
        meta.c.name.startswith(prefix, autoescape=True),
        func.substr(meta.c.name, len(prefix) + 1).not_in(select(account.c.name)),
    )
    async with database.write() as transaction:
        await transaction.connection.execute(gone)


def _name_of(environment: str, name: str) -> str:
    return f"events_told/{environment}/{name}"
