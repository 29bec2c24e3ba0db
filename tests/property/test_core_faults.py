"""Whatever is lost, doubled, delayed, garbled or cut off, a device ends confirmed on what it was told to run."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.machine import Machine
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig

IMAGE = random.Random(5).randbytes(23 * 256 + 77)


class Weather:
    """Faults on the replies of a peer, drawn from a seed, until `calm`."""

    def __init__(self, seed, rate):
        self._chance = random.Random(seed)
        self._rate = rate
        self._held = {}
        self.calm = False

    def __call__(self, verb, payload):
        if self.calm or self._chance.random() > self._rate:
            return [*self._held.pop(verb, []), payload]
        what = self._chance.choice(["lose", "double", "hold", "garble", "cut"])
        if what == "double":
            return [payload, payload]
        if what == "hold":
            self._held.setdefault(verb, []).append(payload)
        if what == "garble":
            damaged = bytearray(payload)
            damaged[self._chance.randrange(len(damaged))] ^= 1 << self._chance.randrange(8)
            return [bytes(damaged)]
        if what == "cut":
            return [payload[: self._chance.randrange(len(payload))]]
        return []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.05, 0.2, 0.5]),
    cuts=st.lists(st.integers(1, 90), max_size=1),
    drops=st.lists(st.integers(1, 120), max_size=4),
)
def test_a_device_in_bad_weather_ends_confirmed(seed, rate, cuts, drops):
    machine, peer = Machine(), Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE))
    peer.mangle = Weather(seed, rate)
    machine.cut_at = cuts[0] if cuts else None
    machine.cut_how = "after"
    rig = Rig(peer, machine)
    rig.boot()
    for seconds in drops:
        rig.run_for(seconds)
        if rig.connection is not None:
            rig.drop()
    rig.run_for(600)
    peer.mangle.calm = True
    rig.run(lambda: machine.running["name"] == "2.0" and rig.client.status.state == "online", max_s=8 * 3600)
    assert bytes(machine.idle) == IMAGE
    confirmed = [name for name, known in peer.credentials.items() if known["state"] == "confirmed"]
    assert confirmed == [rig.owner]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hello", "activate", "online", "report", "fetch", "desired", "chunk", "x"]),
            st.binary(max_size=60),
        ),
        max_size=30,
    )
)
def test_any_bytes_on_any_verb_raise_nothing_and_change_no_credential(messages):
    rig = Rig()
    rig.run(lambda: rig.client.status.state == "online")
    before = dict(rig.machine.flash)
    for verb, payload in messages:
        rig.deliver("pv1/c/" + rig.owner + "/dn/" + verb, payload)
    assert rig.machine.flash == before
