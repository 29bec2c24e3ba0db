"""The interface of partner services on a database of its own, with one service, a user and keys for boxes."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import insert

from service.domain.group import Group, KeyKind
from service.http import partners
from service.http.services import Services
from service.http.web import Interface
from service.operations.partners import services
from service.storage import catalogue_rows, tables
from service.storage.database import Database
from tests.support.storage import PRODUCT, new_database
from tests.support.web_site import client_of, web_site

BOXES = Group("boxes", PRODUCT.product_id, KeyKind.PUBLIC_KEY, default_ou="acme", default_environment="prod")
LIMITS = {partners.IMPORT_PATH: partners.MAX_IMPORT_BYTES}
INTERFACE = Interface(partners.router, partners.partner, LIMITS, partners.FORMS)
EMAIL = "stb_user@example.com"
LINK = "/api/management/stb/link_user"
NAME = "tv"


def public_key() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def eight_keys() -> str:
    return ";".join(public_key() for _ in range(8))


@dataclass
class PartnerSite:
    database: Database
    client: httpx.AsyncClient
    token: str

    def sale(self, **fields: str | None) -> dict[str, str]:
        """Parameters of a link that is right but for what is given; None takes one away."""
        given: dict[str, str | None] = {"service_token": self.token, "serial_no": "DNA-STB0001", "email": EMAIL}
        given = {**given, "public_keys": fields.pop("public_keys", None) or eight_keys(), **fields}
        return {name: value for name, value in given.items() if value is not None}

    async def link(self, **fields: str | None) -> httpx.Response:
        return await self.client.post(LINK, data=self.sale(**fields))


@asynccontextmanager
async def partner_site(folder: Path, *, allowed: str = "127.0.0.1", **web: Any) -> AsyncIterator[PartnerSite]:
    database = await new_database(folder / "firstlight.db")
    try:
        async with database.write() as transaction:
            row = catalogue_rows.group_row(BOXES, database.sealer)
            await transaction.connection.execute(insert(tables.registration_group), [row])
        now = datetime.now(UTC)
        token = await services.create(database, NAME, BOXES.group_id, now=now, random_bytes=os.urandom)
        await services.allow_address(database, NAME, allowed, now=now)
        await services.add_user(database, NAME, EMAIL, now=now)
        bundle = Services(
            settings=cast("Any", None),
            environments={},
            database=database,
            keys=cast("Any", None),
            images=cast("Any", None),
            pipeline=cast("Any", None),
            looks=cast("Any", None),
            clock=lambda: datetime.now(UTC),
            random_bytes=os.urandom,
        )
        limits = {"rate": 1000, "burst": 1000, **web}
        async with web_site([INTERFACE], bundle, **limits) as served, client_of(served) as client:
            yield PartnerSite(database, client, token.reveal().decode())
    finally:
        await database.close()
