"""What only looks is audited too, and what is refused before it is a command: who, what, which devices, and not too much."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import pytest

from service.errors import ServiceError
from service.operations import accounts, looks
from service.operations.accounts import AccountKind, Operator
from service.operations.commands import Commands
from service.operations.looks import Look, Looks
from service.operations.verbs.verb import Role
from service.storage.operator_tables import audit
from tests.support.commands import ENVIRONMENTS, Clock, Row, ask, named, rows_of, seed
from tests.support.storage import NOW, new_database
from tests.unit.fleet.test_operator_requests import listening


@pytest.fixture
async def database(tmp_path):
    made = await new_database(tmp_path / "firstlight.db")
    for name, role in (("alice", Role.OPERATOR), ("vera", Role.VIEWER)):
        await accounts.create(
            made, name, AccountKind.OPERATOR, role=role, ou="acme/eu", now=NOW, random_bytes=os.urandom
        )
    async with made.write(audit=False) as transaction:
        await transaction.connection.execute(audit.delete())
    yield made
    await made.close()


async def rows(database):
    return [Row(row) for row in await rows_of(database, audit)]


def short(row):
    return (row.account, row.verb, json.loads(row.selector), json.loads(row.arguments), row.outcome, row.cause)


@pytest.mark.parametrize(
    ("verb", "body", "selector", "arguments"),
    [
        ("get", {"device": "line-1/sn-1"}, {"devices": ["line-1/sn-1"]}, {}),
        ("trace", {"device": "line-1/sn-1"}, {"devices": ["line-1/sn-1"]}, {}),
        ("list", {"selector": {"ou": "acme/eu"}, "limit": 5}, {"ou": "acme/eu"}, {}),
        ("list", {}, {}, {}),
        ("command-status", {"command": "b"}, {}, {"command": "b"}),
        ("warehouse-list", {"what": "units", "step": "staged"}, {}, {"what": "units", "step": "staged"}),
    ],
)
async def test_a_look_leaves_a_row_of_who_and_what_without_before_and_after(database, verb, body, selector, arguments):
    await seed(database, "sn-1")
    async with listening(database) as operators:
        if verb == "command-status":
            assert (await operators.ask("alice", "block", id="b", selector=named("sn-1")))["ok"]
        assert (await operators.ask("alice", verb, id="2", **body))["ok"]
    (row,) = [one for one in await rows(database) if one.verb == verb]
    assert short(row) == ("alice", verb, selector, arguments, "looked", None)
    assert (row.before, row.after, row.at) == (None, None, int((NOW + timedelta(hours=1)).timestamp() * 1000))
    about = ("line-1", "sn-1") if "device" in body else (None, None)
    assert (row.group_id, row.serial) == about


@pytest.mark.parametrize(
    ("name", "verb", "body", "expected"),
    [
        ("alice", "get", {"device": "line-1/out"}, ({"devices": ["line-1/out"]}, {}, "out_of_scope")),
        ("alice", "get", {"device": "sn 1"}, ({}, {}, "device_illegal")),
        ("alice", "trace", {}, ({}, {}, "bad_argument")),
        ("alice", "list", {"selector": {"ou": "/"}}, ({"ou": "/"}, {}, "ou_illegal")),
        ("alice", "command-status", {"command": "nobody's"}, ({}, {"command": "nobody's"}, "command_unknown")),
        ("vera", "block", {"selector": {"devices": ["line-1/in"]}}, ({"devices": ["line-1/in"]}, {}, "role_too_low")),
        ("alice", "retire", {"selector": {"devices": ["line-1/in"]}}, ({"devices": ["line-1/in"]}, {}, "role_too_low")),
        (
            "alice",
            "block",
            {"selector": {"devices": ["line-1/out"]}},
            ({"devices": ["line-1/out"]}, {}, "out_of_scope"),
        ),
        ("alice", "block", {"dryrun": True}, ({}, {}, "bad_argument")),
        ("alice", "no-such-verb", {}, ({}, {}, "unknown_verb")),
        ("vera", "cancel", {"command": "x"}, ({}, {"command": "x"}, "command_unknown")),
        ("mallory", "block", {"selector": {"ou": "acme"}}, ({"ou": "acme"}, {}, "account_unknown")),
    ],
)
async def test_what_is_refused_leaves_a_row_with_the_cause(database, name, verb, body, expected):
    await seed(database, "in")
    await seed(database, "out", ou="zeta")
    async with listening(database) as operators:
        assert (await operators.ask(name, verb, **body))["cause"] == expected[-1]
    (row,) = await rows(database)
    assert short(row) == (name, verb, *expected[:2], "refused", expected[-1])


async def test_an_id_that_stands_for_another_command_is_audited_and_not_as_that_command(database):
    await seed(database, "sn-1")
    async with listening(database) as operators:
        await operators.ask("alice", "block", selector=named("sn-1"))
        assert (await operators.ask("alice", "unblock", selector=named("sn-1")))["cause"] == "command_id_taken"
    *_, row = await rows(database)
    assert (row.command_id, *short(row)) == (
        None, "alice", "unblock", named("sn-1"), {}, "refused", "command_id_taken",
    )  # fmt: skip


async def test_a_refused_command_that_is_repeated_has_one_row(database):
    commands = Commands(database, ENVIRONMENTS, random_bytes=os.urandom, clock=Clock())
    alice = Operator("alice", Role.OPERATOR, "acme/eu")
    many = {"devices": [f"line-1/sn-{number}" for number in range(12)]}
    for number in (1, 1, 1, 2):
        with pytest.raises(ServiceError):
            await commands.submit(alice, "block", ask(str(number), selector=many, dry_run=number == 2))
    await commands.looks.settle(everything=True)
    found = await rows(database)
    assert [(one.outcome, one.cause, json.loads(one.arguments).get("again")) for one in found] == [
        ("refused", "device_unknown", None),
        ("dry run, refused", "device_unknown", None),
        ("refused", "device_unknown", 2),
    ]
    assert len({one.command_id for one in found}) == 2
    assert json.loads(found[0].selector)["devices"][-1] == "and 2 more"


async def test_whoever_steers_a_command_is_audited_by_his_own_name(database):
    await accounts.create(database, "root", AccountKind.OPERATOR, role=Role.ADMIN, now=NOW, random_bytes=os.urandom)
    await seed(database, "a", "b")
    async with listening(database) as operators:
        said = await operators.ask("alice", "block", selector=named("a", "b"), rate=1)
        for _ in range(2):
            assert (await operators.ask("root", "cancel", id="9", command=said["command"]))["state"] == "cancelled"
    steered = [one for one in await rows(database) if one.verb == "cancel"]
    assert [(one.account, one.command_id, one.before, one.after, one.outcome) for one in steered] == [
        ("root", said["command"], '{"state":"running"}', '{"state":"cancelled"}', "changed"),
        ("root", said["command"], '{"state":"cancelled"}', '{"state":"cancelled"}', "unchanged"),
    ]


async def test_who_polls_leaves_two_rows_in_ten_minutes(database):
    async with listening(database) as operators:
        for _ in range(3):
            assert (await operators.ask("vera", "list"))["ok"]
            operators.seconds += 60
        assert len(await rows(database)) == 1
        operators.seconds += 600
        assert (await operators.ask("vera", "list"))["ok"]
        assert (await operators.ask("vera", "list"))["ok"]
    since = int((NOW + timedelta(hours=1)).timestamp() * 1000)
    found = [short(one)[3:5] for one in await rows(database)]
    assert found == [
        ({}, "looked"),
        ({"again": 2, "since": since}, "looked"),
        ({}, "looked"),
        ({"again": 1, "since": since}, "looked"),  # when the service stops
    ]


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def audited(database, time):
    return Looks(database, clock=Clock(), monotonic=time)


def a_get(number, account="vera"):
    return Look(account, "get", {"devices": [f"line-1/sn-{number}"]}, {}, ("line-1", f"sn-{number}"))


async def test_beyond_an_account_s_share_the_rest_is_counted_by_verb(database, audited, time, monkeypatch):
    monkeypatch.setattr(looks, "OWN_ROWS", 3)
    for number in range(7):
        await audited.note(a_get(number))
    await audited.note(a_get(0))  # has a row
    await audited.note(a_get(0, "alice"))
    await audited.settle(everything=True)
    found = [(one.account, one.serial, json.loads(one.arguments).get("again")) for one in await rows(database)]
    vera = [("vera", f"sn-{number}", None) for number in range(3)]
    assert found == [*vera, ("vera", None, None), ("alice", "sn-0", None), ("vera", "sn-0", 1), ("vera", None, 3)]
    time.now += looks.WINDOW_S
    await audited.note(a_get(9))
    assert (await rows(database))[-1].serial == "sn-9"


async def test_names_of_no_account_have_the_share_of_one(database, audited, monkeypatch):
    monkeypatch.setattr(looks, "OWN_ROWS", 2)
    for number in range(5):
        await audited.note(a_get(0, f"nobody-{number}"), known=False)
    await audited.settle(everything=True)
    assert [one.account for one in await rows(database)] == ["nobody-0", "nobody-1", "-", "-"]


async def test_no_more_questions_are_remembered_than_that(database, audited, monkeypatch):
    monkeypatch.setattr(looks, "REMEMBERED", 2)
    for number in (0, 0, 1, 2):
        await audited.note(a_get(number))
    found = [(one.serial, json.loads(one.arguments).get("again")) for one in await rows(database)]
    assert found == [("sn-0", None), ("sn-1", None), ("sn-0", 1), ("sn-2", None)]


def test_the_bounds_of_what_is_audited_of_looks():
    assert (looks.WINDOW_S, looks.OWN_ROWS, looks.REMEMBERED) == (600, 600, 4096)


def test_a_row_names_ten_of_many_devices_and_no_long_word():
    many = [f"line-1/sn-{number}" for number in range(12)]
    found = looks.of("vera", "list", {"selector": {"devices": many}, "what": "w" * 5000, "name": "\n"})
    assert found.selector == {"devices": [*many[:10], "and 2 more"]}
    assert found.arguments == {"what": "w" * 128}
