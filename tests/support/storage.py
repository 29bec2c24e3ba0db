"""Values and databases for tests of storage and operations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import insert

from service.credentials.keyfile import Sealer
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.group import Group, KeyKind, Reactivation
from service.domain.product import Product
from service.domain.thing import Thing
from service.errors import Secret
from service.storage import catalogue_rows, tables
from service.storage.database import Database
from service.storage.schema import migrate

NOW = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
PRODUCT = Product("thermometer", "Thermometer", "rev-a")
GROUP = Group("line-1", PRODUCT.product_id, default_ou="acme", default_environment="prod")
DERIVED = Group("line-2", PRODUCT.product_id, KeyKind.DERIVED, Secret(b"G" * 32), reactivation=Reactivation.OPEN)


def a_sealer(byte: int = 7) -> Sealer:
    return Sealer("testkey1", {"testkey1": Secret(bytes([byte]) * 32)}, label_key=Secret(bytes([byte]) * 31 + b"L"))


@cache
def empty_database() -> bytes:
    """An empty database of the newest schema: made once, because Alembic takes 0.2 s."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "firstlight.db")
        migrate(path)
        return path.read_bytes()


async def new_database(
    path: Path, *, max_pages: int | None = None, seeded: bool = True, changed_by: str | None = None
) -> Database:
    path.write_bytes(empty_database())
    database = await Database.open(path, a_sealer(), max_pages=max_pages, changed_by=changed_by)
    if seeded:
        async with database.write() as transaction:
            product = {"product_id": PRODUCT.product_id, "name": PRODUCT.name, "hardware": PRODUCT.hardware}
            await transaction.connection.execute(insert(tables.product), [product])
            of_groups = [catalogue_rows.group_row(group, database.sealer) for group in (GROUP, DERIVED)]
            await transaction.connection.execute(insert(tables.registration_group), of_groups)
    return database


def a_device(serial: str = "sn-1", **fields) -> Device:
    given = {
        "device_id": f"dev-{serial}",
        "group_id": GROUP.group_id,
        "serial": serial,
        "state": DeviceState.REGISTERED,
        "registered_at": NOW,
        "key": Secret(b"K" * 32),
    }
    return Device(**{**given, **fields})


def a_thing(device: Device, **fields) -> Thing:
    given = {
        "thing_id": f"thing-of-{device.serial}",
        "group_id": device.group_id,
        "product_id": PRODUCT.product_id,
        "name": "Thermometer 1",
        "ou": "acme",
        "environment": "prod",
        "holder_device_id": device.device_id,
        "created_at": NOW,
    }
    return Thing(**{**given, **fields})


def a_credential(device: Device, credential_id: str = "c" * 32, **fields) -> Credential:
    given = {
        "credential_id": credential_id,
        "device_id": device.device_id,
        "kind": CredentialKind.API_KEY,
        "state": CredentialState.PENDING,
        "environment": "prod",
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=1),
        "boot_count": 1,
        "nonce": b"n" * 16,
        "server_nonce": b"s" * 16,
        "grant": b"grant bytes",
        "encoding": "msgpack",
        "api_key_sha256": b"h" * 32,
        "last_boot_count": 1,
    }
    return Credential(**{**given, **fields})
