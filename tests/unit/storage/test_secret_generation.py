"""Upgrading to several secrets of a group: who has come in by the only one there was, has proven that one."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from service.storage.schema import migrate

BEFORE = """
INSERT INTO product (product_id, name, hardware, next_number) VALUES ('p', 'P', 'h', 1);
INSERT INTO registration_group (group_id, product_id, key_kind, secret_sealed, self_registration, pending_expiry_s,
    reactivation) VALUES ('derived', 'p', 'derived', x'01', 0, 60, 'hold'), ('own', 'p', 'individual', NULL, 0, 60, 'hold');
INSERT INTO device (device_id, group_id, serial, state, registered_at, boot_count, caps, fw_confirmed_seq) VALUES
    ('1', 'derived', 'new', 'registered', 1, 0, '[]', 0), ('2', 'derived', 'known', 'confirmed', 1, 0, '[]', 0),
    ('3', 'own', 'other', 'confirmed', 1, 0, '[]', 0);
"""


def test_devices_that_have_come_in_are_bound_to_the_secret_there_was(tmp_path):
    path = tmp_path / "db"
    migrate(path, "0004")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(BEFORE)
    migrate(path)
    with closing(sqlite3.connect(path)) as connection:
        devices = connection.execute("SELECT serial, secret_generation FROM device ORDER BY device_id").fetchall()
        groups = connection.execute("SELECT group_id, secret_generation FROM registration_group ORDER BY 1").fetchall()
    assert devices == [("new", None), ("known", 1), ("other", None)]
    assert groups == [("derived", 1), ("own", 1)]
