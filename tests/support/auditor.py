"""The auditor: does what the service remembers agree with what its devices were told and what its brokers let in?

Reads a database file with the standard library only, so that no mistake of ours is shared with it, and says every
broken promise in one sentence. An empty list is a clean audit.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Told:
    """One reply that a device received and took for genuine."""

    group_id: str
    serial: str
    verb: str  # "activate", or one of a credential such as "report"
    credential_id: str
    thing_id: str | None = None  # of an activate
    numbers: tuple[int, int] | None = None  # (boot_count, n) of the request that was answered
    name: str | None = None  # of a rename


def told_by(replies: Iterable[Any]) -> list[Told]:
    """What the simulator's devices were told, of its record of replies."""
    return [
        Told(one.group_id, one.serial, one.verb, one.credential_id, one.thing_id, one.numbers)
        for one in replies
        if one.ok and one.proven and one.verb in ("activate", "online", "report") and one.credential_id is not None
    ]


def audit(
    database: Path,
    told: Iterable[Told] = (),
    *,
    logins: Collection[str] | None = None,
    refused: Collection[int] | None = None,
    settled: bool = True,
) -> list[str]:
    """Every broken promise found. `logins`: the API-key credential ids that the broker would let in, where it can say.

    `refused`: the serial numbers of certificates that the broker's list refuses.

    `settled`: the service has been left alone long enough to have told its broker of every drop.
    """
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        if damaged := _file(connection):
            return damaged  # nothing else in it can be read for sure
        found = [
            *_credentials(connection),
            *_things(connection),
            *_replacements(connection),
            *_replies(connection, told),
            *_certificates(connection),
        ]
        if settled:
            found += _revocations(connection)
        if logins is not None:
            found += _logins(connection, set(logins))
        if refused is not None:
            found += _refused(connection, set(refused))
        return found
    finally:
        connection.close()


def confirmed_devices(database: Path) -> set[tuple[str, str]]:
    """(group_id, serial) of every device whose target firmware is confirmed on a confirmed credential."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT d.group_id, d.serial FROM device d JOIN credential c ON c.device_id = d.device_id"
            " JOIN thing t ON t.holder_device_id = d.device_id JOIN product p ON p.product_id = t.product_id"
            " WHERE c.state = 'confirmed' AND d.fw_state = 'confirmed' AND t.installed_version_id = p.target_version_id"
        )
        return set(rows)
    finally:
        connection.close()


def _file(connection: sqlite3.Connection) -> list[str]:
    verdict = connection.execute("PRAGMA integrity_check").fetchall()
    broken = [f"integrity check: {row[0]}" for row in verdict if row[0] != "ok"]
    return broken + [f"foreign key: {tuple(row)}" for row in connection.execute("PRAGMA foreign_key_check")]


def _credentials(connection: sqlite3.Connection) -> list[str]:
    found = [
        f"{row['group_id']}/{row['serial']} has {row['confirmed']} confirmed, {row['pending']} pending"
        for row in connection.execute(
            "SELECT d.group_id, d.serial, sum(c.state = 'confirmed') AS confirmed, sum(c.state = 'pending') AS pending"
            " FROM credential c JOIN device d USING (device_id) GROUP BY device_id HAVING confirmed > 1 OR pending > 4"
        )
    ]
    found += [
        f"credential {row['credential_id']} went back or lacks its times"
        for row in connection.execute(
            "SELECT credential_id FROM credential WHERE (state = 'confirmed' AND confirmed_at IS NULL)"
            " OR (state = 'pending' AND confirmed_at IS NOT NULL) OR (state = 'dropped') <> (dropped_at IS NOT NULL)"
        )
    ]
    return found


def _things(connection: sqlite3.Connection) -> list[str]:
    found = [
        f"{row['group_id']}/{row['serial']} has a live credential and no thing"
        for row in connection.execute(
            "SELECT d.group_id, d.serial FROM device d LEFT JOIN thing t"
            " ON d.device_id IN (t.holder_device_id, t.successor_device_id)"
            " WHERE t.thing_id IS NULL AND EXISTS (SELECT 1 FROM credential c WHERE c.device_id = d.device_id"
            " AND c.state IN ('pending', 'confirmed'))"
        )
    ]
    found += [
        f"two things of {row['product_id']} were named {row['name']}"
        for row in connection.execute(
            "SELECT name, product_id FROM thing GROUP BY product_id, name HAVING count(*) > 1"
        )
    ]
    return found


def _replacements(connection: sqlite3.Connection) -> list[str]:
    """One holder and at most one successor for each thing; who was replaced is out; a thing is where its device is."""
    sentences = {
        "{} was replaced and has a live credential": (
            "SELECT d.serial FROM device d JOIN credential c USING (device_id)"
            " WHERE d.state = 'replaced' AND c.state <> 'dropped'"
        ),
        "{} was replaced, and nobody knows by whom": (
            "SELECT d.serial FROM device d LEFT JOIN device n ON n.device_id = d.replaced_by"
            " WHERE (d.state = 'replaced') <> (n.device_id IS NOT NULL)"
        ),
        "{} was replaced and still has a thing": (
            "SELECT d.serial FROM device d JOIN thing t ON d.device_id IN (t.holder_device_id, t.successor_device_id)"
            " WHERE d.state = 'replaced'"
        ),
        "{} is more than one thing's holder or successor": (
            "SELECT d.serial FROM device d JOIN thing t ON d.device_id IN (t.holder_device_id, t.successor_device_id)"
            " GROUP BY d.device_id HAVING count(*) > 1 OR max(t.holder_device_id = t.successor_device_id) = 1"
        ),
        "{} is a successor that is confirmed": (
            "SELECT d.serial FROM device d JOIN thing t ON t.successor_device_id = d.device_id"
            " JOIN credential c ON c.device_id = d.device_id WHERE c.state = 'confirmed'"
        ),
        "{} is confirmed in another environment than its thing": (
            "SELECT d.serial FROM device d JOIN thing t ON t.holder_device_id = d.device_id"
            " JOIN credential c ON c.device_id = d.device_id"
            " WHERE c.state = 'confirmed' AND c.environment <> t.environment"
        ),
    }
    return [text.format(row[0]) for text, query in sentences.items() for row in connection.execute(query)]


def _replies(connection: sqlite3.Connection, told: Iterable[Told]) -> list[str]:
    found = []
    names: dict[str, str] = {}  # by credential: the one that was told last
    query = (
        "SELECT c.state, c.confirmed_at, c.last_boot_count, c.last_n, t.thing_id, t.name FROM credential c JOIN device d USING (device_id)"
        " LEFT JOIN thing t ON d.device_id IN (t.holder_device_id, t.successor_device_id)"
        " WHERE c.credential_id = ? AND d.group_id = ? AND d.serial = ?"
    )
    for reply in told:
        who = f"{reply.group_id}/{reply.serial}"
        row = connection.execute(query, (reply.credential_id, reply.group_id, reply.serial)).fetchone()
        if row is None:
            found.append(f"{who} was told of credential {reply.credential_id}, which is forgotten")
        elif reply.verb != "activate" and row["confirmed_at"] is None:
            found.append(f"{who} was told that {reply.credential_id} is confirmed, which is forgotten")
        elif reply.thing_id not in (None, row["thing_id"]) and row["state"] != "dropped":
            found.append(f"{who} was told thing {reply.thing_id}, but its thing is {row['thing_id']}")
        elif reply.numbers is not None and (row["last_boot_count"], row["last_n"]) < reply.numbers:
            found.append(f"the {reply.verb} {reply.numbers} of {who} was answered, which is forgotten")
        if reply.name is not None:
            names[reply.credential_id] = reply.name
    for credential_id, name in names.items():
        row = connection.execute(query.partition(" AND d.group_id")[0], (credential_id,)).fetchone()
        if row is not None and row["name"] != name:
            found.append(f"{credential_id} was told that its thing is called {name}, but it is called {row['name']}")
    return found


def _revocations(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT credential_id FROM credential WHERE state = 'dropped' AND revoked_at IS NULL")
    return [f"dropped credential {row['credential_id']} was never revoked at the broker" for row in rows]


def _logins(connection: sqlite3.Connection, logins: set[str]) -> list[str]:
    query = "SELECT credential_id FROM credential WHERE kind = 'api_key' AND state IN ('pending', 'confirmed')"
    wanted = {row["credential_id"] for row in connection.execute(query)}
    return [f"the broker lets in {one}, which no row allows" for one in sorted(logins - wanted)] + [
        f"the broker refuses {one}, whose row is live" for one in sorted(wanted - logins)
    ]


def _certificates(connection: sqlite3.Connection) -> list[str]:
    """What was dropped is remembered as revoked, and nothing else is: neither a certificate nor a key that is in use."""
    sentences = {
        "the certificate of dropped credential {} is not remembered as revoked": (
            "SELECT c.credential_id FROM credential c LEFT JOIN revoked_certificate r"
            " ON r.environment = c.environment AND r.serial = c.certificate_serial AND r.spki_sha256 IS c.spki_sha256"
            " WHERE c.state = 'dropped' AND c.certificate_serial IS NOT NULL AND c.certificate_expires_at > :now"
            " AND r.serial IS NULL"
        ),
        "live credential {} has a certificate that is revoked, or the key of one": (
            "SELECT c.credential_id FROM credential c JOIN revoked_certificate r"
            " ON (r.environment = c.environment AND r.serial = c.certificate_serial) OR r.spki_sha256 = c.spki_sha256"
            " WHERE c.state <> 'dropped'"
        ),
    }
    now = {"now": time.time() * 1000}
    return [text.format(row[0]) for text, query in sentences.items() for row in connection.execute(query, now)]


def _refused(connection: sqlite3.Connection, refused: set[int]) -> list[str]:
    rows = connection.execute("SELECT serial, expires_at FROM revoked_certificate").fetchall()
    wanted = {int(row["serial"], 16) for row in rows if row["expires_at"] > time.time() * 1000}
    return [f"the broker's list lets in certificate {one:x}, which is revoked" for one in sorted(wanted - refused)] + [
        f"the broker's list refuses certificate {one:x}, which no row revokes"
        for one in sorted(refused - {int(row["serial"], 16) for row in rows})
    ]
