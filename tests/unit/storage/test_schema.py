"""The schema: what migrations make is what tables.py says, and an upgrade is all or nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.exc import SAWarning

from service.errors import ServiceError
from service.operations.sealed import SEALED
from service.storage import every_table, tables
from service.storage.database import Database
from service.storage.schema import MIGRATIONS, migrate
from tests.support.storage import a_sealer


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def structure(path):
    return sorted(rows(path, "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"))


def fill_first_schema(path):
    """A database as the previous schema has left it: one of everything that a version hangs on."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            INSERT INTO product (product_id, name, hardware, next_number) VALUES ('p', 'P', 'h', 7);
            INSERT INTO release_key VALUES ('k', x'01', 'main', 5);
            INSERT INTO image VALUES (printf('%064d', 1), 3, 5);
            INSERT INTO version VALUES ('v', 'p', '1.0', '', 'P', 'h', 1, printf('%064d', 1), 3, x'02', 'k');
            UPDATE product SET target_version_id = 'v';
            INSERT INTO registration_group VALUES ('g', 'p', 'individual', NULL, 0, NULL, NULL, 60, 'hold');
            INSERT INTO device (device_id, group_id, serial, state, registered_at, boot_count, caps, fw_confirmed_seq)
                VALUES ('d', 'g', 's', 'registered', 1, 0, '[]', 0);
            """
        )


def test_migrations_make_exactly_what_the_tables_say(tmp_path):
    path = tmp_path / "db"
    assert migrate(path) == tables.HEAD
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # product and version refer to each other
        warnings.simplefilter("ignore", UserWarning)  # SQLite cannot reflect the index on an expression
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, every_table.metadata) == []
    engine.dispose()
    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name = 'uq_image_prefix'") == [(1,)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_newest_migration_is_the_one_the_code_names():
    names = sorted(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert names[-1].startswith(tables.HEAD)


def test_migrating_twice_changes_nothing(tmp_path):
    path = tmp_path / "db"
    migrate(path)
    before = structure(path)
    assert migrate(path) == tables.HEAD
    assert structure(path) == before


def test_a_database_of_the_previous_schema_upgrades_and_keeps_its_rows(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    assert migrate(old, "0001") == "0001"
    fill_first_schema(old)
    assert migrate(old) == tables.HEAD
    assert rows(old, "SELECT version_id, seq, added_at FROM version") == [("v", 1, None)]
    assert rows(old, "SELECT next_number, target_version_id FROM product") == [(7, "v")]
    assert rows(old, "SELECT device_id, serial FROM device") == [("d", "s")]
    assert rows(old, "PRAGMA foreign_key_check") == []
    migrate(new)
    assert structure(old) == structure(new)


def test_things_and_retired_devices_of_before_get_their_number_and_their_deadline(tmp_path):
    path = tmp_path / "db"
    migrate(path, "0005")
    fill_first_schema_later(path)
    before_ms = time.time() * 1000
    assert migrate(path) == tables.HEAD
    assert rows(path, "SELECT name, number FROM thing ORDER BY thing_id") == [
        ("P 1", 1), ("Kitchen", 7), ("P 3", 3), ("P 02", 8),
    ]  # fmt: skip
    assert rows(path, "SELECT next_number FROM product") == [(9,)]
    ((wiped, none), (waits, at)) = rows(
        path, "SELECT device_id, retire_deadline_at FROM device WHERE state = 'retired'"
    )
    assert (wiped, none, waits) == ("d1", None, "d2")
    assert 0 <= at - before_ms - 30 * 24 * 3600 * 1000 + 1000 < 60_000


def fill_first_schema_later(path):
    """Things with names of all sorts, and two retired devices of which one still has its credential."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO product (product_id, name, hardware, next_number) VALUES ('p', 'P', 'h', 7)")
        group = "INSERT INTO registration_group (group_id, product_id, key_kind, self_registration, pending_expiry_s, reactivation)"
        connection.execute(f"{group} VALUES ('g', 'p', 'individual', 0, 60, 'hold')")
        names = {"d1": "P 1", "d2": "Kitchen", "d3": "P 3", "d4": "P 02"}
        for device_id, name in names.items():
            state = "retired" if device_id in ("d1", "d2") else "confirmed"
            connection.execute(
                "INSERT INTO device (device_id, group_id, serial, state, registered_at, boot_count, caps, fw_confirmed_seq) "
                "VALUES (?, 'g', ?, ?, 1, 0, '[]', 0)",
                (device_id, device_id, state),
            )
            connection.execute(
                "INSERT INTO thing (thing_id, group_id, product_id, name, ou, environment, holder_device_id, created_at) "
                "VALUES (?, 'g', 'p', ?, 'acme', 'prod', ?, 1)",
                (f"t{device_id}", name, device_id),
            )
        connection.execute(
            "INSERT INTO credential (credential_id, device_id, kind, state, environment, created_at, expires_at, boot_count, "
            "nonce, server_nonce, grant, encoding, last_boot_count, last_n, desired_rev, awaits_operator, approved) "
            "VALUES ('c', 'd2', 'api_key', 'confirmed', 'prod', 1, 1, 1, x'', x'', x'', 'json', 0, 0, 0, 0, 0)"
        )
        connection.commit()


def test_certificates_of_dropped_credentials_are_remembered_as_revoked_after_the_upgrade(tmp_path):
    path = tmp_path / "db"
    migrate(path, "0010")
    fill_first_schema_later(path)
    with closing(sqlite3.connect(path)) as connection:
        columns = ", ".join(
            name for _, name, *_ in connection.execute("PRAGMA table_info(credential)") if name not in CHANGED
        )
        for name, values in {
            "live": ("'pending'", "NULL", "'aa'", "randomblob(32)", "7000"),
            "dropped": ("'dropped'", "5", "'bb'", "x'" + "07" * 32 + "'", "8000"),
            "without-an-end": ("'dropped'", "5", "'cc'", "randomblob(32)", "NULL"),
            "an-api-key": ("'dropped'", "5", "NULL", "NULL", "NULL"),
        }.items():
            connection.execute(
                f"INSERT INTO credential ({columns}, {', '.join(CHANGED)}) "
                f"SELECT {columns}, '{name}', {', '.join(values)} FROM credential WHERE credential_id = 'c'"
            )
        connection.commit()
    assert migrate(path) == tables.HEAD
    found = rows(path, "SELECT environment, serial, spki_sha256, expires_at FROM revoked_certificate ORDER BY serial")
    year_ms = 366 * 24 * 3600 * 1000
    assert [(row[0], row[1], row[3]) for row in found] == [("prod", "bb", 8000), ("prod", "cc", 5 + year_ms)]
    assert found[0][2] == b"\7" * 32


CHANGED = ("credential_id", "state", "dropped_at", "certificate_serial", "spki_sha256", "certificate_expires_at")


def test_purchases_of_before_are_live_after_the_upgrade(tmp_path):
    path = tmp_path / "db"
    migrate(path, "0011")
    sale = (
        "INSERT INTO purchase (purchase_id, user_id, product_id, option_id, provider, package, state, created_at{}) "
        "VALUES ('{}', 1, 'cinema', 'monthly', 'ca', 'C', 'bought', 1{})"
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sale.format("", "p-1", ""))
        connection.commit()
    assert migrate(path) == tables.HEAD
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(sale.format("", "p-2", ""))
        connection.execute(sale.format(", ended_at", "p-3", ", 5"))
        connection.execute("UPDATE purchase SET ended_at = 5")
        connection.execute(sale.format("", "p-2", ""))


@pytest.mark.parametrize("start", [None, "0001"])
def test_an_upgrade_killed_before_any_statement_leaves_the_old_schema_or_the_new(tmp_path, start):
    statements = (1, 4, 6, 7, 8, 9, 10, 11, 10_000)
    paths = [tmp_path / f"db{statement}" for statement in statements]
    if start is not None:
        migrate(paths[0], start)
        fill_first_schema(paths[0])
        for path in paths[1:]:
            path.write_bytes(paths[0].read_bytes())
    arguments = [f"{path}={statement}" for path, statement in zip(paths, statements, strict=True)]
    run = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=True)
    codes = [int(code) for code in run.stdout.split()]
    assert codes[-1] == 0
    assert codes.count(9) >= 4
    for path, code in zip(paths, codes, strict=True):
        found = rows(path, "SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
        schema = rows(path, "SELECT version_num FROM alembic_version")[0][0] if found else None
        assert schema == (start if code == 9 else tables.HEAD)
        if schema == "0001":
            assert "added_at" not in {row[1] for row in rows(path, "PRAGMA table_info(version)")}
    assert migrate(paths[4]) == tables.HEAD  # and the next try goes through


KILLED = """
import os, sys
from pathlib import Path
from alembic import command
from sqlalchemy import Engine, event
from service.storage.schema import migrate

seen, at = 0, 0

def die(*_):
    global seen
    seen += 1
    if seen == at:
        os._exit(9)

event.listen(Engine, "before_cursor_execute", die)
for one in sys.argv[1:]:
    path, _, statement = one.rpartition("=")
    child = os.fork()
    if child == 0:
        at = int(statement)
        migrate(Path(path))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("version", "cause"),
    [("0099", "schema_newer"), ("9999", "schema_newer"), ("abc", "schema_newer"), ("0001", "schema_older")],
)
async def test_another_schema_is_refused_and_says_which(tmp_path, version, cause):
    path = tmp_path / "db"
    await asyncio.to_thread(migrate, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.commit()
    with pytest.raises(ServiceError) as refused:
        await Database.open(path, a_sealer())
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", cause)
    assert version in refused.value.public


def test_a_newer_schema_is_not_touched_by_migrate(tmp_path):
    path = tmp_path / "db"
    migrate(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    with pytest.raises(ServiceError, match="newer"):
        migrate(path)


@pytest.mark.parametrize("content", [None, b""])
async def test_no_database_is_an_error_that_names_init(tmp_path, content):
    path = tmp_path / "db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ServiceError, match="firstlight init") as refused:
        await Database.open(path, a_sealer())
    assert refused.value.cause == "schema_missing"
    assert path.exists() == (content is not None)


def test_every_sealed_column_is_known_to_the_rotation_of_the_seal_key():
    sealed = {
        str(column) for table in every_table.metadata.tables.values() for column in table.c if "_sealed" in str(column)
    }
    known = {str(column) for _, _, column, _ in SEALED}
    assert sealed - known == {"command.secrets_sealed"}  # nothing writes it
    assert all(str(key.type) == "VARCHAR" and list(table.primary_key) == [key] for table, key, _, _ in SEALED)
