"""Who grants what a partner's users buy: access providers, and what a product and its option are called there.

Owns the rows of providers and offers. A provider's password is stored sealed and shown nowhere. What is made of an
offer stands in entitlements.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from service.errors import Secret
from service.operations.partners import services
from service.operations.requests import bad_request, not_found
from service.storage.box_tables import access_provider, offer
from service.storage.database import Database
from service.storage.sealing import access_provider_aad

MAX_TEXT_CHARS = 128
MAX_TIMEOUT_S = 60
TIMEOUT_S = 10


class ProviderKind(StrEnum):
    CONDITIONAL_ACCESS = "conditional_access"
    DVB = "dvb"


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider as it is shown."""

    name: str
    kind: ProviderKind
    url: str
    account: str | None
    has_password: bool
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Offer:
    service: str
    product_id: str
    option_id: str
    provider: str
    package: str


async def set_provider(
    database: Database,
    name: str,
    *,
    url: str | None = None,
    kind: ProviderKind | None = None,
    account: str | None = None,
    secret: Secret | None = None,
    timeout_s: int | None = None,
) -> None:
    """Make a provider known, or change what is given of it; None keeps what is there.

    An empty `account` takes account and password away. Raises ServiceError BAD_REQUEST: a new one without a URL, or a
    value that is none.
    """
    _check_text("provider", name)
    if url is not None:
        _check_url(url)
    if timeout_s is not None and not 1 <= timeout_s <= MAX_TIMEOUT_S:
        raise bad_request("provider_timeout_illegal", f"a provider has 1 to {MAX_TIMEOUT_S} seconds to answer")
    sealed = None if secret is None else database.sealer.seal(secret.reveal(), access_provider_aad(name))
    given: dict[str, object | None] = {
        "url": url,
        "kind": kind,
        "account": account,
        "secret_sealed": sealed,
        "timeout_s": timeout_s,
    }
    values = {column: value for column, value in given.items() if value is not None}
    if account == "":
        values |= {"account": None, "secret_sealed": None}
    await _store_provider(database, name, values)


async def _store_provider(database: Database, name: str, values: dict[str, object | None]) -> None:
    async with database.write() as transaction:
        connection = transaction.connection
        of = access_provider.c
        if (await connection.execute(select(of.name).where(of.name == name))).first() is None:
            if "url" not in values:
                raise bad_request("provider_url_missing", f"there is no provider {name} yet: give its URL")
            new = {"name": name, "kind": ProviderKind.CONDITIONAL_ACCESS, "timeout_s": TIMEOUT_S}
            await connection.execute(insert(access_provider), [new | values])
        elif values:
            await connection.execute(update(access_provider).where(of.name == name).values(**values))
        else:
            transaction.abandon()


async def list_providers(database: Database) -> list[ProviderEntry]:
    of = access_provider.c
    query = select(of.name, of.kind, of.url, of.account, of.secret_sealed.is_not(None), of.timeout_s).order_by(of.name)
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [
        ProviderEntry(name, ProviderKind(kind), url, account, bool(has_password), timeout_s)
        for name, kind, url, account, has_password, timeout_s in rows
    ]


async def set_offer(
    database: Database, service: str, product_id: str, option_id: str, *, provider: str, package: str
) -> None:
    """What the partner's product and option are called at a provider. Raises ServiceError."""
    for what, text in (("product", product_id), ("option", option_id), ("package", package)):
        _check_text(what, text)
    await services.find(database, service)
    keys = {"service": service, "product_id": product_id, "option_id": option_id}
    values = {"provider": provider, "package": package}
    async with database.write() as transaction:
        connection = transaction.connection
        known = select(access_provider.c.name).where(access_provider.c.name == provider)
        if (await connection.execute(known)).first() is None:
            raise not_found("provider_unknown", f"no access provider {provider[:64]}")
        statement = upsert(offer).on_conflict_do_update(index_elements=[*keys], set_=values)
        await connection.execute(statement, [{**keys, **values}])


async def list_offers(database: Database, service: str) -> list[Offer]:
    """Raises ServiceError NOT_FOUND: the service."""
    await services.find(database, service)
    query = select(offer).where(offer.c.service == service).order_by(offer.c.product_id, offer.c.option_id)
    async with database.read() as connection:
        return [Offer(*row) for row in await connection.execute(query)]


async def remove_offer(database: Database, service: str, product_id: str, option_id: str) -> None:
    """Nobody buys it any more; what was bought or begun stays. Raises ServiceError NOT_FOUND."""
    of = offer.c
    found = delete(offer).where(of.service == service, of.product_id == product_id, of.option_id == option_id)
    async with database.write() as transaction:
        if not (await transaction.connection.execute(found)).rowcount:
            raise not_found("offer_unknown", f"{service[:64]} has no such product and option")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    is_here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.scheme not in ("https", "http") or "@" in parts.netloc:
        raise bad_request("provider_url_illegal", "a provider's URL is https://host/path")
    if parts.scheme == "http" and not is_here:
        raise bad_request("provider_url_illegal", "plain HTTP goes to this machine only: use https")


def _check_text(what: str, text: str) -> None:
    if not 1 <= len(text) <= MAX_TEXT_CHARS or not text.isprintable():
        raise bad_request("offer_text_illegal", f"{what}: 1 to {MAX_TEXT_CHARS} printable characters")
