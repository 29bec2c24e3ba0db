"""Power that goes between the last item and switching off: out of box and asleep, or on with it; nowhere stuck."""

from __future__ import annotations

import pytest

from device_sdk.core.client import Client
from device_sdk.core.staging import StagingClient
from tests.support.machine import Machine, PowerCut
from tests.support.warehouse_peer import HallTablet, WarehousePeer, WarehouseRig, entry

NETWORK = {"network": {"ssid": "hall"}}
HALL = {"features": {"kiosk": True}, **NETWORK}


class PackedRig(WarehouseRig):
    """Power that goes stays away until unpack()."""

    dark = False

    def boot(self):
        if not self.dark:
            super().boot()

    def lose_power(self):
        self.dark = self.off = True

    def unpack(self):
        self.dark = False
        super().unpack()


class Moments:
    """Cuts the power at the n-th thing that happens after `staged` was sent: an operation of the flash, or the answer
    on its way. Without a number it counts them.
    """

    def __init__(self, rig, cut_at):
        self.seen, self.cut_at = 0, cut_at
        self.peer, self.operation_of = rig.peer, rig.machine._op
        rig.machine._op = self.operation
        rig.peer.mangle = self.message
        rig.on_boot = rig.lose_power

    def end(self, rig):
        rig.machine._op, rig.peer.mangle, rig.on_boot = self.operation_of, None, None

    def operation(self, name):
        cut = self.operation_of(name)
        return self.passes() or cut if self.peer.said("staged") else cut

    def message(self, verb, payload):
        if verb == "staged" and self.passes():
            raise PowerCut
        return [payload]

    def passes(self):
        self.seen += 1
        return self.seen == self.cut_at


def staged(*, wired, cut_at=None, how="before"):
    """Until it is off, by itself or not; and how many moments there were."""
    peer = WarehousePeer(entry("app", b"app"))
    peer.settings = (3, HALL)
    peer.values = {} if wired else NETWORK
    machine = Machine()
    machine.cut_how = how
    rig = PackedRig(peer, machine, product=HallTablet(peer, wired))
    moments = Moments(rig, cut_at)
    rig.run(lambda: rig.off)
    moments.end(rig)
    assert rig.cuts == (0 if cut_at is None else 1)
    assert peer.step == "out_of_box"
    assert [one["state"] for one in peer.credentials.values()] == ["pending"]
    peer.want(handshake={"settings_rev": 3})
    return rig, moments.seen


def every_moment(*, wired):
    _, count = staged(wired=wired)
    assert count >= 2
    return [(cut_at, how) for cut_at in range(1, count + 1) for how in ("before", "after", 7)]


@pytest.mark.parametrize("wired", [True, False])
def test_power_that_comes_back_in_the_warehouse_finds_it_out_of_box_and_asleep_or_puts_it_there(wired):
    asleep = 0
    for cut_at, how in every_moment(wired=wired):
        rig, _ = staged(wired=wired, cut_at=cut_at, how=how)
        rig.unpack()
        if isinstance(rig.client, StagingClient):
            rig.run(lambda rig=rig: rig.off)
            assert rig.peer.step == "out_of_box"
            assert rig.peer.stages == 1
            asleep += 1
    assert asleep >= 3  # all but the cuts behind the last thing it stores: for those it is switched on at a customer's


@pytest.mark.parametrize("wired", [True, False])
def test_a_unit_whose_shipment_was_entered_comes_to_life_at_its_first_start(wired):
    for cut_at, how in every_moment(wired=wired):
        rig, _ = staged(wired=wired, cut_at=cut_at, how=how)
        rig.peer.step = "shipped"
        rig.product.arrive()
        rig.unpack()
        rig.run(lambda rig=rig: rig.off or (rig.product.values == HALL and rig.client.status.state == "online"))
        assert (rig.peer.step, rig.off) == ("at_site", False)


@pytest.mark.parametrize("wired", [True, False])
def test_a_unit_that_was_shipped_after_such_a_cut_comes_to_life_at_its_second_start_at_the_latest(wired):
    for cut_at, how in every_moment(wired=wired):
        rig, _ = staged(wired=wired, cut_at=cut_at, how=how)
        rig.product.arrive()
        rig.unpack()
        rig.run(lambda rig=rig: rig.off or rig.product.values == HALL)
        if rig.off:
            rig.product.arrive()
            rig.unpack()
        rig.run(lambda rig=rig: rig.product.values == HALL and rig.client.status.state == "online")
        assert isinstance(rig.client, Client)
        assert (rig.peer.step, rig.off) == ("at_site", False)


@pytest.mark.parametrize("wired", [True, False])
def test_a_unit_cut_so_and_kept_for_longer_than_its_credential_lives_comes_in_by_the_ordinary_door(wired):
    for cut_at, how in every_moment(wired=wired):
        rig, _ = staged(wired=wired, cut_at=cut_at, how=how)
        (lapsed,) = rig.peer.credentials.values()
        lapsed["state"], rig.peer.step, rig.peer.down = "dropped", "shipped", ("depot",)
        rig.product.arrive()
        rig.unpack()
        rig.run(lambda rig=rig: rig.product.values == HALL and rig.client.status.state == "online")
        assert (rig.peer.step, rig.peer.stages) == ("at_site", 1)
        rig.boot()
        assert isinstance(rig.client, Client)


def test_a_restaged_unit_waits_for_a_warehouse_that_is_down_for_a_while():
    rig, _ = staged(wired=True, cut_at=1)
    (lapsed,) = rig.peer.credentials.values()
    lapsed["state"], rig.peer.step, rig.peer.down = "dropped", "received", ("depot",)
    rig.peer.used, rig.peer.said_items = set(), {}
    rig.unpack()
    rig.run_for(1800)
    rig.peer.down = ()
    rig.run(lambda: rig.off)
    assert (rig.peer.step, rig.peer.stages) == ("out_of_box", 2)


def test_a_unit_that_nobody_answers_tries_with_and_without_the_network_of_its_site():
    rig, _ = staged(wired=False, cut_at=1)
    rig.peer.up = False
    rig.product.connect = lambda: None
    rig.unpack()
    rig.run_for(1800)
    assert len(rig.product.given) >= 4
    assert rig.product.given[:3] == [NETWORK, {}, NETWORK]
    assert not rig.off
    rig.peer.up = True
    rig.run(lambda: rig.off)


def test_a_unit_in_the_middle_of_its_items_keeps_the_network_of_the_warehouse():
    rig = WarehouseRig(WarehousePeer(entry("app", b"app")))
    rig.peer.values, rig.product = NETWORK, HallTablet(rig.peer, wired=False)
    rig.shelf.broken = ("app",)
    rig.run(lambda: rig.peer.item_states("app")[-1:] == ["failed"])
    rig.peer.up = False
    rig.drop()
    rig.run_for(1800)
    assert rig.product.given == []


@pytest.mark.parametrize("values", [{"network": {"ssid": "other"}}, {}])
def test_what_the_warehouse_leaves_is_of_the_last_staging(values):
    for cut_at, how in every_moment(wired=False):
        rig, _ = staged(wired=False, cut_at=cut_at, how=how)
        # An operator has it staged anew, for another site, before it has its answer.
        for known in rig.peer.credentials.values():
            known["state"] = "dropped"
        rig.peer.used, rig.peer.said_items, rig.peer.values, rig.peer.step = set(), {}, values, "received"
        rig.unpack()
        if isinstance(rig.client, Client):
            continue
        rig.run(lambda rig=rig: rig.off)
        assert rig.peer.stages == 2
        rig.peer.settings = None
        rig.unpack()
        rig.run(lambda rig=rig: rig.client.status.state == "online")
        assert rig.product.values == values


@pytest.mark.parametrize("wired", [True, False])
def test_a_unit_whose_credential_lapsed_on_the_shelf_comes_in_by_the_ordinary_door(wired):
    rig, _ = staged(wired=wired)
    (lapsed,) = rig.peer.credentials.values()
    lapsed["state"] = "dropped"
    rig.product.arrive()
    rig.unpack()
    rig.run(lambda: rig.product.values == HALL and rig.client.status.state == "online")
    assert len(rig.peer.said("activate")) == 1
    assert rig.peer.step == "at_site"
