"""Organisation units that have something of their own: an environment that they are bound to, a firmware target.

Owns the rows of the table `ou`. Any path is an OU, whether it has a row or not; what an OU has counts for everything
below it that has nothing nearer. Moves no device: things stay where they are until they are reprovisioned.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from service.domain.catalogue import Ou
from service.operations.requests import bad_request, check_placement, not_found, raise_catalogue_rev
from service.operations.versions import check_trusted, retired_keys
from service.storage.database import Database
from service.storage.tables import ou, version

FIELDS = frozenset({"environment", "target_version_id"})


async def change(database: Database, path: str, changes: dict[str, str | None], *, environments: Collection[str]) -> Ou:
    """Give an OU an environment or a target version, or (None) take it away. An OU without either has no row.

    Raises ServiceError BAD_REQUEST; NOT_FOUND: an environment that is not in `environments`, an unknown version;
    CONFLICT: a version of a retired release key.
    """
    check_placement(path, changes.get("environment"))
    if not changes or not FIELDS.issuperset(changes):
        raise bad_request("ou_change_illegal", "say what changes: the environment or the target version")
    environment, wanted = changes.get("environment"), changes.get("target_version_id")
    if environment is not None and environment not in environments:
        raise not_found("environment_unknown", f"no environment {environment}")
    async with database.write() as transaction:
        connection = transaction.connection
        if wanted is not None:
            query = select(version.c.name, version.c.key_id).where(version.c.version_id == wanted)
            known = (await connection.execute(query)).first()
            if known is None:
                raise not_found("version_unknown", f"no version {wanted[:64]!r}")
            check_trusted(known.name, known.key_id, await retired_keys(connection))
        row = (await connection.execute(select(ou).where(ou.c.path == path))).first()
        before = Ou(path) if row is None else Ou(*row)
        environment = changes.get("environment", before.environment)
        after = Ou(path, environment, changes.get("target_version_id", before.target_version_id))
        if after == before:
            transaction.abandon()
            return before
        if after == Ou(path):
            await connection.execute(delete(ou).where(ou.c.path == path))
        else:
            values = {"environment": after.environment, "target_version_id": after.target_version_id}
            statement = insert(ou).values(path=path, **values)
            await connection.execute(statement.on_conflict_do_update(index_elements=[ou.c.path], set_=values))
        await raise_catalogue_rev(connection)
    return after


async def list_all(database: Database) -> list[Ou]:
    """Every OU that has something of its own, by path."""
    async with database.read() as connection:
        return [Ou(*row) for row in await connection.execute(select(ou).order_by(ou.c.path))]
