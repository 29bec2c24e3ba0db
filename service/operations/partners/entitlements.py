"""What a partner's user buys, and the access provider that must grant it.

Owns buying, and the promise that nothing is bought twice: a purchase is stored before the provider is asked, and every
later try asks under the same number. Asks through the port `Access`; http/access.py is it. Providers and offers stand in
offers.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.identity import RANDOM_BYTES, uuid7
from service.errors import Secret
from service.operations.partners import services
from service.operations.partners.answers import Code, PartnerError
from service.operations.partners.offers import ProviderKind
from service.operations.partners.services import PartnerService
from service.operations.registration import RandomBytes
from service.storage.box_tables import access_provider, offer, purchase
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.sealing import access_provider_aad

LEASE_MORE_S = 15  # beyond the provider's time: nobody else asks for the same purchase until then


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    kind: ProviderKind
    url: str
    account: str | None
    secret: Secret | None
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a provider is asked to grant. `purchase_id` is the same at every try."""

    purchase_id: str
    subscriber: str  # the user's id here
    package: str


class ProviderRefusedError(Exception):
    """The provider said no; asking again is no use."""


class ProviderError(Exception):
    """The provider could not be asked, or broke off: whether it has granted is not known."""


class Access(Protocol):
    """A provider's system. Both raise ProviderRefusedError, ProviderError, TimeoutError."""

    async def granted(self, provider: Provider, order: Order) -> str | None:
        """The provider's reference, if it has granted this order already."""
        ...

    async def grant(self, provider: Provider, order: Order) -> str:
        """Grant it; the provider's reference. The same order again grants nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class Purchase:
    purchase_id: str
    product_id: str
    option_id: str
    reference: str


async def buy(
    database: Database,
    access: Access,
    service: PartnerService,
    email: str,
    product_id: str,
    option_id: str,
    *,
    clock: Callable[[], datetime],
    random_bytes: RandomBytes,
) -> Purchase:
    """Record the purchase and have it granted; done already, it is only said again.

    Raises PartnerError: unknown user or offer, another try under way, provider refused, unreachable or silent. After
    the last two the next try asks the provider first what became of it.
    """
    # 1. The purchase is stored before anybody is asked; whoever comes later finds it.
    taken = await _take(database, service, email, product_id, option_id, clock(), random_bytes)
    if isinstance(taken, Purchase):
        return taken
    # 2. The provider is asked under the purchase's own number.
    provider, order, tried_before = taken
    try:
        async with asyncio.timeout(provider.timeout_s):
            reference = await access.granted(provider, order) if tried_before else None
            if reference is None:
                reference = await access.grant(provider, order)
    except ProviderRefusedError as error:
        await _settle(database, order, clock(), "refused", cause="refused")
        raise PartnerError(Code.PROVIDER_REFUSED, "the access provider refused") from error
    except ProviderError as error:
        await _settle(database, order, clock(), "unknown", cause="unreachable")
        raise PartnerError(Code.PROVIDER_UNREACHABLE, "the access provider failed; ask again") from error
    except TimeoutError as error:
        await _settle(database, order, clock(), "unknown", cause="silent")
        raise PartnerError(Code.PROVIDER_SILENT, "the access provider did not answer; ask again") from error
    # 3. Only what was granted is bought.
    await _settle(database, order, clock(), "bought", reference=reference)
    return Purchase(order.purchase_id, product_id, option_id, reference)


async def _take(
    database: Database,
    service: PartnerService,
    email: str,
    product_id: str,
    option_id: str,
    now: datetime,
    random_bytes: RandomBytes,
) -> Purchase | tuple[Provider, Order, bool]:
    """The purchase if it is made; else who is to be asked what, and whether somebody has asked before."""
    async with database.write() as transaction:
        connection = transaction.connection
        user = await services.user_of(connection, service.name, services.read_email(email))
        if user is None:
            raise PartnerError(Code.EMAIL_UNKNOWN, "email does not exist")
        found = await _live(connection, user.user_id, product_id, option_id)
        if found is not None and found.state == "bought":
            transaction.abandon()
            return Purchase(found.purchase_id, product_id, option_id, found.reference)
        if found is not None and (found.lease_expires_at or 0) > now.timestamp() * 1000:
            raise PartnerError(Code.PURCHASE_RUNNING, "this purchase is being made; ask again")
        provider, package = await _offered(connection, database, service.name, product_id, option_id, found)
        purchase_id = uuid7(now, random_bytes(RANDOM_BYTES)) if found is None else str(found.purchase_id)
        lease = now + timedelta(seconds=provider.timeout_s + LEASE_MORE_S)
        values = {"state": "asking", "asked_at": to_ms(now), "lease_expires_at": to_ms(lease)}
        if found is None:
            what = {"user_id": user.user_id, "product_id": product_id, "option_id": option_id}
            whom = {"provider": provider.name, "package": package}
            row = {"purchase_id": purchase_id, **what, **whom, "attempts": 1, "created_at": to_ms(now), **values}
            await connection.execute(insert(purchase), [row])
        else:
            again = update(purchase).where(purchase.c.purchase_id == purchase_id)
            await connection.execute(again.values(attempts=purchase.c.attempts + 1, **values))
    return provider, Order(purchase_id, str(user.user_id), package), found is not None


async def _live(
    connection: AsyncConnection, user_id: int, product_id: str, option_id: str
) -> Row[tuple[object, ...]] | None:
    """The one that is neither refused nor ended."""
    of = purchase.c
    query = select(purchase).where(
        of.user_id == user_id,
        of.product_id == product_id,
        of.option_id == option_id,
        of.state != "refused",
        of.ended_at.is_(None),
    )
    return (await connection.execute(query)).one_or_none()


async def _offered(
    connection: AsyncConnection,
    database: Database,
    service: str,
    product_id: str,
    option_id: str,
    found: Row[tuple[object, ...]] | None,
) -> tuple[Provider, str]:
    """Whom to ask for which package; a purchase that was begun stays with its provider. Raises PartnerError."""
    if found is not None:
        name, package = found.provider, found.package
    else:
        of = offer.c
        query = select(of.provider, of.package).where(
            of.service == service, of.product_id == product_id, of.option_id == option_id
        )
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise PartnerError(Code.NOT_FOUND, "product or option does not exist")
        name, package = row
    row = (await connection.execute(select(access_provider).where(access_provider.c.name == name))).one()
    secret = None
    if row.secret_sealed is not None:
        secret = Secret(database.sealer.open(row.secret_sealed, access_provider_aad(row.name)))
    return Provider(row.name, ProviderKind(row.kind), row.url, row.account, secret, row.timeout_s), package


async def _settle(
    database: Database,
    order: Order,
    now: datetime,
    state: str,
    *,
    cause: str | None = None,
    reference: str | None = None,
) -> None:
    values = {"state": state, "answered_at": to_ms(now), "cause": cause, "reference": reference}
    async with database.write() as transaction:
        await transaction.connection.execute(
            update(purchase)
            .where(purchase.c.purchase_id == order.purchase_id)
            .values(lease_expires_at=None, lease_owner=None, **values)
        )
