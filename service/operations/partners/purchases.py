"""What users have bought, and that it is over: the look at purchases, and their end.

Owns `ended_at`. An end is a record of ours: the provider is told nothing, and what it grants ends by its own rules.
Buying stands in entitlements.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, update

from service.operations.partners import services
from service.operations.requests import conflict, not_found
from service.storage.box_tables import partner_user, purchase
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms


class State(StrEnum):
    ASKING = "asking"  # the provider's turn
    UNKNOWN = "unknown"  # the partner's turn: the next try asks what became of it
    BOUGHT = "bought"
    REFUSED = "refused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Sale:
    """A purchase as it is shown."""

    purchase_id: str
    email: str
    product_id: str
    option_id: str
    provider: str
    package: str
    state: State
    created_at: datetime | None
    ended_at: datetime | None
    reference: str | None
    cause: str | None


async def list_page(
    database: Database, service: str, *, email: str | None = None, after: str = "", limit: int = 1000
) -> list[Sale]:
    """A service's purchases in the order in which they were begun, after that id. Raises ServiceError NOT_FOUND."""
    await services.find(database, service)
    of, user = purchase.c, partner_user.c
    query = (
        select(purchase, user.email)
        .join(partner_user, user.user_id == of.user_id)
        .where(user.service == service, of.purchase_id > after)
        .order_by(of.purchase_id)
        .limit(limit)
    )
    if email is not None:
        query = query.where(user.email_key == services.email_key(email))
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [
        Sale(
            row.purchase_id, row.email, row.product_id, row.option_id, row.provider, row.package,
            State(row.state) if row.ended_at is None else State.ENDED,
            from_ms(row.created_at), from_ms(row.ended_at), row.reference, row.cause,
        )
        for row in rows
    ]  # fmt: skip


async def end(database: Database, service: str, purchase_id: str, *, now: datetime) -> None:
    """It is over: the next buy of the same is a new purchase. Again it changes nothing.

    Raises ServiceError NOT_FOUND; CONFLICT while a try waits for the provider, and for one that was refused.
    """
    of = purchase.c
    theirs = select(partner_user.c.user_id).where(partner_user.c.service == service)
    query = select(of.state, of.ended_at, of.lease_expires_at).where(
        of.purchase_id == purchase_id, of.user_id.in_(theirs)
    )
    async with database.write() as transaction:
        found = (await transaction.connection.execute(query)).one_or_none()
        if found is None:
            raise not_found("purchase_unknown", f"{service[:64]} has no purchase {purchase_id[:64]}")
        if found.ended_at is not None:
            transaction.abandon()
            return
        if found.state == State.REFUSED:
            raise conflict("purchase_refused", "it was refused: there is nothing to end")
        if (found.lease_expires_at or 0) > now.timestamp() * 1000:
            raise conflict("purchase_running", "the provider is being asked for it just now")
        await transaction.connection.execute(
            update(purchase).where(of.purchase_id == purchase_id).values(ended_at=to_ms(now), lease_expires_at=None)
        )
