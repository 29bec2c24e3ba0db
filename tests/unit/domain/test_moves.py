"""Moves of credentials and devices: what the tables list, and nothing else."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from device_sdk.wire import limits
from service.domain import credential as credentials
from service.domain import device as devices
from service.domain import identity, moves
from service.domain.credential import CredentialState
from service.domain.device import DeviceState
from tests.support.fake_link import START
from tests.support.pipeline_site import holding, pending, registered


def test_confirming_one_drops_every_other_that_lives():
    gone = moves.drop(pending(3), START, "expired")
    device = moves.confirm(holding(pending(1), pending(2), gone), pending(2), START)
    assert [one.state for one in device.credentials] == ["dropped", "confirmed", "dropped"]
    assert [one.drop_cause for one in device.credentials] == ["superseded", None, "expired"]
    assert device.state is DeviceState.CONFIRMED


def test_the_fifth_pending_one_drops_the_oldest():
    device = holding(*(pending(n) for n in range(limits.MAX_PENDING_CREDENTIALS)))
    after = moves.add_pending(device, pending(9), START)
    assert [one.state for one in after.credentials] == ["dropped"] + ["pending"] * 4
    assert len(moves.add_pending(holding(pending(1)), pending(2), START).credentials) == 2


def test_a_confirmed_one_does_not_count_as_pending():
    confirmed = replace(pending(0), state=CredentialState.CONFIRMED)
    after = moves.add_pending(holding(confirmed, *(pending(n) for n in (1, 2, 3))), pending(4), START)
    assert "dropped" not in [one.state for one in after.credentials]


def test_only_what_is_over_lapses():
    device = holding(pending(1, expires_at=START), pending(2))
    assert [one.state for one in moves.drop_expired(device, START).credentials] == ["dropped", "pending"]
    assert moves.drop_expired(holding(pending(2)), START).credentials[0].state is CredentialState.PENDING


@pytest.mark.parametrize(("before", "after"), list(itertools.product(CredentialState, repeat=2)))
def test_an_unlisted_move_of_a_credential_raises(before, after):
    one = pending(1, state=before)
    listed = after in credentials.TRANSITIONS[before]
    if after is CredentialState.PENDING:
        assert not listed
        return
    move = moves.drop if after is CredentialState.DROPPED else None
    try:
        if move:
            move(one, START, "x")
        else:
            moves.confirm(holding(one), one, START)
        moved = True
    except moves.IllegalMove:
        moved = False
    assert moved is listed


@pytest.mark.parametrize(("before", "after"), list(itertools.product(DeviceState, repeat=2)))
def test_an_unlisted_move_of_a_device_raises(before, after):
    try:
        moved = moves.enter(registered(state=before), after).state is after
    except moves.IllegalMove:
        moved = False
    assert moved is (before is after or after in devices.TRANSITIONS[before])


def test_a_put_row_takes_the_place_of_its_id():
    device = moves.put(holding(pending(1), pending(2)), pending(1, last_n=7))
    assert [one.last_n for one in device.credentials] == [7, 0]
    assert len(moves.put(device, pending(3)).credentials) == 3


def test_ids_are_uuids_of_version_7_that_rise_with_time():
    one = identity.uuid7(START, b"\xff" * 10)
    two = identity.uuid7(START + timedelta(milliseconds=1), bytes(10))
    assert (len(one), one[12], one[16]) == (32, "7", "b")
    assert one < two
