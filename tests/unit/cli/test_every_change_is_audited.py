"""Whatever a command changes, the audit says: who, by which command, what was before and what is now; never a secret."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import os
import re
import sqlite3
from contextlib import closing, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.main import get_command

from service.cli.main import app
from service.credentials.keyfile import KeyFile
from service.domain.changes import Changes
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.storage import a_credential, a_device, a_thing
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture

# These change nothing that the installation knows, and why.
LOOKS = {
    *("account list", "audit", "batch show", "command list", "command status", "device list", "device show"),
    *(
        "environment list",
        "environment check",
        "environment authorities",
        "environment bootstrap list",
        "events",
        "group list",
        "group show",
        "ou list",
    ),
    *("product list", "product show", "release key list", "stats", "status", "trace", "version list"),
    *("keys public", "doctor", "broker check"),
    *("admin list", "config show", "daemon list", "daemon show", "job list", "job show"),
    *("device-type list", "device-type show", "equipment list", "equipment show", "manifest list", "manifest show"),
    *("order list", "order show", "site list", "site show", "warehouse failures", "warehouse watch"),
    *(
        "enrolment batches",
        "enrolment key list",
        "enrolment events",
        "enrolment list",
        "enrolment provider list",
        "enrolment reconcile",
        "enrolment show",
    ),
    *("partner service list", "partner user list", "partner provider list", "partner offer list"),
    "partner purchase list",
    *("stb list", "openapi"),
}
ELSEWHERE = {
    "init": "makes the installation: before it there is no audit",
    "serve": "is the service: what devices and accounts make it do is in traces, events and the audit of commands",
    "demo": "makes an installation of its own and throws it away",
    "backup": "writes a copy of what is there",
    "broker render": "writes what the database says",
    "release endorse": "works on files of its owner, offline",
    "release keygen": "works on a file of its owner, offline",
    "release sign": "works on a file of its owner, offline",
    "manifest sign": "works on files of its owner, offline",
    "enrolment certificate": "makes a key file beside the database",
}
START = datetime(2020, 1, 1, tzinfo=UTC)
KEY = base64.b64encode(bytes(range(32))).decode()
A_COMMAND = '{"selector":{"group":"g"}}'


def leaves(command, path=()):
    """Every command that there is, by the words that reach it."""
    if hasattr(command, "commands"):
        return {name for word, one in command.commands.items() for name in leaves(one, (*path, word))}
    return {" ".join(path)}


# One life of an installation: each line is run after those before it, and must leave an audit row.
LIFE = [
    "product create thermometer --name Thermometer --hardware rev-a",
    "group create g --product thermometer --ou acme --environment local",
    "group change g --pending-expiry-s 600",
    "group create burned --product thermometer --key-kind derived --ou acme --environment local",
    "group rotate-secret burned",
    "group retire-secret burned 1",
    "ou set acme/b --environment local",
    "ou clear acme/b --environment",
    "release key add {public} --name laptop",
    "release key add {other} --name other --unendorsed",
    "release key endorse {endorsement}",
    "version add thermometer 2.0 {image} --signature {signature}",
    "version target thermometer 2.0",
    "version target thermometer --none",
    "account create alice --role operator",
    "account rotate alice",
    "account disable alice",
    "account enable alice",
    "account remove alice",
    "environment add second --broker embedded",
    "environment rotate-ca second",
    "environment use-ca second",
    "environment forget-ca second",
    "environment bootstrap add local boot-2.example:8885",
    "environment bootstrap remove local boot-2.example:8885",
    "device register g sn-1 --key {key}",
    "device register g sn-2",
    "device import {devices}",
    "device approve g/waits",
    "device block g/sn-1",
    "device unblock g/sn-1",
    "labels --group burned --batch B42 --serial qr-1 --out {labels}",
    "onboard --scan {scan} --ou acme",
    "allocate g/sn-2 --ou acme/c",
    "block g/sn-2",
    "unblock g/sn-2",
    "set-attributes g/sn-2 --set floor=2",
    "set-settings g/waits --set volume=3",
    "set-target g/waits --version 2.0",
    "set-target g/waits --clear",
    "release-version g/waits",
    "unfreeze g/waits",
    "rename g/waits Kitchen",
    "reprovision g/waits --ou acme/d",
    "transfer g/waits",
    "replace g/waits sn-2",
    "undo-replace g/waits",
    "command submit block {command}",
    "command pause long",
    "command resume long",
    "command cancel long",
    "retire g/waits",
    "release key retire laptop",
    "keys rotate",
    "keys rotate-service",
    "keys use-service",
    "keys rotate-labels",
    "restore {backup} --replace",
]
# The same for what partners need.
PARTNERS = [
    "product create settop --name Settop --hardware rev-a",
    "group create g --product settop --ou acme --environment local",
    "group create boxes --product settop --key-kind public_key --ou acme --environment local",
    "group bare-serial g --allow",
    "partner service create tv --group boxes",
    "partner service rotate tv",
    "partner service disable tv",
    "partner service enable tv",
    "partner service allow-ip tv 192.0.2.7",
    "partner service forbid-ip tv 192.0.2.7",
    "partner user add tv stb_user@example.com",
    "partner provider set ca --url https://ca.example/soap",
    "partner offer set tv cinema monthly --provider ca --package CINEMA-1",
    "partner offer remove tv cinema monthly",
    "stb import {boxes} --service tv",
    "device-type create tablet --group g",
    "device-type set tablet --description venue",
    "site create hall --ou acme/hall",
    "site set hall --title Hall",
    "order create 4711 --site hall --line tablet",
    "order assign 4711 u-1",
    "order release 4711 g/u-1",
    "order cancel 4711",
    "config set enrolment.settle_s 10",
    "daemon schedule load */5_*_*_*_*",
    "daemon enable load",
    "daemon disable load",
    "job schedule enrolment-request */5_*_*_*_*",
    "job enable enrolment-request",
    "job disable enrolment-request",
    "enrolment dispatch-token",
    "enrolment provider create dep --adaptor dep --url https://provider.example/a --account R-7",
    "enrolment provider set dep --url https://provider.example/b",
    "enrolment provider token dep",
    "enrolment provider disable dep",
    "enrolment provider enable dep",
]
# Their rows are the command's, or there is nothing to do for them here: their own tests look closer.
MAY_BE_REFUSED = {"release-version g/waits", "unfreeze g/waits"}
_COMMANDS = "a command like `order assign`: the engine that all commands go through writes the row"
_OPERATION = "an operation like those above, which needs more than a line to be set up"
NOT_RUN = {
    "command run": "works off what `command submit` has asked, under the same audit",
    **dict.fromkeys(
        ("order close", "order import", "order hand-over", "site import", "device-type import", "restage"), _COMMANDS
    ),
    **{f"equipment {one}": _COMMANDS for one in ("import", "receive", "restage", "ship")},
    **dict.fromkeys(("manifest build", "stb unlink", "partner purchase end", "enrolment dispatch"), _OPERATION),
    **{f"enrolment {one}": _OPERATION for one in ("adopt", "give-up", "override", "retry", "return", "void")},
    **{
        f"enrolment key {one}": "works on files of keys, and says so in the audit"
        for one in ("next", "rotate", "retire")
    },
    **{f"admin {one}": _OPERATION for one in ("create", "disable", "enable", "password")},
    "daemon run": "runs what the service runs by its schedule",
    "job run": "runs what the service runs by its schedule",
}


@pytest.fixture
def run(installed):  # noqa: F811
    command = get_command(app)  # once: that takes longer than most commands

    def call(line, code=0, **words):
        arguments = [
            word.format(**words).replace("_", " ") if "_*" in word else word.format(**words) for word in line.split()
        ]
        with redirect_stdout(StringIO()) as said:
            ended = command.main(
                ["--config", str(installed.parent / "firstlight.toml"), *arguments], standalone_mode=False
            )
        assert (ended or 0) == code, line
        return said.getvalue()

    return call


def test_every_command_is_known_to_change_something_or_not():
    names = leaves(get_command(app))
    changing = {name for name in names for line in [*LIFE, *PARTNERS] if (line + " ").startswith(name + " ")}
    assert changing | LOOKS | set(ELSEWHERE) | set(NOT_RUN) == names
    assert not changing & (LOOKS | set(ELSEWHERE))


def opened(data):
    return Database.open(data / "firstlight.db", KeyFile.load(data / "keys.json").sealer(), changed_by=None)


async def a_long_command(data):
    database = await opened(data)
    request = Request.model_validate({"id": "long", "selector": {"group": "g"}, "rate": 1})
    await Commands(database, {}, random_bytes=os.urandom).submit(THIS_MACHINE, "block", request)
    await database.close()


async def a_device_that_waits(data):
    """A device in service with a second credential that an operator has to approve."""
    database = await opened(data)
    async with SqlStore(database, {}).batch() as batch:
        device = a_device("waits", group_id="g", state=DeviceState.CONFIRMED, registered_at=START)
        old = a_credential(device, "a" * 32, state=CredentialState.CONFIRMED, environment="local")
        new = a_credential(device, "b" * 32, environment="local", awaits_operator=True)
        thing = replace(a_thing(device), thing_id="f" * 32, environment="local")
        device = replace(device, thing=thing, credentials=(old, new))
        await batch.save(Changes(devices=((None, device),)))
    await database.close()


def audited(data, after):
    with closing(sqlite3.connect(data / "firstlight.db")) as connection:
        return connection.execute("SELECT seq, account, verb FROM audit WHERE seq > ?", (after,)).fetchall()


def test_every_change_leaves_an_audit_row_and_no_secret(installed, run, tmp_path):  # noqa: F811
    words = {name: str(tmp_path / name) for name in ("backup", "devices", "image", "labels")}
    words |= {
        "labels": words["labels"] + ".csv",
        "devices": words["devices"] + ".csv",
        "key": KEY,
        "command": A_COMMAND,
    }
    (tmp_path / "devices.csv").write_text("serial,group\nsn-3,g\nsn-4,g\n")
    (tmp_path / "image").write_bytes(b"firmware")
    run(f"release keygen {tmp_path}/own.key")
    run(f"release keygen {tmp_path}/other.key --endorsed-by {tmp_path}/own.key")
    words |= {"public": f"{tmp_path}/own.key.pub", "signature": f"{words['image']}.sig"}
    words |= {"other": f"{tmp_path}/other.key.pub", "endorsement": f"{tmp_path}/other.key.endorsement"}
    run(
        f"release sign {words['image']} --key {tmp_path}/own.key --product Thermometer --hardware rev-a --name 2.0 --seq 2"
    )
    seen = 0
    for line in LIFE:
        if line.startswith("device approve"):
            asyncio.run(a_device_that_waits(installed))
        if line.startswith("command pause"):
            asyncio.run(a_long_command(installed))
        if line.startswith("restore"):
            run(f"backup {words['backup']}")
        run(line, code=1 if line in MAY_BE_REFUSED else 0, **words)
        if line.startswith("labels"):
            with Path(words["labels"]).open(newline="") as file:
                words["scan"] = next(csv.DictReader(file))["label"]
        rows = audited(installed, seen)
        assert rows, line
        assert {account for _, account, _ in rows} == {"local"}, line
        seen, _, verb = rows[-1]
        assert line.startswith((verb, "command")), (line, verb)
    everything = run("audit --limit 1000 --json")
    assert KEY not in everything
    assert base64.b64decode(KEY).hex() not in everything
    assert run("audit --device g/sn-1").count("local device block") == 1


def test_every_change_for_partners_leaves_an_audit_row_and_no_token(installed, run, tmp_path):  # noqa: F811
    key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"serial_no,public_keys\nDNA-1,{base64.b64encode(key).decode()}\n")
    said, seen = "", 0
    for line in PARTNERS:
        said += run(line, boxes=str(boxes))
        rows = audited(installed, seen)
        assert rows, line
        assert {account for _, account, _ in rows} == {"local"}, line
        seen = rows[-1][0]
    everything = run("audit --limit 1000 --json")
    tokens = re.findall(r"[A-Za-z0-9_-]{43}", said)
    assert len(tokens) >= 3
    assert not [one for one in tokens if one in everything]


def test_a_change_says_what_was_before_and_what_is_now(run):
    run("product create thermometer --name Thermometer --hardware rev-a")
    run("group create g --product thermometer --ou acme --environment local")
    run("group change g --ou acme/b")
    run("account create alice --role operator")
    run("account rotate alice")
    made, *_, changed, account, rotated = json.loads(run("audit --json"))
    assert (made["verb"], made["selector"], made["outcome"]) == ("product create", {"product": "thermometer"}, "added")
    assert made["after"] == {"product_id": "thermometer", "name": "Thermometer", "hardware": "rev-a"}
    assert (changed["verb"], changed["selector"]) == ("group change", {"registration_group": "g"})
    assert (changed["before"], changed["after"]) == ({"default_ou": "acme"}, {"default_ou": "acme/b"})
    assert account["after"]["key_sealed"] == "set"
    assert rotated["after"] == {"key_sha256": "changed", "key_sealed": "changed"}
    assert "group change" in run("audit")
