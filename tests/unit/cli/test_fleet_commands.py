"""Accounts, verbs, commands, events and batches on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from typer.main import get_command

from service.cli import events as following
from service.cli.main import app
from service.credentials.keyfile import KeyFile
from service.domain import event
from service.domain.changes import Changes
from service.domain.device import DeviceState
from service.operations import devices, looks
from service.storage.database import Database
from service.storage.store import SqlStore
from tests.support.command_line import CliRunner
from tests.support.storage import a_device, a_thing
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture
from tests.unit.cli.test_replacing import in_database

runner = CliRunner()
_FILLED: dict[str, bytes] = {}  # the data directory with a product, a group and three devices, made by the first test


@pytest.fixture
def run(installed):  # noqa: F811
    config = installed.parent / "firstlight.toml"

    def call(*words, code=0, stdin=None):
        result = runner.invoke(app, ["--config", str(config), *(str(word) for word in words)], input=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result.stdout if code == 0 or result.stdout else result.stderr

    if _FILLED:
        for name, data in _FILLED.items():
            (installed / name).write_bytes(data)
        return call
    call("product", "create", "thermometer", "--name", "Thermometer", "--hardware", "rev-a")
    call("group", "create", "g", "--product", "thermometer", "--ou", "acme", "--environment", "local")
    for serial in ("a", "b", "c"):
        arguments = {"group": "g", "devices": [{"serial": serial}]}
        call("command", "submit", "register", json.dumps({"arguments": arguments}))
    _FILLED.update({path.name: path.read_bytes() for path in installed.iterdir()})
    return call


def test_a_verb_selects_changes_and_says_what_came_of_it(run):
    said = json.loads(run("allocate", "g/a", "g/b", "--tag", "B42", "--json"))
    assert (said["changed"], said["state"], len(said["outcomes"])) == (2, "done", 2)
    assert "1 changed" in run("allocate", "g/a", "--batch", "B42", "--ou", "acme/x")
    text = run("block", "--batch", "B42", "--dry-run")
    assert "2 would be changed" in text
    assert "g/a would be changed" in text
    assert "2 changed" in run("block", "--batch", "B42", "--id", "once")
    assert "2 changed" in run("block", "--batch", "B42", "--id", "once")
    refused = run("unblock", "--group", "g", code=1)
    assert "2 changed, 0 unchanged, 1 refused" in refused
    assert "g/c refused: the device is not blocked but registered (not_blocked)" in refused
    events = [json.loads(line) for line in run("events", "--json").splitlines()]
    assert [one["event"] for one in events][-4:] == ["blocked", "blocked", "unblocked", "unblocked"]
    last = events[-2]["seq"]
    assert len(run("events", "--after", last, "--kind", "unblocked").splitlines()) == 1
    assert len(run("events", "--device", "g/a", "--kind", "blocked", "--limit", "1").splitlines()) == 1


async def _put_in_service(database):
    """The device g/s, confirmed, with a thing of revision 1."""
    device = a_device("s", group_id="g", state=DeviceState.CONFIRMED, registered_at=datetime(2020, 1, 1, tzinfo=UTC))
    device = replace(device, thing=a_thing(device, environment="local", rev=1, thing_id="f" * 32))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, device),)))


def test_a_zero_is_no_option_left_out(run, installed):  # noqa: F811
    for words in (("--at-most", "0"), ("--rate", "0")):
        assert words[0].strip("-").replace("-", "_") in run("block", "--group", "g", *words, code=1)
    in_database(installed, _put_in_service)
    for words in (("block", "g/s"), ("rename", "g/s", "Hall")):
        said = run(*words, "--expected-rev", "0", code=1)
        assert "the revision is 1" in said
        assert "now: " in said
        assert "rev 1" in said.partition("now: ")[2]
    assert "confirmed" in run("device", "show", "g/s")


def test_a_command_is_looked_at_and_ended(run):
    said = json.loads(run("command", "submit", "block", '{"id": "x", "selector": {"group": "g"}}', "--json"))
    assert said["changed"] == 3
    assert json.loads(run("command", "status", "x", "--json"))["later"] == {"blocked": 3}
    listed = json.loads(run("command", "list", "--json"))
    assert (listed[0]["command"], listed[0]["verb"]) == (said["command"], "block")
    assert "the command is done" in run("command", "cancel", "x", code=1)
    assert "no command" in run("command", "status", "nothing", code=1)
    assert run("command", "run", "x")
    run("command", "submit", "unblock", "-", stdin='{"selector": {"group": "g"}}')


async def _fail(database):
    """The device g/s cannot use the settings of revision 1."""
    device = await devices.show(database, "g/s")
    failed = event.of(device, "settings_failed", datetime(2030, 1, 1, tzinfo=UTC), rev=1, cause="no such volume")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(events=(failed,)))


def test_a_command_says_which_device_failed_afterwards_and_why(run, installed):  # noqa: F811
    in_database(installed, _put_in_service)
    run("set-settings", "g/s", "--set", "volume=3", "--id", "x")
    in_database(installed, _fail)
    assert "g/s settings_failed at 2030-01-01 00:00:00: no such volume" in run("command", "status", "x")
    (failed,) = json.loads(run("command", "status", "x", "--json"))["failed"]
    assert (failed["device"], failed["cause"]) == ("g/s", "no such volume")
    assert "no such volume" not in run("command", "status", "x", "--failed-after", failed["seq"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("block",), "say which devices"),
        (("block", "a"), "GROUP/SERIAL"),
        (("block", "g/nobody"), "not registered: g/nobody"),
        (("reprovision", "--group", "nothing", "--ou", "x"), "no group nothing"),
        (("reprovision", "--in-ou", "a//b", "--ou", "x"), "an OU is a path"),
        (("allocate", "g/a", "--tag", "% x/.."), "a batch is 1 to 64"),
        (("allocate", "g/a", "--tag", ""), "a batch is 1 to 64"),
        (("set-attributes", "g/a"), "say --set or --unset"),
        (("set-settings", "g/a", "--set", "x"), "NAME=VALUE"),
        (("set-target", "g/a"), "--version or --clear"),
        (("command", "submit", "block", "{"), "not JSON"),
        (("command", "submit", "block", "[]"), "not a JSON object"),
        (("command", "submit", "block", '{"dryrun": true}'), "field dryrun is unknown"),
        (("command", "submit", "explode", "{}"), "unknown verb"),
        (("events", "--kind", "nothing"), "no events are called nothing"),
        (("events", "--thing", "x"), "32 lower-case hex"),
        (("batch", "show", "B9"), "batch B9"),
        (("batch", "show", "%"), "a batch is"),
        (("account", "create", "Bad Name"), "account's name"),
        (("account", "rotate", "nobody"), "no account nobody"),
    ],
)
def test_a_wrong_command_ends_with_one_line(run, words, said):
    assert said in run(*words, code=1)


def test_accounts_are_made_listed_and_locked(run):
    made = json.loads(run("account", "create", "alice", "--role", "operator", "--ou", "acme", "--json"))
    assert len(made["key"]) == 64
    assert "there is an account alice" in run("account", "create", "alice", code=1)
    assert json.loads(run("account", "rotate", "alice", "--json"))["key"] != made["key"]
    run("account", "create", "erp", "--kind", "integrator")
    run("account", "disable", "alice")
    listed = json.loads(run("account", "list", "--json"))
    assert [(one["name"], one["kind"], one["disabled_at"] is None) for one in listed] == [
        ("alice", "operator", False),
        ("erp", "integrator", True),
    ]
    run("account", "enable", "alice")
    run("account", "remove", "erp")
    assert "alice" in run("account", "list")


def test_the_audit_says_who_changed_what(run):
    run("block", "g/a", "--id", "x")
    run("block", "g/nobody", code=1)
    lines = json.loads(run("audit", "--json"))[-3:]
    assert [(one["account"], one["device"], one["outcome"], one["cause"]) for one in lines] == [
        ("local", None, "accepted", None),
        ("local", "g/a", "changed", None),
        ("local", None, "refused", "device_unknown"),
    ]
    assert (lines[1]["before"], lines[1]["after"]) == ({"state": "registered"}, {"state": "blocked"})
    assert len(run("audit", "--device", "g/a").splitlines()) == 2
    assert "GROUP/SERIAL" in run("audit", "--device", "a", code=1)


def test_the_audit_says_what_was_looked_at_and_how_often(run, installed):  # noqa: F811
    asked = looks.of("vera", "command-status", {"command": "b"})
    often = replace(asked, arguments={**asked.arguments, "again": 7})

    async def look(database):
        async with database.write(audit=False) as transaction:
            for one in (asked, often):
                await looks.add(transaction.connection, one, datetime(2030, 1, 2, tzinfo=UTC))

    in_database(installed, look)
    first, second = run("audit", "--account", "vera").splitlines()
    assert first.endswith('2030-01-02T00:00:00+00:00 vera command-status {"command": "b"} looked')
    assert second.endswith("looked 7 times more")


def test_a_batch_says_what_is_missing(run):
    run("allocate", "g/a", "g/b", "--tag", "B42")
    run("block", "g/b")
    shown = json.loads(run("batch", "show", "B42", "--json"))
    assert (shown["devices"], shown["states"]) == (2, {"blocked": 1, "registered": 1})
    assert shown["missing"] == ["g/a"]
    assert "missing:\n  g/a" in run("batch", "show", "B42")


def test_a_group_s_template_is_given_shown_and_cleared(run, tmp_path):
    (tmp_path / "template.json").write_text('{"interval_s": 60}')
    for given in (tmp_path / "template.json", '{"interval_s": 60}'):
        run("group", "change", "g", "--template", given)
        shown = run("group", "show", "g")
        assert '{"interval_s": 60}' in shown
        assert "migrate" in shown
        run("group", "change", "g", "--clear", "template")
        assert "interval_s" not in run("group", "show", "g")
    for wrong in ("[]", "{", tmp_path / "nothing"):
        assert "--template: a JSON map" in run("group", "change", "g", "--template", wrong, code=1)
    assert "no version '9'" in run("group", "change", "g", "--target", "9", code=1)
    assert "target, template" in run("group", "change", "g", "--clear", "nothing", code=1)


EVERY = ("--dry-run", "--expected-rev", "--rate", "--at-most", "--id", "--expires-at")
VERBS = ("rename", "replace", "undo-replace", "block", "reprovision", "set-target")


def test_every_verb_has_the_options_of_every_command():
    known = {
        name: {option for one in command.params for option in one.opts}
        for name, command in get_command(app).commands.items()
    }
    for verb in VERBS:
        assert known[verb].issuperset(EVERY), verb
    assert known["onboard"].issuperset(("--dry-run", "--id", "--expires-at"))


def test_what_every_command_has_is_in_the_request_of_each(run, installed):  # noqa: F811
    in_database(installed, _put_in_service)
    verbs = (("rename", "g/s", "Hall"), ("undo-replace", "g/s"), ("block", "g/s"))
    for verb, late in zip(verbs, ("1", "2020-01-01", "2020-01-01T12:00Z"), strict=True):
        assert "after its time" in run(*verb, "--expires-at", late, code=1)
    assert "--expires-at: unix seconds" in run("block", "g/s", "--expires-at", "tomorrow", code=1)
    assert "1 would be changed" in run("rename", "g/s", "Hall", "--dry-run", "--expires-at", "2999-01-01")
    assert "1 changed" in run("rename", "g/s", "Hall", "--id", "once", "--expected-rev", "1")
    assert "1 changed" in run("replace", "g/s", "a", "--id", "r", "--expires-at", "2999-01-01", "--rate", "1")
    assert "the revision is" in run("undo-replace", "g/s", "--expected-rev", "0", code=1)


def test_devices_are_listed_by_what_selects_them(run, installed):  # noqa: F811
    in_database(installed, _put_in_service)
    run("allocate", "g/a", "g/b", "--tag", "B42")
    run("allocate", "g/b", "--ou", "acme/x")
    thing = json.loads(run("device", "show", "g/s", "--json"))["thing"]["thing_id"]
    for words, serials in (
        (("--batch", "B42", "--in-ou", "acme/x"), "b"),
        (("--in-environment", "local", "--state", "confirmed"), "s"),
        (("--product", "nothing"), ""),
        (("--thing", thing), "s"),
    ):
        found = json.loads(run("device", "list", *words, "--json"))["devices"]
        assert "".join(one["serial"] for one in found) == serials, words
    assert "an OU is a path" in run("device", "list", "--in-ou", "a//b", code=1)


def test_events_are_followed_until_somebody_interrupts(run, installed, monkeypatch):  # noqa: F811
    in_database(installed, _put_in_service)
    keys = KeyFile.load(installed / "keys.json")
    waited = []

    async def sleep(seconds):
        """What happens while it waits: two events, then nothing, then an interrupt."""
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt
        if len(waited) == 1:
            database = await Database.open(installed / "firstlight.db", keys.sealer())
            await _fail(database)
            await _fail(database)
            await database.close()

    monkeypatch.setattr(following, "asyncio", SimpleNamespace(sleep=sleep))
    told = run("events", "--follow", "--json", "--device", "g/s", code=130)
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["settings_failed"] * 2
    assert waited == [following.FOLLOW_S] * 3
    assert run("events", "--follow", "--device", "g/s", "--limit", "1").count("settings_failed") == 1
