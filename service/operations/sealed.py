"""Which columns of the database are sealed, and whether the keys at hand can open them.

Owns the list of sealed columns. Rotation (rekeying.py) goes through it; a start and a restore ask here first, because a
database from before a rotation cannot be used with the key file from after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Table

from service.operations.requests import conflict
from service.storage.box_tables import access_provider
from service.storage.enrolment_tables import enrolment_batch, enrolment_provider
from service.storage.errors import unavailable_on_error
from service.storage.job_tables import config_entry
from service.storage.operator_tables import account
from service.storage.sealing import (
    KID_BYTES,
    access_provider_aad,
    account_key_aad,
    config_entry_aad,
    device_key_aad,
    enrolment_batch_aad,
    enrolment_provider_aad,
    group_secret_aad,
    label_key_aad,
    manifest_secret_aad,
    old_secret_aad,
    order_policies_aad,
    site_settings_aad,
)
from service.storage.tables import device, group_secret, label, registration_group
from service.storage.warehouse_tables import manifest_secret, sales_order, site_settings

Aad = Callable[[str], bytes]
# Every sealed column: (table, its key, the column, what a value is bound to).
SEALED: tuple[tuple[Table, Column[Any], Column[Any], Aad], ...] = (
    (registration_group, registration_group.c.group_id, registration_group.c.secret_sealed, group_secret_aad),
    (group_secret, group_secret.c.secret_id, group_secret.c.secret_sealed, old_secret_aad),
    (device, device.c.device_id, device.c.key_sealed, device_key_aad),
    (account, account.c.name, account.c.key_sealed, account_key_aad),
    (label, label.c.label_id, label.c.key_sealed, label_key_aad),
    (site_settings, site_settings.c.settings_id, site_settings.c.settings_sealed, site_settings_aad),
    (manifest_secret, manifest_secret.c.secret_id, manifest_secret.c.content_sealed, manifest_secret_aad),
    (sales_order, sales_order.c.order_id, sales_order.c.policies_sealed, order_policies_aad),
    (access_provider, access_provider.c.name, access_provider.c.secret_sealed, access_provider_aad),
    (
        enrolment_provider,
        enrolment_provider.c.provider_id,
        enrolment_provider.c.secret_sealed,
        enrolment_provider_aad,
    ),
    (enrolment_batch, enrolment_batch.c.batch_id, enrolment_batch.c.document_sealed, enrolment_batch_aad),
    (config_entry, config_entry.c.name, config_entry.c.value_sealed, config_entry_aad),
)


def check_openable(database_path: Path, kids: Collection[str], *, immutable: bool = False) -> None:
    """Raise ServiceError CONFLICT where some value is sealed under none of these keys (ids); UNAVAILABLE as usual.

    `immutable`: nobody writes this file, so nothing is written beside it either. Reads every sealed value's first bytes: about a second for a million devices.
    """
    used: set[str] = set()
    with (
        unavailable_on_error(),
        closing(sqlite3.connect(f"file:{database_path}?mode=ro&immutable={int(immutable)}", uri=True)) as connection,
    ):
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, _, column, _ in SEALED:
            if table.name not in there:  # of a newer schema than this database
                continue
            query = (
                f"SELECT DISTINCT substr({column.name}, 1, {KID_BYTES}) FROM {table.name} WHERE {column.name} NOTNULL"  # noqa: S608 - names of our own
            )
            used.update(bytes(row[0]).decode("ascii", "replace") for row in connection.execute(query))
    missing = sorted(used - set(kids))
    if missing:
        raise conflict(
            "seal_key_missing",
            f"the database has secrets sealed under key {', '.join(missing)}, which keys.json does not hold; "
            "put the keys.json of that database's time in its place",
        )
