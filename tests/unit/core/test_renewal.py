"""Renewal over the operational connection, and a transfer of ownership."""

from __future__ import annotations

import pytest

from device_sdk.core.records import Records
from tests.support.machine import Machine
from tests.support.peer import K, Peer
from tests.support.rig import Rig


def started(rig=None):
    rig = rig or Rig()
    rig.run(lambda: rig.client.status.state == "online")
    return rig


def want(rig, **fields):
    rig.peer.want(**fields)
    rig.push()


def record(rig, name):
    return Records(rig.machine).load(name)


def confirmed(rig):
    return [name for name, known in rig.peer.credentials.items() if known["state"] == "confirmed"]


def is_renewed(rig, old):
    return rig.connection is not None and rig.owner != old and rig.client.status.state == "online"


def test_a_wanted_renewal_gives_a_new_credential_without_the_bootstrap_broker():
    rig = started()
    old = rig.owner
    want(rig, credential={"renew": 7})
    rig.run(lambda: is_renewed(rig, old))
    assert [c.host for c in rig.peer.connects] == ["boot", "ops", "ops"]
    assert confirmed(rig) == [rig.owner]
    assert [r["moving"] for r in rig.peer.said("report") if "moving" in r] == [rig.owner]
    assert record(rig, "current")["renew"] == 7
    assert record(rig, "renew") is None


def test_the_same_number_again_is_answered_and_renews_nothing():
    rig = started()
    old = rig.owner
    want(rig, credential={"renew": 7})
    rig.run(lambda: is_renewed(rig, old))
    renewed = rig.owner
    want(rig, credential={"renew": 7})
    rig.run_for(7200)
    assert rig.owner == renewed
    want(rig, credential={"renew": 8})
    rig.run(lambda: is_renewed(rig, renewed))


def test_a_renewal_that_is_refused_leaves_the_credential_in_use_and_is_tried_again():
    rig = started()
    old = rig.owner
    rig.peer.refuse["activate"] = {"code": "THROTTLED", "retry_after_s": 100}
    want(rig, credential={"renew": 7})
    rig.run_for(150)
    assert rig.owner == old
    assert rig.client.status.state == "online"
    assert 2 <= len(rig.peer.said("activate")) <= 4
    rig.peer.refuse = {}
    rig.run(lambda: is_renewed(rig, old))


def test_a_renewed_credential_that_is_not_let_in_gives_way_to_the_old_one_without_a_storm():
    rig = started()
    old = rig.owner
    rig.peer.refuse["activate"] = {}  # overwritten below: only online of another credential is refused
    rig.peer.refuse = {}
    online = rig.peer._online

    def only_old(owner, request, out):
        return online(owner, request, out) if owner == old else {"ok": False, "code": "CONFLICT"}

    rig.peer._online = only_old
    want(rig, credential={"renew": 7})
    rig.run_for(6 * 3600)
    assert len(rig.peer.said("activate")) <= 12
    assert rig.peer.credentials[old]["state"] == "confirmed"
    rig.peer._online = online
    rig.run(lambda: is_renewed(rig, old), max_s=24 * 3600)


def test_a_service_that_does_not_answer_a_renewal_costs_the_connection_and_nothing_else():
    rig = started()
    old = rig.owner
    rig.peer.mangle = lambda verb, p: [] if verb == "hello" else [p]
    want(rig, credential={"renew": 7})
    rig.run(lambda: len(rig.peer.said("online")) == 2)
    assert rig.owner == old
    rig.peer.mangle = None
    rig.run(lambda: is_renewed(rig, old))


@pytest.mark.parametrize("credential", [7, {}, {"renew": "7"}, {"renew": True}], ids=repr)
def test_a_malformed_renewal_is_counted_and_ignored(credential):
    rig = started()
    want(rig, credential=credential)
    rig.run_for(60)
    assert rig.client.counters["renewal_refused"] == 1
    assert len(rig.peer.said("hello")) == 1


def renewing(rekey, cut_at=None, how="before"):
    peer, machine = Peer(), Machine()
    machine.cut_at, machine.cut_how = cut_at, how
    rig = Rig(peer, machine)
    peer.want(credential={"renew": 1})
    if rekey:
        peer.grants = {"rekey": True}
    return rig


def renewed(rig):
    rig.run(lambda: len(rig.peer.credentials) >= 2 and confirmed(rig) == [rig.connection and rig.owner])
    rig.run(lambda: rig.client.status.state == "online" and record(rig, "renew") is None)
    rig.run_for(30)
    return rig


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
@pytest.mark.parametrize("rekey", [False, True], ids=["same_key", "new_key"])
def test_power_cut_at_every_operation_of_a_renewal(rekey, how):
    operations = renewed(renewing(rekey)).machine.ops
    for cut_at in range(1, operations + 1):
        rig = renewed(renewing(rekey, cut_at, how))
        assert rig.cuts == 1
        assert confirmed(rig) == [rig.owner], cut_at
        assert record(rig, "next") is None


def lose_credentials(rig):
    """What is stored of them is refused, so that the device must prove itself at the bootstrap broker."""
    for known in rig.peer.credentials.values():
        known["state"] = "dropped"
    rig.drop()


def transferred():
    rig = started()
    rig.peer.grants = {"rekey": True}
    old = rig.owner
    want(rig, credential={"renew": 1})
    rig.run(lambda: is_renewed(rig, old))
    rig.peer.grants = {}
    return rig


def test_after_a_transfer_the_new_key_speaks_and_the_old_one_is_refused():
    rig = transferred()
    assert rig.peer.key != K
    assert record(rig, "key") == {"key": rig.peer.key}
    rig.peer.want()
    rig.push()
    rig.run_for(5)
    assert rig.client.counters == {}
    owner = rig.owner
    lose_credentials(rig)
    rig.run(lambda: is_renewed(rig, owner))
    assert record(rig, "current")["key"] == rig.peer.key


def test_a_new_key_outlives_the_credentials():
    rig = transferred()
    owner = rig.owner
    for name in ("next", "current"):
        Records(rig.machine).delete(name)
    lose_credentials(rig)
    rig.boot()
    rig.run(lambda: is_renewed(rig, owner))


def test_a_new_key_whose_credential_was_never_answered_does_not_lock_the_device_out():
    rig = started()
    old = rig.owner
    rig.peer.grants = {"rekey": True}
    rig.peer.mangle = lambda verb, p: [] if verb == "online" else [p]
    online, rig.peer._online = rig.peer._online, lambda *_: {}  # it never heard of it
    want(rig, credential={"renew": 1})
    rig.run(lambda: rig.owner != old if rig.connection else False)
    rig.peer.grants, rig.peer.mangle, rig.peer._online = {}, None, online
    lose_credentials(rig)
    rig.run(lambda: is_renewed(rig, old), max_s=6 * 3600)
    assert rig.peer.key == K
