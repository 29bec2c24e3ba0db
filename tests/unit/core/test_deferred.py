"""Firmware that the product puts off: asked before the download and again before the restart, and never forgotten."""

from __future__ import annotations

import random

from device_sdk.core.ports import Product
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig

IMAGE = random.Random(13).randbytes(20 * 256)


class Busy(Product):
    """Says what is in `answers`, then never mind; asked with the versions in `asked`."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def defer(self, version):
        self.asked.append(version["name"])
        return self.answers.pop(0) if self.answers else None


def fresh(*answers):
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE))
    return Rig(peer, product=Busy(*answers))


def is_done(rig):
    return rig.machine.running["name"] == "2.0" and rig.peer.states()[-1:] == ["confirmed"]


def deferrals(rig):
    told = [r["firmware"] for r in rig.peer.said("report") if r.get("firmware", {}).get("state") == "deferred"]
    return [(one["until_s"], one["cause"]) for one in told]


def test_a_product_that_is_busy_puts_the_download_off_and_comes_back_to_it():
    rig = fresh((3600, "in_use"), (1800, "battery"))
    rig.run(lambda: len(deferrals(rig)) == 1)
    start = rig.now
    rig.run_for(3000)
    assert rig.peer.chunks_sent == {}
    rig.run(lambda: is_done(rig))
    assert deferrals(rig) == [(3600, "in_use"), (1800, "battery")]
    assert rig.now - start >= 5400
    assert set(rig.product.asked) == {"2.0"}


def test_it_is_asked_again_before_the_restart():
    rig = fresh(None, (600, "in_use"))
    rig.run(lambda: len(deferrals(rig)) == 1)
    assert bytes(rig.machine.idle) == IMAGE
    rig.run_for(500)
    assert rig.reboots == 0
    rig.run(lambda: is_done(rig))
    assert rig.peer.states()[:-1].count("deferred") == 1


def test_a_restart_while_it_waits_asks_again_and_fetches_nothing_twice():
    rig = fresh(None, (600, "in_use"))
    rig.run(lambda: len(deferrals(rig)) == 1)
    rig.boot()
    rig.run(lambda: is_done(rig))
    assert rig.machine.write_bytes == len(IMAGE)


def test_a_newer_version_takes_the_place_of_the_one_that_waits():
    rig = fresh(None, (6000, "in_use"))
    rig.run(lambda: len(deferrals(rig)) == 1)
    newer = random.Random(14).randbytes(10 * 256)
    rig.peer.serve(newer)
    rig.peer.want(firmware(newer, "3.0", 3))
    rig.push()
    rig.run(lambda: rig.machine.running["name"] == "3.0")


def test_senseless_times_are_brought_into_bounds():
    rig = fresh((0, "now"), (10**9, "never"))
    rig.run(lambda: len(deferrals(rig)) == 2)
    assert [until_s for until_s, _ in deferrals(rig)] == [10, 7 * 24 * 3600]
    rig.run(lambda: is_done(rig), max_s=8 * 24 * 3600)
