"""A new device takes over a thing: who may, what stays, and who is out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import replacement
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from service.domain.thing import Move
from service.errors import Secret, ServiceError
from tests.support.storage import NOW, a_credential, a_device, a_thing


def an_old(**fields):
    device = a_device("old", state=DeviceState.CONFIRMED, batch="B42")
    thing = a_thing(device, name="Kitchen", settings={"interval_s": 5}, attributes={"floor": 2}, **fields)
    confirmed = a_credential(device, "a" * 32, state=CredentialState.CONFIRMED, confirmed_at=NOW)
    return replace(device, thing=thing, credentials=(confirmed,))


def a_new(**fields):
    return a_device("new", key=Secret(b"N" * 32), **fields)


def named():
    old, new, _ = replacement.replace(an_old(), a_new(), NOW, command_id="c1")
    waiting = a_credential(new, "b" * 32)
    return old, replace(new, state=DeviceState.ACTIVATED, credentials=(waiting,))


def test_naming_a_successor_leaves_the_old_device_in_service():
    old, new, events = replacement.replace(an_old(), a_new(), NOW, command_id="c1")
    assert old.state is DeviceState.CONFIRMED
    assert old.credentials == an_old().credentials
    assert old.thing is new.thing
    assert (old.thing.holder_device_id, old.thing.successor_device_id) == (old.device_id, new.device_id)
    assert (old.batch, new.batch) == ("B42", None)
    assert [(one.kind, one.serial, one.command_id) for one in events] == [("replacement_started", "old", "c1")]


def test_the_same_replacement_again_changes_nothing():
    old, new, _ = replacement.replace(an_old(), a_new(), NOW)
    again = replacement.replace(old, new, NOW + timedelta(days=1))
    assert again == (old, new, ())


def test_taking_over_keeps_the_thing_and_puts_the_old_device_out():
    before, new = named()
    out, holder, events = replacement.take_over(before, new, NOW)
    kept = replace(
        before.thing,
        holder_device_id=new.device_id,
        successor_device_id=None,
        successor_deadline_at=None,
        successor_command_id=None,
    )
    assert holder.thing == kept
    assert (out.state, out.thing, out.replaced_by) == (DeviceState.REPLACED, None, new.device_id)
    assert (out.ou, out.environment) == ("acme", "prod")
    assert [one.drop_cause for one in out.credentials] == ["replaced"]
    (told,) = events
    assert (out.batch, holder.batch) == (None, "B42")
    assert (told.kind, told.serial, told.command_id) == ("replaced", "new", "c1")
    assert told.data == {"old_serial": "old", "new_serial": "new"}


@pytest.mark.parametrize(
    ("of_old", "of_new", "after"), [("B42", "B99", "B42"), (None, "B99", "B99"), (None, None, None)]
)
def test_the_batch_tag_is_the_thing_s_once_it_is_taken_over_and_not_before(of_old, of_new, after):
    old, new, _ = replacement.replace(replace(an_old(), batch=of_old), a_new(batch=of_new), NOW)
    assert (old.batch, new.batch) == (of_old, of_new)
    free, let_go, _ = replacement.undo(old, new, NOW)
    assert (free.batch, let_go.batch) == (of_old, of_new)
    out, holder, _ = replacement.take_over(old, new, NOW)
    assert (out.batch, holder.batch) == (None, after)


def test_undo_lets_the_successor_go_and_drops_what_it_holds():
    old, new, events = replacement.undo(*named(), NOW)
    assert (old.thing.successor_device_id, old.thing.successor_deadline_at) == (None, None)
    assert (new.thing, new.state) == (None, DeviceState.REGISTERED)
    assert new.credentials[0].drop_cause == "replacement_undone"
    assert old.credentials[0].state is CredentialState.CONFIRMED
    assert [one.kind for one in events] == ["replacement_undone"]
    assert replacement.replace(old, new, NOW)[1].thing is not None  # and may be asked for again


def test_undo_is_too_late_once_the_new_device_has_taken_over():
    old, new, _ = replacement.take_over(*named(), NOW)
    with pytest.raises(ServiceError) as refused:
        replacement.undo(old, new, NOW)
    assert (refused.value.cause, refused.value.enos_code) == ("undo_too_late", 35603)


def test_undo_without_a_replacement_is_refused():
    with pytest.raises(ServiceError) as refused:
        replacement.undo(an_old(), a_new(), NOW)
    assert refused.value.cause == "nothing_to_undo"


def test_a_successor_that_never_appears_is_let_go_at_the_deadline():
    old, new, _ = replacement.replace(an_old(), a_new(), NOW, deadline=timedelta(days=1), command_id="c1")
    assert replacement.lapse(old, new, NOW + timedelta(hours=23)) == (old, new, ())
    old, new, events = replacement.lapse(old, new, NOW + timedelta(days=1))
    assert new.thing is None
    assert [(one.kind, one.command_id, one.data["cause"]) for one in events] == [
        ("replacement_failed", "c1", "deadline")
    ]


def test_a_replaced_device_may_be_blocked_and_still_be_replaced():
    old, new, _ = replacement.replace(replace(an_old(), state=DeviceState.BLOCKED), a_new(), NOW)
    new = replace(new, state=DeviceState.CONFIRMED)
    assert replacement.take_over(old, new, NOW)[0].state is DeviceState.REPLACED


def test_a_chain_of_replacements_stays_readable():
    first, second, _ = replacement.take_over(*named(), NOW)
    second = replace(second, state=DeviceState.CONFIRMED)
    second, third, _ = replacement.replace(second, a_device("third"), NOW)
    second, third, _ = replacement.take_over(second, replace(third, state=DeviceState.CONFIRMED), NOW)
    assert (first.replaced_by, second.replaced_by) == (second.device_id, third.device_id)
    assert third.thing.thing_id == an_old().thing.thing_id


REPLACED_OLD = replace(an_old(), state=DeviceState.REPLACED, thing=None)
MOVE = Move("acme/b", "east", None, NOW, NOW)


@pytest.mark.parametrize(
    ("old", "new", "code", "cause", "enos_code"),
    [
        (None, a_new(), "NOT_FOUND", "replace_not_found", 35404),
        (an_old(), None, "NOT_FOUND", "replace_not_found", 35404),
        (an_old(), an_old(), "CONFLICT", "replace_same_serial", 35601),
        (an_old(), a_new(group_id="line-2"), "CONFLICT", "replace_other_group", 35400),
        (REPLACED_OLD, a_new(), "CONFLICT", "replace_replaced", 35603),
        (an_old(successor_device_id="other"), a_new(), "CONFLICT", "replace_already", 35603),
        (an_old(holder_device_id="other"), a_new(), "CONFLICT", "replace_successor", 35603),
        (an_old(move=MOVE), a_new(), "CONFLICT", "replace_during_move", None),
        (replace(an_old(), state=DeviceState.RETIRED), a_new(), "CONFLICT", "replace_retired", None),
        (a_device("bare"), a_new(), "CONFLICT", "replace_not_activated", None),
        (an_old(), a_new(thing=a_thing(a_new())), "CONFLICT", "replace_new_has_thing", 35603),
        (an_old(), a_new(state=DeviceState.BLOCKED), "CONFLICT", "replace_new_state", None),
        (an_old(), a_new(frozen=True), "CONFLICT", "replace_new_frozen", None),
    ],
)
def test_what_may_not_be_is_refused_with_the_documented_code(old, new, code, cause, enos_code):
    with pytest.raises(ServiceError) as refused:
        replacement.replace(old, new, NOW)
    assert (refused.value.code, refused.value.cause, refused.value.enos_code) == (code, cause, enos_code)


def test_a_transfer_of_the_old_device_is_told_to_have_failed_when_it_is_out():
    before, new = named()
    out, _, events = replacement.take_over(replace(before, rekey=True, rekey_command_id="c0"), new, NOW)
    assert not out.rekey
    assert [(one.kind, one.serial, one.command_id) for one in events] == [
        ("replaced", "new", "c1"),
        ("transfer_failed", "old", "c0"),
    ]
