"""Whatever is lost, doubled, delayed, garbled or cut off, a device ends confirmed on what it was told to run."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_sdk.core.records import Records
from device_sdk.wire import codes, limits, topics
from device_sdk.wire.packer import packb
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


VERBS = st.sampled_from(["hello", "activate", "online", "report", "fetch", "desired", "chunk", "handshake", "x"])
NEWEST = "the id of the newest request"
SCALARS = st.none() | st.booleans() | st.integers(0, limits.MAX_INT) | st.text(max_size=8) | st.binary(max_size=40)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
# What the core reads, each with what may stand there, or with anything.
KNOWN = {
    "id": st.just(NEWEST),
    "ok": st.booleans(),
    "code": st.sampled_from(codes.ALL),
    "retry_after_s": st.integers(0, limits.MAX_INT),
    "state": st.fixed_dictionaries({"boot_count": st.integers(0, 9), "n": st.integers(0, limits.MAX_INT)}),
    "desired": st.fixed_dictionaries({"doc": st.binary(max_size=60), "mac": st.binary(min_size=32, max_size=32)}),
    "server_nonce": st.binary(min_size=16, max_size=16),
    "grant": st.binary(max_size=60),
    "server_proof": st.binary(min_size=32, max_size=32),
    "chunk_size_min": st.integers(0, 2**17),
    "chunk_size_max": st.integers(0, 2**17),
    "time": SCALARS,
    "expires_s": SCALARS,
}
FIELDS = st.fixed_dictionaries({}, optional={name: usual | VALUES for name, usual in KNOWN.items()})
MORE = {name: usual for name, usual in KNOWN.items() if name not in ("id", "ok")}
REPLIES = st.fixed_dictionaries({"id": KNOWN["id"], "ok": KNOWN["ok"]}, optional=MORE)
MESSAGES = st.lists(st.tuples(VERBS, st.binary(max_size=60) | REPLIES | FIELDS), max_size=20)


def deliver_all(rig, space, messages):
    for verb, body in messages:
        if rig.connection is None:
            return
        rig.deliver(topics.down(space, rig.owner, verb), body if isinstance(body, bytes) else packed(rig, body))


def packed(rig, body):
    if body.get("id") == NEWEST:
        return packb({**body, "id": rig.peer.requests[-1][1]["id"]})
    return packb(body)


def credentials(rig):
    return [Records(rig.machine).load(name) for name in ("current", "next", "key")]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES)
def test_any_bytes_on_any_verb_raise_nothing_and_change_no_credential(messages):
    rig = Rig()
    rig.run(lambda: rig.client.status.state == "online")
    before = credentials(rig)
    assert before[0] is not None
    deliver_all(rig, "c", messages)
    assert credentials(rig) == before
    rig.run_for(1)
    assert credentials(rig) == before


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["hello", "activate", "online"]), MESSAGES)
@example("hello", [("hello", {"id": NEWEST, "ok": False})])
@example("activate", [("activate", {"id": NEWEST, "ok": False, "code": 7})])
@example("online", [("online", {"id": NEWEST, "ok": False, "code": "CONFLICT", "state": {"n": b""}})])
def test_anything_instead_of_a_reply_changes_no_credential_and_the_device_comes_online_in_the_end(opened, messages):
    rig = Rig()
    rig.boot()
    rig.run(lambda: rig.peer.said(opened))
    rig.queue = []  # the true reply is lost
    before = credentials(rig)
    assert any(before) == (opened == "online")
    deliver_all(rig, "c" if opened == "online" else "b", messages)
    if opened != "online" or not any(isinstance(body, dict) and body.get("ok") is True for _, body in messages):
        assert credentials(rig) == before
    rig.run(lambda: rig.client.status.state == "online", max_s=30 * 3600)
