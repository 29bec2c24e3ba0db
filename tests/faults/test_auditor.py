"""The auditor itself: clean on a true database, and a finding for every way in which one can be made untrue."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.support.auditor import Told, audit, confirmed_devices
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import GROUP, made_site

_TRUE: dict[str, object] = {}


@pytest.fixture
async def true_site(tmp_path: Path) -> tuple[Path, str, str]:
    """(database, credential, thing) of one confirmed device with one dropped credential; a copy for each test."""
    if not _TRUE:
        async with made_site(tmp_path / "site") as site:
            await site.register(["sn-1", "sn-2"])
            version = await site.add_version("2.0", 2, b"image")
            async with site.serving_here() as service, MqttPeer(site, "sn-1") as peer:
                assert (await peer.activate())["ok"]
                await peer.new_session()
                assert (await peer.activate())["ok"]
                assert (await peer.online(firmware={"version_id": version}))["ok"]
                await service.pipeline.revoker.revoke_all()
                assert (await peer.report())["ok"]
                assert (await peer.ask("c", "rename", {"n": 3, "name": "roof"}))["ok"]
                _TRUE["thing"], _TRUE["credential"] = peer.grant["thing_id"], peer.credential_id
            with sqlite3.connect(site.settings.database_path) as there:  # with what stands in its log only
                there.execute("VACUUM INTO ?", (str(tmp_path / "whole.db"),))
            _TRUE["data"] = (tmp_path / "whole.db").read_bytes()
    path = tmp_path / "copy.db"
    path.write_bytes(_TRUE["data"])  # type: ignore[arg-type]
    return path, str(_TRUE["credential"]), str(_TRUE["thing"])


def told_of(credential: str, thing: str) -> list[Told]:
    return [
        Told(GROUP, "sn-1", "activate", credential, thing),
        Told(GROUP, "sn-1", "online", credential, numbers=(1, 1)),
        Told(GROUP, "sn-1", "report", credential, numbers=(1, 2)),
        Told(GROUP, "sn-1", "rename", credential, name="cellar"),
        Told(GROUP, "sn-1", "rename", credential, numbers=(1, 3), name="roof"),
    ]


def test_a_true_database_has_no_finding(true_site: tuple[Path, str, str]) -> None:
    path, credential, thing = true_site
    assert audit(path, told_of(credential, thing), logins={credential}, refused=()) == []
    assert confirmed_devices(path) == {(GROUP, "sn-1")}


CERTIFIED = (
    "UPDATE credential SET certificate_serial = 'a1', certificate_expires_at = 9e12, spki_sha256 = randomblob(32) "
)
NO_INDEX = "DROP INDEX uq_credential_confirmed;"
UNTRUE = {
    "has 2 confirmed": NO_INDEX
    + "UPDATE credential SET state = 'confirmed', dropped_at = NULL, confirmed_at = 1 WHERE state = 'dropped'",
    "went back or lacks its times": "UPDATE credential SET confirmed_at = NULL WHERE state = 'confirmed'",
    "has a live credential and no thing": "DELETE FROM thing",
    "was never revoked at the broker": "UPDATE credential SET revoked_at = NULL WHERE state = 'dropped'",
    "is forgotten": "DELETE FROM credential WHERE state = 'confirmed'",
    "is confirmed, which is forgotten": (
        "UPDATE credential SET state = 'pending', confirmed_at = NULL WHERE state = 'confirmed'"),
    "the report (1, 2) of": "UPDATE credential SET last_n = 1",
    "the rename (1, 3) of": "UPDATE credential SET last_boot_count = 0",
    "that its thing is called roof": "UPDATE thing SET name = 'cellar'",
    "but its thing is": "UPDATE thing SET thing_id = 'another'",
    "was replaced and has a live credential": "UPDATE device SET state = 'replaced', replaced_by = device_id",
    "nobody knows by whom": "UPDATE device SET state = 'replaced'",
    "was replaced and still has a thing": "UPDATE device SET state = 'replaced', replaced_by = device_id",
    "more than one thing's holder or successor": "UPDATE thing SET successor_device_id = holder_device_id",
    "is a successor that is confirmed": (
        "UPDATE thing SET successor_device_id = holder_device_id, holder_device_id ="
        " (SELECT device_id FROM device WHERE serial = 'sn-2')"),
    "in another environment than its thing": "UPDATE thing SET environment = 'elsewhere'",
    "is not remembered as revoked": CERTIFIED + "WHERE state = 'dropped'",
    "has a certificate that is revoked": CERTIFIED + (
        "WHERE state = 'confirmed'; INSERT INTO revoked_certificate SELECT environment, 'a1', NULL, 9e12 FROM credential"
        " WHERE state = 'confirmed'"),
    "or the key of one": CERTIFIED + (
        "WHERE state = 'confirmed'; INSERT INTO revoked_certificate SELECT 'gone', 'b2', spki_sha256, 1 FROM credential"
        " WHERE state = 'confirmed'"),
    "lets in certificate b2": "INSERT INTO revoked_certificate VALUES ('local', 'b2', NULL, 9e12)",
    "refuses certificate c3": "INSERT INTO revoked_certificate VALUES ('local', 'b2', NULL, 1)",
    "foreign key": "UPDATE credential SET device_id = 'nobody'",
    "the broker lets in": "UPDATE credential SET state = 'dropped', dropped_at = 1, revoked_at = 1 WHERE state = 'confirmed'",
    "whose row is live": (
        "CREATE TEMP TABLE copy AS SELECT * FROM credential WHERE state = 'confirmed';"
        "UPDATE copy SET credential_id = lower(hex(randomblob(16))), state = 'pending', confirmed_at = NULL;"
        "INSERT INTO credential SELECT * FROM copy"),
}  # fmt: skip


@pytest.mark.parametrize("finding", UNTRUE)
def test_every_untruth_is_found(true_site: tuple[Path, str, str], finding: str) -> None:
    path, credential, thing = true_site
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON;" + UNTRUE[finding])
    connection.close()
    found = audit(path, told_of(credential, thing), logins={credential}, refused={0xC3} if "c3" in finding else ())
    assert any(finding in one for one in found), found


def test_a_damaged_file_is_found(true_site: tuple[Path, str, str], tmp_path: Path) -> None:
    path, _, _ = true_site
    damaged = tmp_path / "damaged.db"
    shutil.copy(path, damaged)
    connection = sqlite3.connect(damaged)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_credential_device'").fetchone()
    connection.close()
    with damaged.open("r+b") as file:
        file.seek((root - 1) * 4096 + 8)
        file.write(bytes(64))
    assert any("integrity check" in one for one in audit(damaged))
