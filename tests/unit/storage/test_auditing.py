"""What somebody's transaction changes is in the audit when it is committed, and only then."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from service.domain.changes import Changes
from service.errors import Secret
from service.operations import audits
from service.storage import auditing, operator_tables, tables
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.storage import GROUP, a_device, a_sealer, new_database

SECRET = Secret(b"a key that nobody may read......")


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "db", seeded=False, changed_by="local")
    yield made
    await made.close()


async def lines(database):
    return await audits.page(database)


async def test_a_change_is_told_with_its_author_and_what_was_asked(database):
    async with database.write() as transaction:
        await transaction.connection.execute(insert(tables.ou), [{"path": "acme", "environment": "prod"}])
    with auditing.acting("ou set", "alice"):
        async with database.write() as transaction:
            await transaction.connection.execute(update(tables.ou).values(environment="east"))
    added, changed = await lines(database)
    assert (added.account, added.verb, added.outcome, added.before) == ("local", "change", "added", None)
    assert added.after == {"path": "acme", "environment": "prod"}
    assert (changed.account, changed.verb, changed.selector) == ("alice", "ou set", {"ou": "acme"})
    assert (changed.before, changed.after) == ({"environment": "prod"}, {"environment": "east"})


async def test_what_is_rolled_back_given_up_or_the_same_as_before_is_not_told(database):
    async def fails():
        async with database.write() as transaction:
            await transaction.connection.execute(insert(tables.ou), [{"path": "acme"}])
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fails()
    async with database.write() as transaction:
        await transaction.connection.execute(insert(tables.ou), [{"path": "acme"}])
        transaction.abandon()
    async with database.write() as transaction:
        await transaction.connection.execute(insert(tables.ou), [{"path": "real"}])
    async with database.write() as transaction:
        await transaction.connection.execute(update(tables.ou).values(environment=None))
    assert [one.selector for one in await lines(database)] == [{"ou": "real"}]


async def test_the_service_s_own_work_and_what_audits_itself_is_not_told(database):
    service = await Database.open(database.path, a_sealer(), changed_by=None)
    try:
        async with service.write() as transaction:
            await transaction.connection.execute(insert(tables.ou), [{"path": "acme"}])
        with auditing.acting("ou set"):  # names an operation; who does it is still nobody
            async with service.write() as transaction:
                await transaction.connection.execute(insert(tables.ou), [{"path": "acme/a"}])
        with auditing.acting("ou set", "alice"):
            async with service.write() as transaction:
                await transaction.connection.execute(insert(tables.ou), [{"path": "acme/b"}])
        async with service.write() as transaction:
            await transaction.connection.execute(insert(tables.ou), [{"path": "acme/c"}])
    finally:
        await service.close()
    async with database.write(audit=False) as transaction:
        await transaction.connection.execute(insert(tables.ou), [{"path": "acme/d"}])
    assert [(one.account, one.selector) for one in await lines(database)] == [("alice", {"ou": "acme/b"})]


async def test_a_secret_is_told_to_be_set_or_changed_and_never_shown(tmp_path):
    database = await new_database(tmp_path / "db", changed_by="local")
    store = SqlStore(database, {})
    device = a_device(key=SECRET)
    async with store.batch() as batch:
        await batch.save(Changes(devices=((None, device),)))
    async with database.write() as transaction:
        await transaction.connection.execute(update(tables.device).values(key_sealed=b"other"))
    *_, added, changed = await lines(database)
    assert (added.device, added.after["key_sealed"]) == (f"{GROUP.group_id}/sn-1", "set")
    assert (changed.before, changed.after) == ({"key_sealed": "set"}, {"key_sealed": "changed"})
    async with database.read() as connection:
        texts = [str(tuple(row)) for row in await connection.execute(select(operator_tables.audit))]
    assert SECRET.reveal().decode() not in " ".join(texts)
    await database.close()


async def test_many_rows_of_a_table_are_counted_in_one_line(database):
    async with database.write() as transaction:
        rows = [{"path": f"acme/{number:02}"} for number in range(auditing.EACH + 1)]
        await transaction.connection.execute(insert(tables.ou), rows)
    (one,) = await lines(database)
    assert one.selector == {"ou": auditing.EACH + 1}
    assert one.after == {"rows": auditing.EACH + 1, "first": "acme/00", "last": "acme/20"}


def test_every_table_is_audited_unless_the_list_says_otherwise():
    """A new table is audited without anybody having thought of it; bytes are never shown."""
    left_out = {one.name for one in auditing.NOT_AUDITED}
    of_enrolment = {"enrolment_batch", "enrolment_device", "enrolment_transaction", "taken_file", "workflow_event"}
    of_jobs = {"admin_session", "job_run"}
    own = {"audit", "command", "command_outcome", "counter", "event", "image", "meta", "trace"}
    assert left_out == own | of_enrolment | of_jobs | {"revoked_certificate"}
    for table in tables.metadata.tables.values():
        triggers = auditing.arm().count(f"ON main.{table.name} ")
        assert triggers == (0 if table.name in left_out else 3), table.name
