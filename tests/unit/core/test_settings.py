"""Settings: given to the product, tried on a new connection where that matters, and taken back when it does not come."""

from __future__ import annotations

import pytest

from device_sdk.core.ports import Product, SettingsError
from tests.support.machine import Machine
from tests.support.peer import Peer
from tests.support.rig import Rig


class Gadget(Product):
    """Keeps its settings in memory; `apn` is what its connection hangs on, and only the peer knows which one works."""

    def __init__(self, peer):
        self.peer = peer
        self.values = {"apn": "good"}
        self.given = []
        self.refuse = None

    def apply_settings(self, values):
        if self.refuse is not None and "bad" in values:
            raise SettingsError(self.refuse)
        self.given.append(values)
        self.values = dict({"apn": "good"}, **values)
        self.peer.up = self.values["apn"] == "good"

    def needs_trial(self, before, values):
        return before.get("apn") != values.get("apn") or "network" in values


def fresh(cut_at=None, how="before", **values):
    peer, machine = Peer(), Machine()
    machine.cut_at, machine.cut_how = cut_at, how
    rig = Rig(peer, machine, product=Gadget(peer))
    if values:
        peer.want(settings={"rev": 1, "values": values})
    return rig


def told(rig):
    out = []
    for report in rig.peer.said("report"):
        if "settings" in report and (not out or out[-1] != report["settings"]):
            out.append(report["settings"])
    return out


def test_settings_without_a_trial_are_applied_and_told():
    rig = fresh(interval=30)
    rig.run(lambda: told(rig) == [{"rev": 1, "state": "applied"}])
    assert rig.product.values["interval"] == 30
    assert len(rig.peer.connects) == 2
    assert "unsupported" not in rig.peer.said("report")[0]


def test_they_are_given_to_the_product_again_at_every_start():
    rig = fresh(interval=30)
    rig.run(lambda: bool(told(rig)))
    rig.product.values = {}
    rig.boot()
    assert rig.product.values["interval"] == 30
    rig.run_for(60)
    assert told(rig) == [{"rev": 1, "state": "applied"}]


def test_network_settings_are_kept_after_an_online_on_a_new_connection():
    rig = fresh(network="wifi-2")
    rig.run(lambda: told(rig)[-1:] == [{"rev": 1, "state": "applied"}])
    assert [one["state"] for one in told(rig)] == ["trying", "applied"]
    assert [c.host for c in rig.peer.connects] == ["boot", "ops", "ops"]


def test_network_settings_that_cut_the_device_off_are_taken_back():
    rig = fresh()
    rig.run(lambda: rig.client.status.state == "online")
    rig.peer.want(settings={"rev": 1, "values": {"interval": 5}})
    rig.push()
    rig.run(lambda: bool(told(rig)))
    start = rig.now
    rig.peer.want(settings={"rev": 2, "values": {"apn": "typo"}})
    rig.push()
    rig.run(lambda: told(rig)[-1]["state"] == "failed")
    assert told(rig)[-1] == {"rev": 2, "state": "failed", "cause": "connect_unreachable"}
    assert 600 <= rig.now - start < 660
    assert rig.product.values == {"apn": "good", "interval": 5}
    rig.boot()
    assert rig.product.values == {"apn": "good", "interval": 5}
    rig.run(lambda: rig.client.status.state == "online")


def test_a_trial_counts_from_its_first_connection_however_late_that_is():
    rig = fresh(interval=5)
    rig.run(lambda: bool(told(rig)))
    rig.policy.settings_trial_s = 2.0
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]  # it waits 10 s for "trying" to be heard
    rig.peer.want(settings={"rev": 2, "values": {"apn": "typo"}})
    rig.push()
    rig.run_for(20)
    rig.peer.mangle = None
    rig.run(lambda: told(rig)[-1].get("state") == "failed")
    assert told(rig)[-1]["cause"] == "connect_unreachable"


def test_settings_that_the_product_refuses_change_nothing():
    rig = fresh(interval=5)
    rig.run(lambda: bool(told(rig)))
    rig.product.refuse = "out_of_range"
    rig.peer.want(settings={"rev": 2, "values": {"bad": 1}})
    rig.push()
    rig.run(lambda: told(rig)[-1] == {"rev": 2, "state": "failed", "cause": "out_of_range"})
    assert rig.product.values == {"apn": "good", "interval": 5}


def test_newer_settings_during_a_trial_go_back_to_the_ones_before_both():
    rig = fresh(interval=5)
    rig.run(lambda: bool(told(rig)))
    rig.peer.mangle = lambda verb, p: [] if verb == "report" else [p]
    rig.peer.want(settings={"rev": 2, "values": {"network": "a"}})
    rig.push()
    rig.peer.want(settings={"rev": 3, "values": {"apn": "typo"}})
    rig.push()
    rig.peer.mangle = None
    rig.run(lambda: told(rig)[-1].get("state") == "failed")
    assert told(rig)[-1]["rev"] == 3
    assert rig.product.values == {"apn": "good", "interval": 5}


def test_settings_that_are_too_large_are_refused():
    rig = fresh(text="x" * 7000)
    rig.run(lambda: told(rig) == [{"rev": 1, "state": "failed", "cause": "too_large"}])
    assert rig.product.values == {"apn": "good"}


@pytest.mark.parametrize("settings", [7, {"rev": 1}, {"values": {}}, {"rev": True, "values": {}}], ids=repr)
def test_malformed_settings_are_counted_and_ignored(settings):
    rig = fresh()
    rig.peer.want(settings=settings)
    rig.run(lambda: rig.client.counters.get("settings_refused") == 1)
    assert rig.product.given == []


def finish(rig, state):
    rig.run(lambda: told(rig)[-1:] and told(rig)[-1]["state"] == state and rig.client.status.state == "online")
    rig.run_for(5)
    return rig


CASES = {"kept": ({"network": "wifi-2"}, "applied"), "taken_back": ({"apn": "typo"}, "failed")}


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
@pytest.mark.parametrize("case", CASES)
def test_power_cut_at_every_operation_of_a_trial(case, how):
    values, state = CASES[case]
    operations = finish(fresh(**values), state).machine.ops
    assert operations >= 8
    for cut_at in range(1, operations + 1):
        rig = finish(fresh(cut_at, how, **values), state)
        assert rig.cuts == 1
        expected = dict({"apn": "good"}, **(values if state == "applied" else {}))
        assert rig.product.values == expected, cut_at


def test_settings_that_crash_the_device_at_every_start_are_taken_back():
    rig = fresh(apn="typo")
    rig.run(lambda: bool(told(rig)))
    for _ in range(4):
        rig.boot()
    rig.run(lambda: told(rig)[-1] == {"rev": 1, "state": "failed", "cause": "power"})
    assert rig.product.values == {"apn": "good"}
