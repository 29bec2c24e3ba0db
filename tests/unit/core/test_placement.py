"""Moving to another environment: a device ends where it was sent or stays where it was, never in between."""

from __future__ import annotations

import random

import pytest

from device_sdk.core.records import Records
from tests.support.machine import Machine
from tests.support.peer import GROUP, SERIAL, Peer, firmware
from tests.support.rig import Rig

IMAGE = random.Random(12).randbytes(40 * 256)


def started(rig=None):
    rig = rig or Rig()
    rig.run(lambda: rig.client.status.state == "online")
    return rig


def send(rig, **changes):
    rig.peer.move(rig.there, **changes)
    rig.push()


def is_there(rig):
    return rig.connection is not None and rig.connection.host == "ops2" and rig.client.status.state == "online"


def is_here(rig):
    return rig.connection is not None and rig.connection.host == "ops" and rig.client.status.state == "online"


def told(rig):
    """The states of placement that this environment was told, repeats left out."""
    out = []
    for report in rig.peer.said("report"):
        if "placement" in report and (not out or out[-1] != report["placement"]):
            out.append(report["placement"])
    return out


def failures(rig):
    return [one["cause"] for one in told(rig) if one["state"] == "failed"]


def has_failed(rig):
    return is_here(rig) and bool(failures(rig)) and "placement" not in rig.peer.doc


def come_back(rig, max_s=4 * 3600.0):
    """Back, and the answer to the report of it has arrived."""
    rig.run(lambda: has_failed(rig), max_s=max_s)
    rig.run_for(1)


def confirmed(rig):
    return [name for name, known in rig.peer.credentials.items() if known["state"] == "confirmed"]


def record(rig, name):
    return Records(rig.machine).load(name)


def test_a_device_that_is_moved_ends_in_the_new_environment_and_stays_there():
    rig = started()
    old = rig.owner
    send(rig)
    rig.run(lambda: is_there(rig))
    assert told(rig) == [{"state": "accepted", "environment": "there"}]
    assert rig.peer.credentials[old]["state"] == "dropped"
    assert confirmed(rig) == [rig.owner]
    assert record(rig, "move") is None
    assert record(rig, "next") is None
    count = len(rig.peer.connects)
    rig.boot()
    rig.run(lambda: is_there(rig))
    assert len(rig.peer.connects) == count


def test_it_says_the_same_group_and_serial_and_proves_itself_with_the_same_key():
    rig = started()
    send(rig)
    rig.run(lambda: is_there(rig))
    (first,), (second,) = rig.peer.said("hello"), rig.there.said("hello")
    assert (first["group_id"], first["serial"]) == (second["group_id"], second["serial"]) == (GROUP, SERIAL)


def test_a_sleeping_device_is_moved_at_its_next_contact():
    rig = started()
    rig.drop()
    rig.peer.move(rig.there)
    rig.run(lambda: is_there(rig))


def test_it_comes_back_when_nobody_answers_there_and_says_why():
    rig = started()
    old = rig.owner
    rig.there.up = False
    start = rig.now
    send(rig)
    come_back(rig)
    assert rig.owner == old
    assert 600 <= rig.now - start < 640
    assert failures(rig) == ["connect_unreachable"]
    assert len(rig.there.connects) >= 5
    assert record(rig, "move") is None


def test_it_comes_back_earlier_when_the_service_gives_it_less_time():
    rig = started()
    rig.there.up = False
    start = rig.now
    send(rig, deadline_s=120)
    come_back(rig)
    assert 120 <= rig.now - start < 160


def test_it_comes_back_at_once_when_it_is_refused_there_for_longer_than_the_trial():
    rig = started()
    rig.there.refuse["activate"] = {"code": "BLOCKED", "retry_after_s": 900}
    start = rig.now
    send(rig)
    come_back(rig)
    assert rig.now - start < 20
    assert failures(rig) == ["blocked"]


def test_it_waits_there_through_a_refusal_that_is_shorter_than_the_trial():
    rig = started()
    rig.there.refuse["activate"] = {"code": "REFUSED", "retry_after_s": 60}
    send(rig)
    rig.run(lambda: len(rig.there.said("activate")) == 2)
    rig.there.refuse = {}
    rig.run(lambda: is_there(rig))
    assert failures(rig) == []


def test_a_place_that_activates_but_whose_operational_broker_is_wrongly_configured_is_left_again():
    rig = started()
    old = rig.owner
    rig.there.grants = {"endpoint": {"host": "nowhere", "port": 1, "tls": False}}
    send(rig)
    come_back(rig)
    assert rig.owner == old
    assert failures(rig) == ["connect_unreachable"]
    assert record(rig, "next") is None
    rig.there.grants = {}
    send(rig)
    rig.run(lambda: is_there(rig))


def test_a_move_that_lapsed_meanwhile_sends_the_device_back():
    rig = started()
    rig.there.refuse["online"] = {"code": "CONFLICT"}
    send(rig)
    come_back(rig)
    assert failures(rig) == ["conflict"]


def test_a_device_whose_answer_was_lost_until_the_trial_ended_still_ends_there():
    rig = started()
    rig.there.mangle = lambda verb, p: [] if verb == "online" else [p]
    send(rig)
    rig.run(lambda: bool([c for c in rig.peer.connects[2:] if c.host == "ops"]))
    rig.there.mangle = None
    rig.run(lambda: is_there(rig), max_s=900)
    assert confirmed(rig) == [rig.owner]
    assert record(rig, "move") is None
    assert rig.there.said("report") == [] or "placement" not in rig.there.said("report")[-1]


def test_the_old_place_is_tried_until_it_answers_when_both_are_away():
    rig = started()
    old = rig.owner
    rig.there.up = False
    send(rig)
    rig.run(lambda: bool(rig.there.connects))
    rig.peer.up = False
    rig.run_for(6 * 3600)
    rig.peer.up = True
    come_back(rig, max_s=600)
    assert rig.owner == old


def test_a_move_that_is_withdrawn_before_it_began_does_not_begin():
    rig = started()
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]
    send(rig)
    rig.run_for(1)
    rig.peer.want()
    rig.push()
    rig.run_for(3600)
    assert rig.there.connects == []
    assert record(rig, "move") is None


def test_it_sets_out_even_if_the_service_does_not_answer_its_report():
    rig = started()
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]
    send(rig)
    rig.run(lambda: is_there(rig), max_s=30)


def test_it_sets_out_from_a_place_that_went_away_before_it_could_say_so():
    rig = started()
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]
    send(rig)
    rig.peer.up = False
    rig.boot()
    rig.run(lambda: is_there(rig), max_s=700)


def test_a_move_to_where_the_device_is_needs_no_reconnect():
    rig = started()
    count = len(rig.peer.connects)
    send(rig, environment="here")
    rig.run_for(700)
    assert len(rig.peer.connects) == count
    assert record(rig, "move") is None


def test_without_bootstrap_endpoints_the_factory_ones_lead_there():
    rig = Rig()
    started(rig)
    rig.peer.grants = {"environment": "there"}
    send(rig, bootstrap=[])
    rig.run(lambda: record(rig, "current")["environment"] == "there")


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": 7},
        {"environment": ""},
        {"bootstrap": "boot2"},
        {"bootstrap": [{"host": "boot2"}]},
        {"bootstrap": [{"host": "boot2", "port": 1, "tls": False}] * 9},
        {"deadline_s": 0},
    ],
    ids=repr,
)
def test_a_malformed_placement_changes_nothing_and_is_reported(changes):
    rig = started()
    send(rig, **changes)
    come_back(rig)
    assert failures(rig)[0].startswith("malformed")
    assert rig.there.connects == []


def test_plain_endpoints_are_refused_unless_the_device_was_built_to_allow_them():
    rig = started()
    rig.identity.allow_plain = False
    send(rig)
    come_back(rig)
    assert failures(rig) == ["malformed: plain_endpoint"]


def test_a_download_is_resumed_in_the_new_place():
    rig, image = Rig(), IMAGE * 20
    for peer in (rig.peer, rig.there):
        peer.serve(image)
        peer.want(firmware(image))
    rig.run(lambda: rig.machine.write_bytes >= 16 * 256)
    send(rig)
    rig.run(lambda: rig.machine.running["name"] == "2.0" and is_there(rig))
    assert rig.peer.chunks_sent
    assert rig.there.chunks_sent
    assert rig.machine.write_bytes - len(image) <= 8 * 256
    rig.run(lambda: rig.there.states()[-1:] == ["confirmed"])


def test_a_restart_into_new_firmware_comes_before_the_move():
    rig = Rig()
    for peer in (rig.peer, rig.there):
        peer.serve(IMAGE)
        peer.want(firmware(IMAGE))
    rig.run(lambda: "installing" in rig.peer.states())
    send(rig)
    rig.run(lambda: is_there(rig))
    assert rig.machine.running["name"] == "2.0"
    assert not rig.machine.trial
    assert rig.reboots == 1


def test_a_device_that_was_moved_finds_its_way_by_the_bootstrap_endpoints_it_was_moved_to():
    rig = started()
    send(rig)
    rig.run(lambda: is_there(rig))
    rig.peer.up = False
    rig.there.credentials[rig.owner]["state"] = "dropped"
    count = len(rig.there.connects)
    rig.drop()
    rig.run(lambda: is_there(rig))
    assert "boot2" in [c.host for c in rig.there.connects[count:]]


def test_a_device_that_was_moved_still_ends_at_the_factory_endpoints_when_all_there_is_gone():
    rig = started()
    send(rig)
    rig.run(lambda: is_there(rig))
    rig.there.up = False
    rig.drop()
    rig.run(lambda: is_here(rig))
    assert confirmed(rig) == [rig.owner]


def fresh(reachable, cut_at=None, how="before"):
    peer = Peer()
    machine = Machine()
    machine.cut_at, machine.cut_how = cut_at, how
    rig = Rig(peer, machine)
    if reachable == "no":
        rig.there.up = False
    elif reachable == "half":
        rig.there.down = ("ops2",)
    peer.move(rig.there)
    return rig


def finish(rig, reachable):
    if reachable == "yes":
        rig.run(lambda: is_there(rig))
    else:
        come_back(rig)
    rig.run_for(60)
    return rig


OPERATIONS = {how: finish(fresh(how), how).machine.ops for how in ("yes", "no", "half")}


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
@pytest.mark.parametrize("reachable", ["yes", "no", "half"])
def test_power_cut_at_every_operation_of_a_move(reachable, how):
    assert OPERATIONS[reachable] >= 12
    for cut_at in range(1, OPERATIONS[reachable] + 1):
        rig = finish(fresh(reachable, cut_at, how), reachable)
        assert rig.cuts == 1
        assert confirmed(rig) == [rig.owner], cut_at
        assert record(rig, "move") is None, cut_at
        assert record(rig, "next") is None, cut_at
        assert record(rig, "current")["credential_id"] == rig.owner


def test_power_that_goes_again_and_again_during_the_trial_does_not_keep_the_device_away_for_ever():
    rig = started()
    rig.there.up = False
    send(rig)
    rig.run(lambda: bool(rig.there.connects))
    for _ in range(6):
        rig.run_for(300)
        rig.boot()
    come_back(rig, max_s=60)
    assert failures(rig) == ["power"]


def test_a_move_that_is_ordered_again_before_its_failure_was_answered_is_answered_with_the_failure():
    rig = started()
    rig.there.up = False
    send(rig)
    rig.run(lambda: has_failed(rig))
    rig.there.up = True
    send(rig)
    come_back(rig)
    send(rig)
    rig.run(lambda: is_there(rig))
