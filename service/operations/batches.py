"""How far a batch has come: counts by state, and what is missing of it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import DeviceState
from service.operations.requests import bad_request, check_batch, not_found
from service.storage.database import Database
from service.storage.tables import device, label

MAX_MISSING = 1000


@dataclass(frozen=True, slots=True)
class BatchView:
    batch: str
    devices: int
    states: dict[str, int]
    labels: dict[str, int]  # unused, used, cancelled
    missing: list[str]  # GROUP/SERIAL: labelled and not registered, or registered and not confirmed; by name
    more_missing: int  # beyond those that are listed


async def show(database: Database, batch: str, *, limit: int = 100) -> BatchView:
    """Raises ServiceError NOT_FOUND for a batch that no device and no label has."""
    check_batch(batch)
    if not 1 <= limit <= MAX_MISSING:
        raise bad_request("limit_illegal", f"at most {MAX_MISSING} are listed")
    of_batch = device.c.batch == batch
    async with database.read() as connection:
        counted = await connection.execute(
            select(device.c.state, func.count()).where(of_batch).group_by(device.c.state)
        )
        states = {row[0]: int(row[1]) for row in counted}
        labels = await _labels(connection, batch)
        missing = await _missing(connection, batch)
    if not states and not any(labels.values()):
        raise not_found("batch_unknown", f"no device and no label has the batch {batch}")
    return BatchView(batch, sum(states.values()), states, labels, missing[:limit], max(len(missing) - limit, 0))


async def _labels(connection: AsyncConnection, batch: str) -> dict[str, int]:
    counts = {}
    for name, condition in {
        "unused": label.c.used_at.is_(None) & label.c.cancelled_at.is_(None),
        "used": label.c.used_at.is_not(None),
        "cancelled": label.c.cancelled_at.is_not(None) & label.c.used_at.is_(None),
    }.items():
        query = select(func.count()).where(label.c.batch == batch, condition)
        counts[name] = int((await connection.execute(query)).scalar_one())
    return counts


async def _missing(connection: AsyncConnection, batch: str) -> list[str]:
    waiting = (DeviceState.REGISTERED.value, DeviceState.ACTIVATED.value)
    registered = select(device.c.group_id, device.c.serial).where(device.c.batch == batch, device.c.state.in_(waiting))
    known = select(device.c.device_id).where(device.c.group_id == label.c.group_id, device.c.serial == label.c.serial)
    labelled = select(label.c.group_id, label.c.serial).where(
        label.c.batch == batch, label.c.cancelled_at.is_(None), ~known.exists()
    )
    return sorted("/".join(row) for row in await connection.execute(registered.union(labelled)))
