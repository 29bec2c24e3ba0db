"""Products: made once, then only their versions and target change."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids
from service.operations.requests import bad_request, check_text, conflict, not_found, raise_catalogue_rev
from service.storage.database import Database
from service.storage.tables import product, thing, version


@dataclass(frozen=True, slots=True)
class ProductView:
    product_id: str
    name: str
    hardware: str
    target: str | None  # name of the target version
    versions: int
    things: int


async def create(database: Database, product_id: str, name: str, hardware: str) -> ProductView:
    """Make a product; `name` and `hardware` are signed into every version and cannot change later.

    Raises ServiceError BAD_REQUEST or CONFLICT.
    """
    if not ids.is_group_id(product_id):
        raise bad_request("product_id_illegal", "a product id is 1 to 64 of A-Z a-z 0-9 . _ -")
    check_text("a product's name", name)
    check_text("hardware", hardware)
    async with database.write() as transaction:
        connection = transaction.connection
        taken = select(product.c.product_id).where((product.c.product_id == product_id) | (product.c.name == name))
        if (await connection.execute(taken)).first() is not None:
            raise conflict("product_exists", f"there is a product {product_id} or one named {name}")
        row = {"product_id": product_id, "name": name, "hardware": hardware}
        await connection.execute(insert(product), [row])
        await raise_catalogue_rev(connection)
    return ProductView(product_id, name, hardware, None, 0, 0)


async def list_all(database: Database) -> list[ProductView]:
    async with database.read() as connection:
        return await _views(connection)


async def show(database: Database, product_id: str) -> ProductView:
    """Raises ServiceError NOT_FOUND."""
    async with database.read() as connection:
        found = await _views(connection, product_id)
    if not found:
        raise not_found("product_unknown", f"no product {product_id}")
    return found[0]


async def _views(connection: AsyncConnection, product_id: str | None = None) -> list[ProductView]:
    versions = (
        select(func.count()).where(version.c.product_id == product.c.product_id).correlate(product).scalar_subquery()
    )
    things = select(func.count()).where(thing.c.product_id == product.c.product_id).correlate(product).scalar_subquery()
    query = (
        select(product.c.product_id, product.c.name, product.c.hardware, version.c.name, versions, things)
        .select_from(product.outerjoin(version, product.c.target_version_id == version.c.version_id))
        .order_by(product.c.product_id)
    )
    if product_id is not None:
        query = query.where(product.c.product_id == product_id)
    return [ProductView(*row) for row in await connection.execute(query)]
