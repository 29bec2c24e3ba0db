"""How much there is and what happened: counts by state and every counter."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, literal_column, select

from service.operations.hints import HINTS
from service.storage.database import Database
from service.storage.tables import counter, credential, device


@dataclass(frozen=True, slots=True)
class Stats:
    devices: dict[str, int]  # by state
    credentials: dict[str, int]  # by state; dropped ones for as long as they are kept
    unrevoked: int  # dropped, and a broker has not confirmed yet that they are dead
    counters: dict[str, int]  # events and causes of refusal since the database was made


async def collect(database: Database, *, with_zeros: bool = False) -> Stats:
    """Counts and counters; `with_zeros` also names the causes that never happened."""
    async with database.read() as connection:
        devices = await connection.execute(select(device.c.state, func.count()).group_by(device.c.state))
        credentials = await connection.execute(
            select(credential.c.state, func.count()).group_by(credential.c.state).order_by(credential.c.state)
        )
        unrevoked = select(func.count()).where(
            credential.c.state == literal_column("'dropped'"), credential.c.revoked_at.is_(None)
        )
        counters = await connection.execute(select(counter.c.name, counter.c.value))
        found = {row[0]: int(row[1]) for row in counters}
        if with_zeros:
            found = {**dict.fromkeys(HINTS, 0), **found}
        return Stats(
            devices={row[0]: int(row[1]) for row in devices},
            credentials={row[0]: int(row[1]) for row in credentials},
            unrevoked=int((await connection.execute(unrevoked)).scalar_one()),
            counters=dict(sorted(found.items())),
        )
