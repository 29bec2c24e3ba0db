"""An update on one device: tried twice, asked about three times, never just stuck."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import desired, updates
from service.domain.catalogue import Ou
from service.domain.device import Firmware, FirmwareState
from service.domain.firmware import reported
from tests.support.fake_link import START
from tests.support.pipeline_site import NEW, OLD, catalogue, group, registered
from tests.support.storage import a_thing

S = FirmwareState


def a_device(state=None, version=NEW, **fields):
    device = registered()
    thing = a_thing(device, product_id="thermometer")
    firmware = Firmware(state, version.version_id if state else None, since=START, **fields)
    return replace(device, thing=thing, firmware=firmware)


def says(device, state, now=START, cause=None):
    after = reported(device.firmware, state, NEW.version_id, None, cause, 1, now)
    return updates.observe(device.firmware, replace(device, firmware=after), catalogue(), now)


def kinds(events):
    return [one.kind for one in events]


def test_a_version_that_failed_twice_is_held_back_until_it_is_released():
    device = a_device(S.OFFERED)
    device, events = says(device, S.FAILED, cause="wrong_hash")
    assert kinds(events) == ["firmware_failed"]
    assert events[0].data == {"version_id": NEW.version_id, "cause": "wrong_hash", "tries": 1}
    assert desired.target_of(device, catalogue()) == NEW
    device, events = says(device, S.FAILED)  # the same said again
    assert (kinds(events), device.tries) == ([], {NEW.version_id: 1})
    device, _ = says(device, S.DOWNLOADING)
    device, events = says(device, S.ROLLED_BACK)
    assert kinds(events) == ["firmware_rolled_back", "firmware_held_back"]
    assert desired.target_of(device, catalogue()) is None
    assert not updates.is_due(device.firmware, START + timedelta(days=999))
    free = updates.release(device, NEW.version_id)
    assert desired.target_of(free, catalogue()) == NEW
    assert (free.firmware.state, free.releases) == (None, 1)
    assert updates.release(free) is free


def test_versions_that_nobody_made_are_not_counted_however_many_a_device_names():
    device = a_device(S.OFFERED)
    for number in range(3):
        after = reported(device.firmware, S.FAILED, f"{number:032x}", None, None, 1, START)
        device, events = updates.observe(device.firmware, replace(device, firmware=after), catalogue(), START)
        assert kinds(events) == ["firmware_failed"]
    assert device.tries == {}


def test_another_version_is_offered_while_one_is_held_back():
    device = replace(a_device(), tries={NEW.version_id: 2})
    assert desired.target_of(device, catalogue(target=OLD)) == OLD


def test_what_the_service_concluded_and_the_device_then_says_counts_once():
    device = a_device(S.REBOOTING)
    rolled = replace(device.firmware, state=S.ROLLED_BACK, cause="old_version_booted")
    device, _ = updates.observe(device.firmware, replace(device, firmware=rolled), catalogue(), START)
    device, events = says(device, S.FAILED)
    assert (kinds(events), device.tries) == ([], {NEW.version_id: 1})


def test_a_confirmed_version_has_no_tries_any_more():
    device = replace(a_device(S.REBOOTING), tries={NEW.version_id: 1, OLD.version_id: 2})
    done = replace(device.firmware, state=S.CONFIRMED)
    device, events = updates.observe(device.firmware, replace(device, firmware=done), catalogue(), START)
    assert (kinds(events), device.tries) == (["firmware_confirmed"], {OLD.version_id: 2})


@pytest.mark.parametrize("state", sorted(updates.PATIENCE))
def test_every_state_that_is_not_the_last_is_asked_about_three_times_and_then_timed_out(state):
    device, now = a_device(state, cause="why"), START
    if state in updates.ENDED_BADLY:
        device = replace(device, tries={NEW.version_id: 1})
    for count in range(1, 4):
        assert updates.look_after(device, catalogue(), now)[0] is device
        now += updates.PATIENCE[state]
        device, events, again = updates.look_after(device, catalogue(), now)
        assert (events, again, device.firmware.notified) == ((), True, count)
    now += updates.PATIENCE[state]
    device, events, again = updates.look_after(device, catalogue(), now)
    assert (kinds(events), again, device.firmware.state) == (["firmware_timed_out"], False, S.TIMED_OUT)
    assert events[0].data == {"version_id": NEW.version_id, "state": state, "cause": "why"}
    assert not updates.is_due(device.firmware, now + timedelta(days=999))
    assert says(device, S.DOWNLOADING, now)[0].firmware.state is S.DOWNLOADING  # it may still come


def test_all_states_but_the_last_have_a_deadline():
    assert set(updates.PATIENCE) == set(S) - {S.CONFIRMED, S.TIMED_OUT}


def test_a_sound_begins_the_clock_anew():
    device = replace(a_device(S.DOWNLOADING), firmware=replace(a_device(S.DOWNLOADING).firmware, notified=2))
    later = START + updates.PATIENCE[S.DOWNLOADING]
    after = reported(device.firmware, S.DOWNLOADING, NEW.version_id, 40, None, 1, later)
    device, _ = updates.observe(device.firmware, replace(device, firmware=after), catalogue(), later)
    assert (device.firmware.notified, updates.is_due(device.firmware, later)) == (0, False)


def test_a_device_that_defers_is_left_alone_until_then_but_not_for_ever():
    firmware = updates.deferred(a_device(S.DEFERRED).firmware, 2 * 3600, "in use", START)
    assert firmware.deferred_reason == "in use"
    assert not updates.is_due(firmware, START + timedelta(hours=2, minutes=59))
    assert updates.is_due(firmware, START + timedelta(hours=3))
    endless = updates.deferred(firmware, 2**53 - 1, None, START)
    assert endless.deferred_until == START + updates.MAX_DEFERRED


def test_an_update_that_is_not_wanted_any_more_is_forgotten_once_it_is_silent():
    device = a_device(S.DOWNLOADING)
    later = START + updates.PATIENCE[S.DOWNLOADING]
    device, events, again = updates.look_after(device, catalogue(target=None), later)
    assert (device.firmware.state, events, again) == (None, (), False)


def test_what_goes_out_is_offered_unless_it_runs_or_is_under_way():
    assert updates.offered(a_device(), catalogue(), START).firmware.state is S.OFFERED
    for state in (S.DOWNLOADING, S.FAILED, S.TIMED_OUT, S.OFFERED):
        device = a_device(state)
        assert updates.offered(device, catalogue(), START) is device
    fresh = updates.offered(a_device(S.CONFIRMED, OLD, confirmed_seq=7), catalogue(), START).firmware
    assert (fresh.state, fresh.version_id, fresh.confirmed_seq) == (S.OFFERED, NEW.version_id, 7)
    running = a_device()
    running = replace(running, thing=replace(running.thing, installed_version_id=NEW.version_id))
    assert updates.offered(running, catalogue(), START) is running


def test_a_target_is_taken_from_the_nearest():
    def target(world, **thing):
        device = a_device()
        return desired.target_of(replace(device, thing=replace(device.thing, ou="acme/b/c", **thing)), world)

    bare = catalogue(target=None)
    of_group = catalogue(group(target_version_id=OLD.version_id), target=None)
    of_ou = replace(of_group, ous={"acme/b": Ou("acme/b", None, NEW.version_id), "acme/b/c": Ou("acme/b/c", "prod")})
    assert target(bare) is None
    assert target(catalogue()) == NEW
    assert target(replace(of_group, products=catalogue().products)) == OLD
    assert target(of_ou) == NEW
    assert target(of_ou, target_version_id=OLD.version_id) == OLD
    assert target(catalogue(), target_version_id="f" * 32) == NEW  # no version of this product
