"""Commands that are refused: rights, selectors and every kind of bad input."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from service.domain.product import Version
from service.operations import accounts, devices
from service.operations.accounts import THIS_MACHINE, AccountKind, Operator
from service.operations.outcomes import Result
from service.operations.selectors import Selector
from service.operations.verbs.verb import Role
from service.storage.catalogue_rows import version_row
from service.storage.operator_tables import audit, event
from service.storage.tables import image, release_key, version
from tests.support.commands import ALICE, Row, ask, named, rows_of, seed
from tests.support.refusals import refused
from tests.support.storage import NOW, PRODUCT

VIEWER = Operator("vera", Role.VIEWER, None)


BAD = {
    "no such verb": (THIS_MACHINE, "explode", {}, ("UNKNOWN_VERB", "unknown_verb")),
    "no selector": (THIS_MACHINE, "block", {}, ("BAD_REQUEST", "selector_empty")),
    "an empty selector": (THIS_MACHINE, "block", {"selector": {}}, ("BAD_REQUEST", "selector_empty")),
    "nothing selected": (THIS_MACHINE, "block", {"selector": {"ou": "nowhere"}}, ("NOT_FOUND", "selection_empty")),
    "no such batch": (THIS_MACHINE, "block", {"selector": {"batch": "B9"}}, ("NOT_FOUND", "selection_empty")),
    "no such group": (THIS_MACHINE, "block", {"selector": {"group": "x"}}, ("NOT_FOUND", "group_unknown")),
    "no such product": (THIS_MACHINE, "block", {"selector": {"product": "x"}}, ("NOT_FOUND", "product_unknown")),
    "no such device": (THIS_MACHINE, "block", {"selector": named("sn-1", "x")}, ("NOT_FOUND", "device_unknown")),
    "no such thing": (THIS_MACHINE, "block", {"selector": {"things": ["0" * 32]}}, ("NOT_FOUND", "device_unknown")),
    "a bare serial": (THIS_MACHINE, "block", {"selector": {"devices": ["sn-1"]}}, ("BAD_REQUEST", "device_illegal")),
    "an illegal thing": (THIS_MACHINE, "block", {"selector": {"things": ["X"]}}, ("BAD_REQUEST", "thing_illegal")),
    "an illegal OU": (THIS_MACHINE, "block", {"selector": {"ou": "a//b"}}, ("BAD_REQUEST", "ou_illegal")),
    "an illegal batch": (THIS_MACHINE, "block", {"selector": {"batch": "%"}}, ("BAD_REQUEST", "selector_illegal")),
    "an illegal environment": (
        THIS_MACHINE, "block", {"selector": {"environment": "a b"}}, ("BAD_REQUEST", "environment_illegal"),
    ),
    "outside of the scope, by name": (ALICE, "block", {"selector": named("sn-1", "us")}, ("FORBIDDEN", "out_of_scope")),
    "outside of the scope, by OU": (ALICE, "block", {"selector": {"ou": "acme/us"}}, ("NOT_FOUND", "selection_empty")),
    "a scope that only begins alike": (
        Operator("al", Role.OPERATOR, "acme/e"), "block", {"selector": named("sn-1")}, ("FORBIDDEN", "out_of_scope"),
    ),
    "a viewer who changes": (VIEWER, "block", {"selector": named("sn-1")}, ("FORBIDDEN", "role_too_low")),
    "an operator who retires": (ALICE, "retire", {"selector": named("sn-1")}, ("FORBIDDEN", "role_too_low")),
    "an expired command": (
        THIS_MACHINE, "block", {"selector": named("sn-1"), "expires_at": 1}, ("CONFLICT", "command_expired"),
    ),
    "an unknown argument": (
        THIS_MACHINE, "block", {"selector": named("sn-1"), "arguments": {"x": 1}}, ("BAD_REQUEST", "bad_argument"),
    ),
    "a missing argument": (THIS_MACHINE, "rename", {"selector": named("sn-1")}, ("BAD_REQUEST", "bad_argument")),
    "one name for many": (
        THIS_MACHINE, "rename", {"selector": {"group": "line-1"}, "arguments": {"name": "x"}},
        ("BAD_REQUEST", "one_device_only"),
    ),
    "an argument that is no number": (
        THIS_MACHINE, "set-attributes",
        {"selector": named("sn-1"), "arguments": {"attributes": {"a": float("nan")}}}, ("BAD_REQUEST", "bad_argument"),
    ),
    "a registration with a selector": (
        THIS_MACHINE, "register",
        {"selector": named("sn-1"), "arguments": {"group": "line-1", "devices": [{"serial": "s"}]}},
        ("BAD_REQUEST", "selector_needless"),
    ),
    "a registration in no group": (
        THIS_MACHINE, "register", {"arguments": {"group": "x", "devices": [{"serial": "s"}]}},
        ("NOT_FOUND", "group_unknown"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_as_a_whole_and_changes_nothing(database, commands, case):
    operator, verb, fields, expected = BAD[case]
    await seed(database, "sn-1")
    await seed(database, "us", ou="acme/us")
    before = [await devices.show(database, name) for name in ("sn-1", "us")]
    assert await refused(commands.submit(operator, verb, ask(**fields))) == expected
    assert [await devices.show(database, name) for name in ("sn-1", "us")] == before
    assert await rows_of(database, event) == []
    (noted,) = [Row(row) for row in await rows_of(database, audit)]
    assert (noted.account, noted.outcome.removeprefix("dry run, "), noted.cause) == (
        operator.name,
        "refused",
        expected[1],
    )


REFUSED = {
    "unblock what is not blocked": ("unblock", {}, ("CONFLICT", "not_blocked")),
    "unfreeze what is not frozen and has no signs": ("unfreeze", {}, ("CONFLICT", "not_frozen")),
    "allocate what has a thing": ("allocate", {"ou": "x"}, ("CONFLICT", "already_activated")),
    "allocate nowhere": ("allocate", {}, ("BAD_REQUEST", "place_missing")),
    "allocate to no environment": ("allocate", {"environment": "mars"}, ("NOT_FOUND", "environment_unknown")),
    "allocate to an illegal OU": ("allocate", {"ou": "/x"}, ("BAD_REQUEST", "ou_illegal")),
    "a version that is not": ("set-target", {"version": "v9"}, ("NOT_FOUND", "version_unknown")),
    "a name that cannot be printed": ("rename", {"name": "\n"}, ("BAD_REQUEST", "text_illegal")),
    "a fraction in the settings": ("set-settings", {"settings": {"a": 1.5}}, ("BAD_REQUEST", "settings_illegal")),
    "settings too deep": ("set-settings", {"settings": {"a": {"b": {"c": [{"d": 1}]}}}}, ("BAD_REQUEST", "settings_illegal")),
    "settings too large": ("set-settings", {"settings": {"a": "x" * 5000}}, ("BAD_REQUEST", "settings_illegal")),
    "an attribute that no message carries": ("set-attributes", {"attributes": {"a": 2**53}}, ("BAD_REQUEST", "attribute_illegal")),
    "an attribute too long": ("set-attributes", {"attributes": {"a": "x" * 257}}, ("BAD_REQUEST", "attribute_illegal")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_verb_refuses_is_an_outcome_and_changes_nothing(database, commands, case):
    verb, arguments, expected = REFUSED[case]
    (before,) = await seed(database, "sn-1")
    status = await commands.submit(THIS_MACHINE, verb, ask(selector=named("sn-1"), arguments=arguments))
    assert [(one.result, one.code, one.cause) for one in status.outcomes] == [(Result.REFUSED, *expected)]
    assert await devices.show(database, "sn-1") == before


async def test_a_version_of_a_retired_release_key_is_refused_as_a_thing_s_target(database, commands):
    (before,) = await seed(database, "sn-1")
    found = Version("v" * 32, PRODUCT.product_id, "2.0", "", PRODUCT.name, "rev-a", 2, "0" * 64, 9, bytes(64), "k" * 32)
    async with database.write() as transaction:
        key = {"key_id": found.key_id, "public_key": bytes(32), "name": "main", "added_at": 0, "retired_at": 1}
        await transaction.connection.execute(insert(release_key), [key])
        await transaction.connection.execute(insert(image), [{"image_id": "0" * 64, "size": 9, "added_at": 0}])
        await transaction.connection.execute(insert(version), [version_row(found, NOW)])
    request = ask(selector=named("sn-1"), arguments={"version": "2.0"})
    (outcome,) = (await commands.submit(THIS_MACHINE, "set-target", request)).outcomes
    assert (outcome.code, outcome.cause) == ("CONFLICT", "release_key_retired")
    assert await devices.show(database, "sn-1") == before


async def test_an_operator_sees_his_own_commands_only(database, commands):
    await seed(database, "sn-1")
    mine = await commands.submit(ALICE, "block", ask(selector=named("sn-1")))
    bob = Operator("bob", Role.ADMIN, "acme")
    assert await refused(commands.status(bob, mine.command.command_id)) == ("NOT_FOUND", "command_unknown")
    assert await refused(commands.cancel(bob, "1")) == ("NOT_FOUND", "command_unknown")
    assert (await commands.status(THIS_MACHINE, mine.command.command_id)).command == mine.command
    assert await commands.newest(bob) == []


@pytest.mark.parametrize("field", ["dryrun", "who", "Selector"])
def test_a_misspelt_field_is_no_field(field):
    with pytest.raises(ValidationError):
        ask(**{field: True})
    with pytest.raises(ValidationError):
        Selector.model_validate({field: "x"})


@pytest.mark.parametrize(
    "name", ["", "Alice", "a b", "a/b", "+", "#", "local", "firstlight", "a" * 33, "0" * 32, "a\n"]
)
async def test_an_illegal_account_name_makes_no_account(database, name):
    made = accounts.create(database, name, AccountKind.OPERATOR, now=NOW, random_bytes=os.urandom)
    assert await refused(made) == ("BAD_REQUEST", "account_name_illegal")
    assert await accounts.list_all(database) == []
