"""Renewal over the operational connection, a transfer of ownership, and what is trusted besides."""

from __future__ import annotations

import pytest

from device_sdk.core.identity import Endpoint
from device_sdk.core.records import Records
from device_sdk.wire.packer import unpackb
from tests.support.machine import Machine
from tests.support.peer import K, Peer, firmware
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


def trust(rig, **lists):
    want(rig, trust=lists)
    rig.run_for(1)


def test_new_bootstrap_endpoints_are_rungs_and_old_ones_go_after_an_online_without_them():
    rig = started()
    trust(rig, bootstrap=[{"host": "boot-a", "port": 1, "tls": False}])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    trust(rig, bootstrap=[{"host": "boot-b", "port": 1, "tls": False}])
    known = record(rig, "trust")
    assert [e["host"] for e in known["now"]["bootstrap"] + known["before"]["bootstrap"]] == ["boot-b", "boot-a"]
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    assert record(rig, "trust")["before"] is None
    owner = rig.owner
    lose_credentials(rig)
    rig.run(lambda: is_renewed(rig, owner))
    hosts = [c.host for c in rig.peer.connects]
    assert "boot-b" in hosts
    assert "boot-a" not in hosts


def test_authorities_are_added_to_the_endpoint_s_own_and_old_ones_are_left_out_only_to_try():
    rig = Rig(bootstrap=[Endpoint("boot", 1883, True, "CA-0")])
    rig.peer.grants = {"ca": "CA-1"}
    started(rig)
    trust(rig, cas=["CA-2"])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.peer.connects[-1].ca_pem == "CA-1\nCA-2"
    trust(rig, cas=["CA-3"])
    count = len(rig.peer.connects)
    rig.peer.up = False
    rig.drop()
    rig.run(lambda: len(rig.peer.connects) == count + 2)
    assert [c.ca_pem for c in rig.peer.connects[count:]] == ["CA-1\nCA-3", "CA-1\nCA-3\nCA-2"]
    rig.peer.up = True
    rig.run(lambda: record(rig, "trust")["before"] is None, max_s=600)


def test_an_endpoint_that_the_system_s_authorities_vouch_for_stays_with_them():
    rig = started()
    trust(rig, cas=["CA-2"])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.peer.connects[-1].ca_pem is None


@pytest.mark.parametrize(
    "lists",
    [
        {"cas": "CA"},
        {"cas": [""]},
        {"release_keys": [b"short"]},
        {"service_keys": [bytes(32)] * 9},
        {"bootstrap": [{"host": "a", "port": 0}]},
    ],
    ids=repr,
)
def test_a_malformed_trust_changes_nothing(lists):
    rig = started()
    trust(rig, **lists)
    assert rig.client.counters == {"trust_refused": 1}
    assert record(rig, "trust") is None


def test_trust_outlives_a_restart():
    rig = started()
    trust(rig, release_keys=[bytes(32)], service_keys=[b"s" * 32])
    rig.boot()
    assert rig.client._context.more_release_keys == [bytes(32)]
    assert rig.client._context.prover.more_service_keys == [b"s" * 32]
    assert unpackb(rig.peer.said("activate")[0]["claim"])["serial"] == "T-0001"


def test_a_release_key_that_is_listed_no_more_counts_until_an_online_on_a_new_connection():
    leaked, good = b"l" * 32, b"g" * 32
    rig = started()
    trust(rig, release_keys=[leaked, good])
    trust(rig, release_keys=[good])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    assert rig.client._context.more_release_keys == [good]
    trust(rig, release_keys=[])
    assert rig.client._context.more_release_keys == [good]
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    assert rig.client._context.more_release_keys == []


@pytest.mark.parametrize("restarted", [False, True])
def test_a_device_that_was_given_release_keys_runs_nothing_unsigned_when_the_last_one_goes(restarted):
    rig = started()
    trust(rig, release_keys=[b"l" * 32])
    trust(rig, release_keys=[])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    assert rig.client._context.more_release_keys == []
    if restarted:
        rig.boot()
        rig.run(lambda: rig.client.status.state == "online")
    rig.peer.serve(b"image")
    rig.peer.want(firmware(b"image"))
    rig.push()
    rig.run_for(60)
    assert rig.peer.said("fetch") == []
    assert rig.peer.causes() == ["unknown_release_key"]


def test_an_absent_list_takes_no_release_key_away():
    rig = started()
    trust(rig, release_keys=[b"l" * 32])
    want(rig)
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    assert rig.client._context.more_release_keys == [b"l" * 32]
