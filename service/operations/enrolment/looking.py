"""Reading enrolment: orders with a provider, one of them unit by unit, its transactions, batches, and workflow events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select

from service.operations import configuration
from service.operations.enrolment import rows
from service.storage.database import Database
from service.storage.enrolment_tables import enrolment_batch, enrolment_state, enrolment_transaction, workflow_event
from service.storage.rows import from_ms, to_ms
from service.storage.warehouse_tables import sales_order

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class OrderLine:
    order_id: str
    provider_id: str | None
    organisation: str | None
    state: str
    units: int
    asked_at: datetime | None = None  # of the transaction whose answer is still to come
    overdue: bool = False  # it should have come by now


@dataclass(frozen=True, slots=True)
class UnitLine:
    group_id: str
    serial: str
    state: str
    cause: str | None
    changed_at: datetime | None


class BatchState(StrEnum):
    PREPARED = "prepared"  # extract's
    EXTRACTED = "extracted"  # the transformation's, or the platform's: the file lies there
    SENT = "sent"  # the provider's
    LOADED = "loaded"  # enrolment-response's
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request to a provider or an answer of it, as one exchange. `cause`: why it was put off, refused or failed."""

    batch_id: str
    direction: str
    provider_id: str
    state: BatchState
    orders: int
    attempts: int
    cause: str | None
    reference: str | None
    created_at: datetime | None
    changed_at: datetime | None
    next_at: datetime | None


@dataclass(frozen=True, slots=True)
class TransactionLine:
    transaction_id: str
    request: str
    state: str
    cause: str | None
    created_at: datetime | None
    finished_at: datetime | None
    overdue: bool
    batch: BatchLine  # that it goes with


@dataclass(frozen=True, slots=True)
class OrderView:
    """`policies`: by name; of those that are secrets the name only."""

    order_id: str
    provider_id: str | None
    organisation: str | None
    state: str
    policies: tuple[str, ...]
    units: tuple[UnitLine, ...]
    transactions: tuple[TransactionLine, ...]


@dataclass(frozen=True, slots=True)
class EventLine:
    seq: int
    at: datetime | None
    kind: str
    order_id: str
    transaction_id: str | None
    notes: str


async def orders(database: Database, *, now: datetime, limit: int = 100) -> list[OrderLine]:
    """Those that ask for enrolment, the newest first."""
    of, unit, sent = sales_order.c, enrolment_state.c, enrolment_transaction.c
    latest = await _latest(database, now)
    units = select(func.count()).where(unit.order_id == of.order_id).correlate(sales_order).scalar_subquery()
    waiting = sent.state == rows.OPEN
    query = (
        select(of.order_id, of.provider_id, of.organisation, of.enrolment_state, units, sent.created_at)
        .select_from(sales_order.outerjoin(enrolment_transaction, (sent.order_id == of.order_id) & waiting))
        .where(of.enrol)
        .order_by(of.created_at.desc(), of.order_id)
        .limit(min(limit, MAX_PAGE))
    )
    async with database.read() as connection:
        return [
            OrderLine(*row[:-1], from_ms(row.created_at), row.created_at is not None and row.created_at < latest)
            for row in await connection.execute(query)
        ]


async def order(database: Database, order_id: str, *, now: datetime) -> OrderView:
    """Raises ServiceError NOT_FOUND."""
    unit, sent = enrolment_state.c, enrolment_transaction.c
    latest = await _latest(database, now)
    async with database.read() as connection:
        of = await rows.order(connection, order_id, database.sealer)
        units = [
            UnitLine(row.group_id, row.serial, row.state, row.cause, from_ms(row.changed_at))
            for row in await connection.execute(
                select(enrolment_state).where(unit.order_id == order_id).order_by(unit.group_id, unit.serial)
            )
        ]
        asked = (
            await connection.execute(
                select(enrolment_transaction).where(sent.order_id == order_id).order_by(sent.created_at)
            )
        ).all()
        of_them = enrolment_batch.c.batch_id.in_({row.batch_id for row in asked})
        went = {row.batch_id: _batch(row) for row in await connection.execute(select(enrolment_batch).where(of_them))}
        transactions = [
            TransactionLine(
                row.transaction_id, row.request_type, row.state, row.cause, from_ms(row.created_at),
                from_ms(row.finished_at), row.finished_at is None and row.created_at < latest, went[row.batch_id],
            )
            for row in asked
        ]  # fmt: skip
    return OrderView(
        order_id, of.provider_id, of.organisation, of.standing.order.value, tuple(sorted(of.policies)),
        tuple(units), tuple(transactions),
    )  # fmt: skip


async def batches(database: Database, *, state: BatchState | None = None, limit: int = 100) -> list[BatchLine]:
    """Requests and answers, the newest first."""
    of = enrolment_batch.c
    query = select(enrolment_batch).order_by(of.created_at.desc(), of.batch_id).limit(min(limit, MAX_PAGE))
    if state is not None:
        query = query.where(of.state == state.value)
    async with database.read() as connection:
        return [_batch(row) for row in await connection.execute(query)]


def _batch(row: Any) -> BatchLine:
    return BatchLine(
        row.batch_id,
        row.direction,
        row.provider_id,
        BatchState(row.state),
        row.record_count,
        row.attempts,
        row.cause,
        row.reference,
        from_ms(row.created_at),
        from_ms(row.changed_at),
        from_ms(row.next_at),
    )


async def _latest(database: Database, now: datetime) -> int:
    """What was asked before this, in milliseconds, should have been answered."""
    within = (await configuration.values(database))["enrolment.answer_within_s"]
    return to_ms(now - timedelta(seconds=within)) or 0


async def events(database: Database, *, after: int = 0, limit: int = 100) -> list[EventLine]:
    """The next workflow events by number."""
    of = workflow_event.c
    query = select(workflow_event).where(of.seq > after).order_by(of.seq).limit(min(limit, MAX_PAGE))
    async with database.read() as connection:
        return [
            EventLine(row.seq, from_ms(row.at), row.kind, row.order_id, row.transaction_id, row.notes)
            for row in await connection.execute(query)
        ]
