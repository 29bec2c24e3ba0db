"""The recovery ladder: where a device goes when things fail, and that it never stops and never deletes too early."""

from __future__ import annotations

from device_sdk.core.backoff import Backoff
from device_sdk.wire.packer import packb, unpackb
from tests.support.rig import Rig


def started():
    rig = Rig()
    rig.run(lambda: rig.client.status.state == "online")
    return rig


def reactivate(rig):
    """The device holds `current` and is made to fetch a `next` through bootstrap."""
    current = rig.owner
    rig.peer.credentials[current]["state"] = "dropped"
    rig.drop()
    rig.run(lambda: len(rig.peer.said("activate")) == 2)
    rig.peer.credentials[current]["state"] = "confirmed"
    return current


def hosts_since(rig, count):
    return [c.host for c in rig.peer.connects[count:]]


def test_a_lost_connection_comes_back_with_the_same_credential_and_a_higher_n():
    rig = started()
    rig.drop()
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    first, second = rig.peer.said("online")
    assert (second["boot_count"], second["n"]) > (first["boot_count"], first["n"])
    assert hosts_since(rig, 2) == ["ops"]


def test_after_a_restart_boot_count_is_higher_and_the_credential_the_same():
    rig = started()
    owner = rig.owner
    rig.boot()
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    assert rig.owner == owner
    assert rig.peer.said("online")[1]["boot_count"] == 2
    assert len(rig.peer.said("activate")) == 1


def test_not_authorized_counts_after_three_tries_over_a_minute_and_deletes_nothing():
    rig = started()
    owner = rig.owner
    rig.peer.credentials[owner]["state"] = "dropped"
    count, start = len(rig.peer.connects), rig.now
    rig.drop()
    rig.run(lambda: "boot" in hosts_since(rig, count))
    assert hosts_since(rig, count)[:-1].count("ops") >= 3
    assert rig.now - start >= 60
    assert any(owner.encode() in data for data in rig.machine.flash.values())


def test_a_device_whose_service_is_away_for_a_day_tries_without_end_and_comes_back():
    rig = started()
    rig.peer.up = False
    rig.drop()
    count = len(rig.peer.connects)
    rig.run_for(24 * 3600)
    tries = len(rig.peer.connects) - count
    assert 24 * 3600 / 120 <= tries <= 24 * 3600 / 60
    assert set(hosts_since(rig, count)) == {"ops", "boot"}
    rig.peer.up = True
    rig.run(lambda: rig.client.status.state == "online", max_s=300)


def test_current_stays_until_an_online_was_answered_on_next():
    rig = started()
    rig.peer.mangle = lambda verb, p: [] if verb == "online" else [p]
    current = reactivate(rig)
    rig.run_for(5)
    stored = b"".join(rig.machine.flash.values())
    assert current.encode() in stored
    assert rig.client.status.place == "next"
    rig.peer.mangle = None
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.owner != current
    assert rig.client.status.place == "current"
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.peer.connects[-1].client_id == rig.owner != current


def test_a_next_that_is_refused_gives_way_to_current_again():
    rig = started()
    current = reactivate(rig)
    fresh = rig.peer.connects[-1].client_id
    rig.run(lambda: fresh in rig.peer.credentials or True)
    for name in rig.peer.credentials:
        rig.peer.credentials[name]["state"] = "confirmed" if name == current else "dropped"
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.owner == current


def test_a_lost_activate_reply_leaves_the_old_credential_in_use():
    rig = started()
    current = rig.owner
    rig.peer.mangle = lambda verb, p: [] if verb == "activate" else [p]
    rig.peer.credentials[current]["state"] = "dropped"
    rig.drop()
    rig.run(lambda: len(rig.peer.said("activate")) == 4)
    rig.peer.credentials[current]["state"] = "confirmed"
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.owner == current


def test_a_held_credential_says_online_again_after_the_time_it_was_told():
    rig = Rig()
    rig.peer.refuse["online"] = {"code": "CONFLICT", "retry_after_s": 30}
    rig.run(lambda: len(rig.peer.said("online")) == 1)
    start = rig.now
    rig.peer.refuse = {}
    rig.run(lambda: rig.client.status.state == "online")
    assert 30 <= rig.now - start < 31
    assert len(rig.peer.connects) == 2


def test_a_device_that_waits_for_an_operator_does_not_ask_for_one_credential_after_the_other():
    rig = Rig()
    rig.peer.refuse["online"] = {"code": "CONFLICT"}
    rig.run_for(24 * 3600)
    assert len(rig.peer.said("activate")) <= 12
    rig.peer.refuse = {}
    rig.run(lambda: rig.client.status.state == "online", max_s=2 * 24 * 3600)


def test_a_device_that_lost_its_counter_goes_on_above_what_the_service_has_seen():
    rig = started()
    for name in ("boot-a", "boot-b"):
        rig.machine.flash.pop(name, None)
    rig.peer.refuse["online"] = {"code": "CONFLICT", "state": {"boot_count": 41, "n": 7}}
    rig.boot()
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    rig.peer.refuse = {}
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.peer.said("online")[-1]["boot_count"] == 42
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.peer.said("online")[-1]["boot_count"] == 43


def test_a_senseless_state_is_not_believed():
    rig = started()
    rig.peer.refuse["online"] = {"code": "CONFLICT", "state": {"boot_count": 2**53 - 1, "n": 1}}
    rig.boot()
    rig.run_for(5)
    assert max(r["boot_count"] for r in rig.peer.said("online")) == 2


def test_a_push_is_answered_even_when_it_brings_nothing_new():
    rig = started()
    rig.peer.want()
    rig.push()
    rig.run(lambda: len(rig.peer.said("report")) == 1)
    rig.push()
    rig.run(lambda: len(rig.peer.said("report")) == 2)
    assert [r["desired_rev"] for r in rig.peer.said("report")] == [1, 1]


def test_a_quiet_device_reports_from_time_to_time_so_that_a_lost_push_is_healed():
    rig = started()
    rig.peer.want(settings={"rev": 1})
    rig.run_for(2 * 3600)
    assert rig.peer.said("report")[-1]["desired_rev"] == 1
    assert rig.peer.said("report")[-1]["unsupported"] == ["settings"]


def test_a_report_that_is_not_answered_costs_the_connection():
    rig = started()
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]
    rig.peer.want()
    rig.push()
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    reports = rig.peer.said("report")
    assert len(reports) == 4
    assert reports.count(reports[0]) == 4


def test_a_refused_report_is_told_again_later():
    rig = started()
    rig.peer.refuse["report"] = {"code": "UNAVAILABLE", "retry_after_s": 7}
    rig.peer.want()
    rig.push()
    rig.run(lambda: len(rig.peer.said("report")) == 1)
    start = rig.now
    rig.peer.refuse = {}
    rig.run(lambda: len(rig.peer.said("report")) == 2)
    assert 7 <= rig.now - start < 8


def test_documents_are_refused_and_reported_without_end_of_reports():
    rig = started()
    rig.peer.want(settings={"rev": 1})
    rig.push()
    rig.run(lambda: len(rig.peer.said("report")) == 1)
    cases = []
    good = rig.peer.desired(rig.owner)
    cases.append(({"doc": good["doc"], "mac": bytes(32)}, "mac"))
    cases.append(({"doc": good["doc"] + b"\xc0", "mac": good["mac"]}, "mac"))
    cases.append(({"doc": "text", "mac": good["mac"]}, "malformed"))
    cases.append((None, "malformed"))
    rig.peer.doc["settings"] = {"rev": 9}
    cases.append((rig.peer.desired(rig.owner), "same_rev_other_bytes"))
    rig.peer.doc["rev"] = 0
    cases.append((rig.peer.desired(rig.owner), "malformed"))
    for desired, cause in cases:
        before = len(rig.peer.said("report"))
        rig.deliver("pv1/c/" + rig.owner + "/dn/desired", packb({"desired": desired}))
        rig.run_for(1)
        (report,) = rig.peer.said("report")[before:]
        assert report["firmware"]["cause"] == cause
        assert report["desired_rev"] == 1


def test_a_lower_revision_is_refused():
    rig = started()
    for _ in range(2):
        rig.peer.want(settings={"rev": 1})
        rig.push()
        rig.run_for(1)
    rig.peer.doc = {"rev": 1}
    rig.push()
    rig.run_for(1)
    assert rig.peer.causes() == ["lower_rev"]
    assert rig.client.status.cause == "lower_rev"
    assert rig.peer.said("report")[-1]["desired_rev"] == 2


def test_a_bad_document_in_every_reply_is_reported_once():
    rig = started()
    rig.peer.want()
    rig.peer.key = bytes(32)
    rig.push()
    rig.run_for(30)
    assert len(rig.peer.said("report")) == 1


def test_a_revision_belongs_to_its_credential():
    rig = started()
    rig.peer.want()
    rig.push()
    rig.run_for(1)
    reactivate(rig)
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    assert [r["desired_rev"] for r in rig.peer.said("online")] == [0, 0]


def test_a_flash_that_cannot_be_written_costs_the_connection_and_never_the_device():
    rig = Rig()
    rig.machine.fail["save"] = OSError("full")
    rig.run_for(300)
    assert rig.client.counters["flash_error"] > 1
    rig.machine.fail = {}
    rig.run(lambda: rig.client.status.state == "online")
    assert unpackb(rig.peer.said("activate")[-1]["claim"])["boot_count"] >= 1


def test_waits_double_up_to_their_bound_and_are_jittered():
    drawn = iter([b"\x00\x00", b"\xff\xff", b"\x80\x00", b"\xff\xff"])
    backoff = Backoff(1, 4, lambda _: next(drawn))
    assert [round(backoff.next(), 2) for _ in range(4)] == [0.75, 2.5, 4.0, 4.0]


def test_a_stored_reply_to_a_request_of_an_earlier_boot_is_no_answer():
    rig = started()
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    first, second = rig.peer.said("online")
    assert first["id"] != second["id"]
    rig.peer.mangle = lambda verb, p: [packb(dict(unpackb(p), id=first["id"]))] if verb == "online" else [p]
    rig.drop()
    rig.run_for(10)
    assert rig.client.status.state == "connecting"
