"""Backup, restore, key rotation, and the hints."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from service.credentials.keyfile import KeyFile
from service.domain.changes import Changes
from service.domain.group import Group, KeyKind, Reactivation
from service.errors import Secret, ServiceError
from service.images.files import ImageFiles
from service.operations import backups, groups, rekeying
from service.operations.hints import HINTS, hint_of
from service.storage import operator_tables, tables
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.causes import causes_in_source
from tests.support.storage import GROUP, NOW, PRODUCT, a_device, a_sealer, new_database

IMAGE = "ab" * 32


@pytest.fixture
async def database(tmp_path):
    (tmp_path / "data").mkdir()
    opened = await new_database(tmp_path / "data" / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def images(tmp_path):
    return ImageFiles(tmp_path / "data" / "images")


async def register(database, *serials):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, a_device(serial)) for serial in serials)))


async def serials(database):
    async with SqlStore(database, {}).batch() as batch:
        found = await batch.load(serials=[(GROUP.group_id, f"sn-{n}") for n in range(5)])
    return sorted(one.serial for one in found.by_serial.values())


def cause_of(call, *arguments, **options):
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **options)
    return caught.value.cause


async def test_a_backup_of_a_database_in_use_is_one_whole_snapshot(database, images, tmp_path):
    await register(database, "sn-1")
    with closing(sqlite3.connect(database.path)) as other:
        other.execute("INSERT INTO image VALUES (?, 5, 1)", (IMAGE,))
        other.commit()
    async with database.write() as transaction:  # a writer in the middle of its work is not waited for
        await transaction.connection.exec_driver_sql("DELETE FROM image")
        made = await backups.backup(database, tmp_path / "backup", now=NOW)
        transaction.abandon()
    assert [one.image_id for one in made.images] == [IMAGE]
    assert sorted(one.name for one in (tmp_path / "backup").iterdir()) == ["firstlight.db", "manifest.json"]
    await register(database, "sn-2")
    target = tmp_path / "new" / "firstlight.db"
    restored = backups.restore(tmp_path / "backup", target, images)
    assert restored.missing_images == [IMAGE]
    copy = await Database.open(target, a_sealer())
    assert await serials(copy) == ["sn-1"]
    await copy.close()
    assert target.stat().st_mode & 0o777 == 0o600


async def test_a_backup_goes_only_to_an_empty_directory(database, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ServiceError) as caught:
        await backups.backup(database, tmp_path / "full", now=NOW)
    assert caught.value.cause == "backup_exists"


async def test_restore_is_refused_over_a_live_database(database, images, tmp_path):
    await register(database, "sn-1")
    await backups.backup(database, tmp_path / "backup", now=NOW)
    await register(database, "sn-2")
    assert cause_of(backups.restore, tmp_path / "backup", database.path, images) == "database_exists"
    assert cause_of(backups.restore, tmp_path / "backup", database.path, images, replace=True) == "database_live"
    assert await serials(database) == ["sn-1", "sn-2"]
    await database.close()
    backups.restore(tmp_path / "backup", database.path, images, replace=True)
    again = await Database.open(database.path, a_sealer())
    assert await serials(again) == ["sn-1"]
    await again.close()
    kept = await Database.open(database.path.with_name("firstlight.db.before-restore"), a_sealer())
    assert await serials(kept) == ["sn-1", "sn-2"]
    await kept.close()


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("flip", "backup_damaged"),
        ("cut", "backup_damaged"),
        ("no database", "backup_damaged"),
        ("no manifest", "backup_unreadable"),
        ("manifest", "backup_unreadable"),
        ("format", "backup_unreadable"),
        ("newer", "schema_newer"),
    ],
)
@pytest.mark.unaudited
async def test_a_backup_that_is_not_whole_is_not_restored(database, images, tmp_path, damage, cause):
    folder = tmp_path / "backup"
    await backups.backup(database, folder, now=NOW)
    copy, manifest = folder / "firstlight.db", folder / "manifest.json"
    raw = bytearray(copy.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
        copy.write_bytes(raw)
    elif damage == "cut":
        copy.write_bytes(raw[:-4096])
    elif damage == "no database":
        copy.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "manifest":
        manifest.write_text("[]")
    elif damage == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": "other"}))
    else:
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0099'")
            connection.commit()
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "sha256": backups._sha256(copy)}))
    target = tmp_path / "new" / "firstlight.db"
    assert cause_of(backups.restore, folder, target, images) == cause
    assert not target.exists()


# Key rotation


@pytest.fixture
async def sealed(tmp_path):
    """A database with 25 device keys and a group secret, under a real key file."""
    key_file, path = tmp_path / "keys.json", tmp_path / "firstlight.db"
    keys = KeyFile.create(key_file)
    await (await new_database(path, seeded=False)).close()
    database = await Database.open(path, keys.sealer())
    from service.operations import products

    await products.create(database, PRODUCT.product_id, PRODUCT.name, PRODUCT.hardware)
    secret = Secret(b"S" * 32)
    group = Group("shared", PRODUCT.product_id, KeyKind.GROUP, secret, reactivation=Reactivation.OPERATOR)
    await groups.create(database, group, random_bytes=bytes)
    await groups.create(database, GROUP, random_bytes=bytes)
    await register(database, *(f"sn-{n}" for n in range(25)))
    await database.close()
    return key_file, path


async def check_readable(key_file, path):
    database = await Database.open(path, KeyFile.load(key_file).sealer())
    async with SqlStore(database, {}).batch() as batch:
        loaded = await batch.load(serials=[(GROUP.group_id, f"sn-{n}") for n in range(25)])
        assert {one.key for one in loaded.by_serial.values()} == {Secret(b"K" * 32)}
        assert len(loaded.by_serial) == 25
        assert batch.catalogue.groups["shared"].secret == Secret(b"S" * 32)
    kids = await rekeying.kids_in_use(database)
    await database.close()
    return kids


async def test_rotation_seals_everything_under_a_new_key_and_removes_the_old_one(sealed):
    key_file, path = sealed
    old = KeyFile.load(key_file)
    done = await rekeying.rotate(key_file, path)
    new = KeyFile.load(key_file)
    assert done.resealed == 26
    assert done.retired == [old.seal_current]
    assert set(new.seal_keys) == {done.kid} == await check_readable(key_file, path)
    assert new.service_key == old.service_key
    assert new.nonce_keys()[0].reveal() != old.nonce_keys()[0].reveal()
    assert new.nonce_keys()[1].reveal() == old.nonce_keys()[0].reveal()


async def test_a_backup_from_before_a_rotation_is_not_restored_without_its_keys(sealed, images, tmp_path):
    key_file, path = sealed
    database = await Database.open(path, KeyFile.load(key_file).sealer())
    await backups.backup(database, tmp_path / "backup", now=NOW)
    await database.close()
    old = KeyFile.load(key_file).seal_keys
    await rekeying.rotate(key_file, path)
    asked = {"replace": True, "kids": KeyFile.load(key_file).seal_keys}
    assert cause_of(backups.restore, tmp_path / "backup", path, images, **asked) == "seal_key_missing"
    assert sorted(one.name for one in (tmp_path / "backup").iterdir()) == ["firstlight.db", "manifest.json"]
    await check_readable(key_file, path)
    backups.restore(tmp_path / "backup", path, images, replace=True, kids=old)


def test_rotation_knows_every_sealed_column():
    sealed_columns = {
        column
        for table in tables.metadata.tables.values()
        for column in table.columns
        if column.name.endswith("_sealed")
    }
    # A command's secrets are used in the transaction that stores it, so nothing is ever written there.
    unused = {operator_tables.command.c.secrets_sealed}
    assert sealed_columns - unused == {column for _, _, column, _ in rekeying.SEALED}


async def test_a_rotation_that_was_cut_short_goes_on_with_its_key(sealed, monkeypatch):
    key_file, path = sealed
    reseal, calls = rekeying._sealed_again, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return reseal(*arguments)

    monkeypatch.setattr(rekeying, "_sealed_again", dies)
    monkeypatch.setattr(rekeying, "PAGE", 5)
    monkeypatch.setattr(rekeying.reseal, "__kwdefaults__", {"page": 5})
    with pytest.raises(KeyboardInterrupt):
        await rekeying.rotate(key_file, path)
    halfway = KeyFile.load(key_file)
    assert len(halfway.seal_keys) == 2
    assert await check_readable(key_file, path) == set(halfway.seal_keys)
    done = await rekeying.rotate(key_file, path)
    assert done.kid == halfway.seal_current
    assert 0 < done.resealed < 26
    assert await check_readable(key_file, path) == {done.kid}


# Hints


def test_every_cause_that_the_service_can_raise_has_a_hint():
    found = causes_in_source()
    assert {"serial_conflict", "storage_full", "confirm_held", "image_damaged"} <= set(found)
    assert {cause: where for cause, where in found.items() if not hint_of(cause)} == {}


def test_a_hint_is_a_sentence():
    for cause, hint in HINTS.items():
        assert 15 <= len(hint) <= 160, cause
        assert hint.isprintable()


def test_no_cause_is_no_hint_and_every_failed_proof_has_one():
    assert hint_of(None) == hint_of("activated") == ""
    assert hint_of("refused_anything_else") != ""
