"""Labels and onboarding from end to end: a sheet is printed, a code on it is read, the device is put to work."""

from __future__ import annotations

import csv
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from service.cli import context, main
from service.credentials.keyfile import KeyFile
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role
from tests.support.command_line import CliRunner
from tests.support.storage import empty_database

runner = CliRunner()

CONFIG = """
data_dir = "data"
[environments.local]
broker = "embedded"
[environments.local.endpoints]
bootstrap = { host = "127.0.0.1", port = 1884, tls = false }
api_key = { host = "127.0.0.1", port = 1883, tls = false }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "firstlight.toml").write_text(CONFIG)
    KeyFile.create(tmp_path / "data" / "keys.json")
    (tmp_path / "data" / "firstlight.db").write_bytes(empty_database())
    monkeypatch.chdir(tmp_path)
    before = context.chosen_config.get()
    yield tmp_path
    context.chosen_config.set(before)


@pytest.fixture
def run(folder):
    def call(*arguments, code=0, **more):
        result = runner.invoke(main.app, list(map(str, arguments)), **more)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    call("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    call("group", "create", "line-2", "--product", "thermometer", "--key-kind", "derived", "--environment", "local")
    return call


def rows(name):
    return list(csv.DictReader(Path(name).read_text().splitlines()))


def test_a_printed_sheet_is_scanned_and_its_devices_onboarded(run, folder):
    (folder / "serials.txt").write_text("TH-1\nTH-2\n\n")
    run("labels", "--group", "line-2", "--batch", "B42", "--serials", "serials.txt", "--out", "labels.png")
    with Image.open("labels.png") as image:
        codes = [found.text for found in zxingcpp.read_barcodes(image)]
    assert len(codes) == 2
    for code in codes:
        run("onboard", "--scan", code, "--ou", "acme/plant-7", "--site", "roof", "--attributes", '{"floor": 2}')
    shown = json.loads(run("device", "show", "line-2/TH-1", "--json").stdout)
    assert (shown["ou"], shown["batch"], shown["attributes"]) == ("acme/plant-7", "B42", {"floor": 2, "site": "roof"})


def test_the_same_scan_again_is_no_error_and_another_account_is_refused(run):
    run("labels", "--group", "line-2", "--batch", "B42", "--serial", "TH-1", "--out", "labels.csv")
    (label,) = [row["label"] for row in rows("labels.csv")]
    first = run("onboard", "--scan", "-", "--ou", "acme", "--json", input=label + "\n")
    assert json.loads(first.stdout)["result"] == "changed"
    again = run("onboard", "--scan", label, "--ou", "acme")
    assert again.stdout == "line-2/TH-1 was onboarded already to acme\n"

    async def make(database):
        given = {"kind": AccountKind.OPERATOR, "role": Role.OPERATOR, "ou": "acme"}
        await accounts.create(database, "boris", **given, now=datetime.now(UTC), random_bytes=os.urandom)

    context.run(make)
    stolen = run("onboard", "--scan", label, "--ou", "acme", "--account", "boris", code=1)
    assert stolen.stderr == "firstlight: line-2/TH-1: this label was used by someone else\n"


def test_a_dry_run_uses_no_label(run):
    run("labels", "--group", "line-2", "--batch", "B42", "--serial", "TH-1", "--out", "labels.csv")
    (label,) = [row["label"] for row in rows("labels.csv")]
    shown = run("onboard", "--scan", label, "--ou", "acme", "--dry-run")
    assert shown.stdout == "line-2/TH-1 would be onboarded to acme\n"
    assert json.loads(run("device", "list", "--json").stdout)["devices"] == []


def test_device_keys_are_in_a_file_of_their_own_and_on_no_sheet(run, folder):
    run("group", "create", "line-1", "--product", "thermometer", "--environment", "local")
    order = ("labels", "--group", "line-1", "--batch", "B42", "--serial", "SN-1", "--out", "labels.csv")
    refused = run(*order, code=1)
    assert "SN-1 is not registered" in refused.stderr
    run(*order, "--keys", "keys.csv")
    (row,) = rows("keys.csv")
    assert len(row["key"]) == 44
    assert row["key"] not in (folder / "labels.csv").read_text()
    run("onboard", "--scan", row["label"], "--ou", "acme")
    assert json.loads(run("device", "show", "SN-1", "--json").stdout)["key"] is True


def test_a_wrong_order_of_labels_is_one_line(run):
    for arguments, words in (
        (("--out", "labels.doc"), "--out"),
        (("--out", "nowhere/labels.pdf"), "--out"),
        (("--out", "labels.pdf", "--sheet", "1x1"), "--sheet"),
        (("--out", "labels.pdf", "--serials", "nowhere.txt"), "cannot read nowhere.txt"),
        (("--out", "labels.pdf", "--keys", "keys.pdf"), "--keys"),
        (("--out", "labels.pdf", "--batch", "B 42"), "a batch is"),
        (("--out", "labels.pdf"), "no device of line-2 has batch B42"),
    ):
        refused = run("labels", "--group", "line-2", "--batch", "B42", *arguments, code=1)
        assert (refused.stdout, refused.stderr.count("\n")) == ("", 1)
        assert words in refused.stderr


def test_a_wrong_scan_is_one_line(run):
    for scan in ("FL1:", "hello", "FL1:AAAA"):
        refused = run("onboard", "--scan", scan, "--ou", "acme", code=1)
        assert refused.stderr.startswith("firstlight: ")
        assert refused.stderr.count("\n") == 1


def test_a_batch_is_printed_by_its_tag_alone(run, folder):
    refused = run("labels", "--batch", "B42", "--out", "labels.pdf", code=1)
    assert "no device has batch B42" in refused.stderr
    for serial in ("TH-1", "TH-2"):
        run("device", "register", "line-2", serial)
        run("allocate", f"line-2/{serial}", "--tag", "B42")
    assert run("labels", "--batch", "B42", "--out", "labels.pdf").stdout.startswith("2 labels of batch B42")
    assert (folder / "labels.pdf").read_bytes().startswith(b"%PDF")
