"""Out of the box: the handshake, the settings of the site, and both orders of network settings and first contact."""

from __future__ import annotations

import pytest

from device_sdk.core.client import Client
from device_sdk.wire import topics
from device_sdk.wire.packer import packb, unpackb
from tests.support.machine import Machine
from tests.support.warehouse_peer import HallTablet, WarehousePeer, WarehouseRig, entry

HALL = {"features": {"kiosk": True}, "payment": {"terminal": "T1"}, "network": {"ssid": "hall"}}


def fresh(*, wired, cut_at=None, how="before", at_step=()):
    peer = WarehousePeer(entry("app", b"app"))
    peer.settings = (3, HALL)
    peer.values = {name: HALL[name] for name in at_step}
    machine = Machine()
    rig = WarehouseRig(peer, machine, product=HallTablet(peer, wired))
    rig.run(lambda: rig.off)
    rig.product.arrive()
    peer.want(handshake={"settings_rev": 3})
    machine.cut_at, machine.cut_how = (machine.ops + cut_at if cut_at else None), how
    rig.unpack()
    return rig


def said(rig):
    out = []
    for report in rig.peer.said("report"):
        if "site" in report and (not out or out[-1] != report["site"]):
            out.append(report["site"])
    return out


def in_force(rig):
    return bool(said(rig)) and said(rig)[-1] == {"rev": 3, "state": "applied"} and rig.client.status.state == "online"


def test_on_a_wire_the_first_contact_brings_the_network_settings_which_are_tried_on_a_new_connection():
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    assert said(rig) == [{"rev": 3, "state": "trying"}, {"rev": 3, "state": "applied"}]
    assert rig.product.values == HALL
    assert rig.peer.step == "at_site"
    assert "unsupported" not in rig.peer.said("report")[-1]


def test_without_a_wire_the_network_settings_of_the_warehouse_step_make_the_first_contact_possible():
    rig = fresh(wired=False, at_step=("network",))
    assert rig.product.given[0] == {"network": HALL["network"]}
    rig.run(lambda: in_force(rig))
    assert rig.product.values == HALL


def test_without_a_wire_and_without_network_settings_a_person_enters_them():
    rig = fresh(wired=False)
    rig.run_for(1800)
    assert rig.peer.step == "out_of_box"
    rig.peer.up = True  # entered at the device
    rig.run(lambda: in_force(rig))
    assert rig.product.values == HALL


@pytest.mark.parametrize("wired", [True, False])
@pytest.mark.parametrize("how", ["before", "after", 5])
def test_power_may_go_at_every_operation_of_the_first_day(wired, how):
    step = () if wired else ("network",)
    whole = fresh(wired=wired, at_step=step)
    before = whole.machine.ops
    whole.run(lambda: in_force(whole))
    for cut_at in range(1, whole.machine.ops - before + 3):
        rig = fresh(wired=wired, at_step=step, cut_at=cut_at, how=how)
        _until_in_force(rig)
        assert rig.product.values == HALL


def _until_in_force(rig):
    rig.run(lambda: in_force(rig))


def test_settings_that_cut_the_device_off_are_given_up_for_the_last_good_ones_and_reported():
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    rig.peer.settings = (4, {**HALL, "network": {"ssid": "wrong"}})
    rig.peer.want(handshake={"settings_rev": 4})
    rig.push()
    rig.run(lambda: said(rig)[-1].get("state") == "failed")
    assert said(rig)[-1]["rev"] == 4
    assert rig.product.values == HALL
    asked = len(rig.peer.said("handshake"))
    rig.run_for(2 * 3600)
    assert rig.client.status.state == "online"
    assert len(rig.peer.said("handshake")) == asked  # not asked for again before there are others
    rig.peer.settings = (5, {**HALL, "payment": {"terminal": "T2"}})
    rig.peer.want(handshake={"settings_rev": 5})
    rig.push()
    rig.run(lambda: said(rig)[-1] == {"rev": 5, "state": "applied"})
    assert rig.product.values["payment"] == {"terminal": "T2"}


def test_a_change_that_the_connection_does_not_hang_on_needs_no_trial():
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    connects = len(rig.peer.connects)
    rig.peer.settings = (4, {**HALL, "features": {"kiosk": False}})
    rig.peer.want(handshake={"settings_rev": 4})
    rig.push()
    rig.run(lambda: said(rig)[-1] == {"rev": 4, "state": "applied"})
    assert len(rig.peer.connects) == connects


@pytest.mark.parametrize(("rev", "values"), [(2, {"features": {"kiosk": False}}), (0, {})])
def test_at_another_site_it_takes_over_what_that_one_has_under_a_lower_revision_or_nothing(rev, values):
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    rig.peer.settings = (rev, values)
    rig.peer.want(handshake={"settings_rev": rev})
    rig.push()
    rig.run(lambda: said(rig)[-1] == {"rev": rev, "state": "applied"})
    assert rig.product.values == values


def test_it_shakes_hands_once_after_each_start_and_the_product_gets_its_settings_again():
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    before = len(rig.peer.said("handshake"))
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(60)
    assert len(rig.peer.said("handshake")) == before + 1
    assert rig.peer.said("handshake")[-1]["settings_rev"] == 3
    assert rig.product.given[-1] == HALL


def test_settings_without_a_right_mac_are_ignored():
    rig = fresh(wired=True)

    def mangle(verb, payload):
        if verb == "handshake":
            reply = unpackb(payload)
            reply["settings"]["mac"] = bytes(32)
            return [packb(reply)]
        return [payload]

    rig.peer.mangle = mangle
    rig.run(lambda: rig.client.counters.get("mac", 0) > 0)
    assert rig.product.values == {}
    rig.peer.mangle = None
    rig.boot()
    rig.run(lambda: in_force(rig))


def test_a_refused_handshake_is_said_again_on_the_next_connection():
    rig = fresh(wired=True)
    rig.peer.refuse["handshake"] = {"code": "UNAVAILABLE", "retry_after_s": 5}
    rig.run(lambda: bool(rig.peer.said("handshake")))
    rig.run_for(60)
    assert len(rig.peer.said("handshake")) == 1
    del rig.peer.refuse["handshake"]
    rig.drop()
    rig.run(lambda: in_force(rig))


def test_garbage_in_the_place_of_a_handshake_raises_nothing():
    rig = fresh(wired=True)
    rig.run(lambda: in_force(rig))
    assert isinstance(rig.client, Client)
    for offer in (7, {"settings_rev": "x"}, {}):
        rig.peer.want(handshake=offer)
        rig.push()
    for reply in ({"settings": 1}, {"settings": {"doc": b"\xc1", "mac": b""}}):
        rig.deliver(topics.down("c", rig.owner, "handshake"), packb({"ok": True, "id": "x", **reply}))
    rig.run_for(10)
    assert rig.client.counters["handshake_refused"] >= 2
