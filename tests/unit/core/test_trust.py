"""Authorities, bootstrap endpoints and service keys that a device trusts besides the factory's; and power cuts."""

from __future__ import annotations

import pytest

from device_sdk.core.identity import Endpoint
from device_sdk.core.ports import Crypto, WrongSignatureError
from device_sdk.core.records import Records
from device_sdk.wire import keys, topics
from device_sdk.wire.packer import packb
from tests.support.peer import THING, K
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


def is_renewed(rig, old):
    return rig.connection is not None and rig.owner != old and rig.client.status.state == "online"


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


def lose_credentials(rig):
    """What is stored of them is refused, so that the device must prove itself at the bootstrap broker."""
    for known in rig.peer.credentials.values():
        known["state"] = "dropped"
    rig.drop()


def test_a_device_has_the_factory_s_endpoints_whatever_it_is_told():
    rig = started()
    trust(rig, bootstrap=[{"host": "nowhere", "port": 1, "tls": False}])
    rig.drop()
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(5)
    owner = rig.owner
    lose_credentials(rig)
    rig.run(lambda: is_renewed(rig, owner))
    hosts = [c.host for c in rig.peer.connects]
    assert hosts[-2:] == ["boot", "ops"]


def test_endpoints_told_outlive_a_restart():
    rig = started()
    trust(rig, bootstrap=[{"host": "boot-a", "port": 1, "tls": False}])
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    owner = rig.owner
    rig.peer.down = ("boot",)  # the factory's is gone for good
    lose_credentials(rig)
    rig.run(lambda: is_renewed(rig, owner))
    assert rig.peer.connects[-2].host == "boot-a"


NEXT_KEY = b"n" * 32


class Signing(Crypto):
    """A device with a private key and a service with public ones; signatures are HMACs under the public key."""

    def sign(self, message):
        return keys.hmac_sha256(K, message)

    def verify_ed25519(self, public_key, message, signature):
        if keys.hmac_sha256(public_key, message) != signature:
            raise WrongSignatureError

    def make_csr(self):
        return b"csr", None


def with_private_key(machine=None):
    rig = Rig(machine=machine, crypto=Signing(), key=None, key_index=0, service_keys=(K,))
    rig.peer.grants = {"kind": "x509", "certificate": "PEM"}
    return started(rig)


def spoken_by(rig, key, **fields):
    """A document that this service key has signed, and whether the device has taken it."""
    rig.peer.want(**fields)
    owner = rig.owner
    doc = packb(rig.peer.doc)
    message = {"desired": {"doc": doc, "mac": keys.desired_mac(key, THING, owner, doc)}}
    rig.deliver(topics.down("c", owner, "desired"), packb(message))
    taken = rig.client._desired.rev == rig.peer.rev
    rig.run_for(1)
    return taken


def test_a_service_key_is_followed_by_one_that_it_has_named():
    rig = with_private_key()
    assert not spoken_by(rig, NEXT_KEY)
    assert spoken_by(rig, K, trust={"service_keys": [K, NEXT_KEY]})
    assert spoken_by(rig, NEXT_KEY, trust={"service_keys": [K, NEXT_KEY]})
    assert spoken_by(rig, K)  # both count until it is told otherwise
    assert spoken_by(rig, NEXT_KEY, trust={"service_keys": [NEXT_KEY]})
    assert not spoken_by(rig, K)
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.client._context.prover.service_keys == [NEXT_KEY]


@pytest.mark.parametrize("listed", [[], [NEXT_KEY]], ids=["none", "another"])
def test_a_list_of_service_keys_counts_only_if_one_of_them_has_spoken(listed):
    rig = with_private_key()
    assert spoken_by(rig, K, trust={"service_keys": listed})
    assert rig.client.counters == {"trust_refused": 1}
    assert spoken_by(rig, K)


def test_a_device_whose_service_keys_were_wiped_goes_back_to_the_factory_s():
    rig = with_private_key()
    assert spoken_by(rig, K, trust={"service_keys": [K, NEXT_KEY]})
    assert spoken_by(rig, NEXT_KEY, trust={"service_keys": [NEXT_KEY]})
    again = with_private_key()
    assert again.client._context.prover.service_keys == [K]


def test_an_absent_list_of_service_keys_leaves_them_as_they_are():
    rig = with_private_key()
    assert spoken_by(rig, K, trust={"service_keys": [K, NEXT_KEY]})
    assert spoken_by(rig, K, trust={"cas": ["CA-2"]})
    assert spoken_by(rig, NEXT_KEY)


def test_a_device_key_takes_no_part_in_a_roll_over_of_service_keys():
    rig = started()
    trust(rig, service_keys=[NEXT_KEY])
    assert rig.client.counters == {}
    trust(rig)
    assert record(rig, "desired")["rev"] == rig.peer.rev


@pytest.mark.parametrize("how", ["before", "after", 1, 30])
def test_power_cut_at_every_save_of_new_trust_keeps_the_old_or_the_new(how):
    lists = {"bootstrap": [{"host": "boot-a", "port": 1, "tls": False}], "cas": ["CA-2"]}
    for cut in range(1, 6):
        rig = started()
        rig.machine.cut_at, rig.machine.cut_how = rig.machine.ops + cut, how
        trust(rig, **lists)
        rig.run(lambda rig=rig: rig.client.status.state == "online")
        rig.run_for(30)
        assert record(rig, "trust")["now"]["cas"] == ["CA-2"]
        assert rig.client._wishes.trust.bootstrap[0]["host"] == "boot-a"
