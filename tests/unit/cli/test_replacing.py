"""`firstlight replace` with a device that nobody has registered: its key comes with the command."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from device_sdk.drivers.config import read_config
from service.cli.main import app
from service.credentials.keyfile import KeyFile
from service.domain.changes import Changes
from service.domain.device import DeviceState
from service.operations import devices
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.command_line import CliRunner
from tests.support.storage import a_device, a_thing
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture

runner = CliRunner()
KEY = base64.b64encode(bytes(range(32))).decode()


def in_database(data, action):
    async def inside():
        database = await Database.open(data / "firstlight.db", KeyFile.load(data / "keys.json").sealer())
        try:
            return await action(database)
        finally:
            await database.close()

    return asyncio.run(inside())


@pytest.fixture
def run(installed):  # noqa: F811
    config = installed.parent / "firstlight.toml"

    def call(*words, code=0):
        result = runner.invoke(app, ["--config", str(config), *(str(word) for word in words)])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result.stdout if code == 0 or result.stdout else result.stderr

    async def put(database):
        device = a_device(
            "old", group_id="g", state=DeviceState.CONFIRMED, registered_at=datetime(2020, 1, 1, tzinfo=UTC)
        )
        device = replace(device, thing=a_thing(device, environment="local"))
        async with SqlStore(database, {}).batch() as batch:
            await batch.save(Changes(devices=((None, device),)))

    call("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    call("group", "create", "g", "--product", "thermometer", "--ou", "acme", "--environment", "local")
    in_database(installed, put)
    return call


def key_of(data, name):
    return in_database(data, lambda database: devices.show(database, name)).key.reveal()


def test_a_device_file_is_written_and_its_key_is_the_registered_one(run, installed, tmp_path):  # noqa: F811
    file = tmp_path / "new.json"
    said = run("replace", "g/old", "new", "--device-file", file)
    assert "1 changed" in said
    assert "new.json" in said
    config = read_config(file)
    key = base64.b64decode(json.loads(file.read_text())["key"])
    assert (json.loads(file.read_text())["serial"], key) == ("new", key_of(installed, "g/new"))
    assert config.state_dir.name == "state-new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "File exists" in run("replace", "g/old", "new", "--device-file", file, code=1)


@pytest.mark.parametrize("how", ["--device-key", "--key-file"])
def test_a_key_of_the_factory_s_is_given_or_read(run, installed, tmp_path, how):  # noqa: F811
    (tmp_path / "key").write_text(KEY + "\n")
    run("replace", "g/old", "new", how, KEY if how == "--device-key" else tmp_path / "key")
    assert key_of(installed, "g/new") == bytes(range(32))


def test_a_key_that_is_made_is_shown_once(run, installed):  # noqa: F811
    said = json.loads(run("replace", "g/old", "new", "--register", "--json"))
    assert base64.b64decode(said["result"]["keys"]["new"]) == key_of(installed, "g/new")


def test_a_refusal_says_what_to_do_registers_nothing_and_leaves_no_file(run, tmp_path):
    said = run("replace", "g/old", "new", code=1)
    assert "the new device is not registered: register it, or let this command do it" in said
    file = tmp_path / "new.json"
    assert "not replace itself" in run("replace", "g/old", "old", "--device-file", file, code=1)
    assert not file.exists()
    assert "1 would be changed" in run("replace", "g/old", "new", "--device-file", file, "--dry-run")
    assert not file.exists()
    assert "cannot read" in run("replace", "g/old", "new", "--key-file", tmp_path / "nothing", code=1)
    assert "--device-key or --key-file" in run(
        "replace", "g/old", "new", "--key-file", tmp_path / "a", "--device-key", KEY, code=1
    )
    assert "no device g/new" in run("device", "show", "g/new", code=1)
