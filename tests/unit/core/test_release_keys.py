"""Which release keys a device lets count: those of the factory, and those that they lead to."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.core.ports import Crypto
from device_sdk.core.records import Records
from device_sdk.wire import ids
from device_sdk.wire.packer import packb
from tests.support.peer import firmware, message
from tests.support.rig import Rig
from tests.support.signed_firmware import Ed25519

FACTORY, SECOND, THIRD, FOREIGN = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (7, 8, 9, 66))
IMAGE = random.Random(5).randbytes(600)


def public(key):
    return key.public_key().public_bytes_raw()


def endorsed(key, by):
    signature = by.sign(ids.endorsement_message(public(key)))
    return {"key": public(key), "by": ids.release_key_id(public(by)), "signature": signature}


def device(*factory, crypto=None):
    rig = Rig(crypto=crypto or Ed25519(), release_keys=tuple(public(one) for one in factory))
    rig.run(lambda: rig.client.status.state == "online")
    return rig


def told(rig, *listed, endorsements=()):
    rig.peer.want(trust={"release_keys": [public(one) for one in listed], "endorsements": list(endorsements)})
    rig.push()
    rig.run_for(1)
    return in_force(rig)


def in_force(rig):
    names = {public(one): name for name, one in ALL.items()}
    return sorted(names[one] for one in rig.client._context.release_keys)


ALL = {"factory": FACTORY, "second": SECOND, "third": THIRD, "foreign": FOREIGN}


def runs(rig, by, seq):
    """Whether an image that this key has signed is fetched; else the cause."""
    version = firmware(IMAGE, seq=seq, name=f"{seq}.0", key_id=ids.release_key_id(public(by)))
    version["signature"] = by.sign(message(version))
    rig.peer.serve(IMAGE)
    before = len(rig.peer.said("fetch")), len(rig.peer.causes())
    rig.peer.want(version)
    rig.push()
    rig.run_for(60)
    if len(rig.peer.said("fetch")) > before[0]:
        return True
    return rig.peer.causes()[-1] if len(rig.peer.causes()) > before[1] else False


def test_a_key_that_one_from_the_factory_endorses_counts_and_its_release_runs():
    rig = device(FACTORY)
    assert told(rig, FACTORY, SECOND, endorsements=[endorsed(SECOND, FACTORY)]) == ["factory", "second"]
    assert runs(rig, SECOND, 3) is True


def test_a_service_that_was_taken_over_cannot_add_a_key():
    rig = device(FACTORY)
    forged = dict(endorsed(FOREIGN, SECOND), by=ids.release_key_id(public(FACTORY)))
    for endorsements in (
        [],
        [endorsed(FOREIGN, FOREIGN)],  # by itself
        [endorsed(FOREIGN, SECOND), endorsed(SECOND, FOREIGN)],  # in a circle
        [forged],
        [dict(endorsed(SECOND, FACTORY), key=public(FOREIGN))],  # what was signed for another
    ):
        assert told(rig, FACTORY, FOREIGN, endorsements=endorsements) == ["factory"]
    assert rig.client.counters == {"release_key_not_endorsed": 5}
    assert runs(rig, FOREIGN, 3) == "unknown_release_key"
    assert runs(rig, FACTORY, 4) is True


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_leads_to_a_new_key_in_any_order_also_over_keys_that_are_retired(reverse):
    rig = device(FACTORY)
    chain = [endorsed(SECOND, FACTORY), endorsed(THIRD, SECOND)]
    assert told(rig, THIRD, endorsements=chain[::-1] if reverse else chain) == ["third"]
    assert runs(rig, SECOND, 3) == "unknown_release_key"
    assert runs(rig, FACTORY, 3) == "unknown_release_key"
    assert runs(rig, THIRD, 3) is True


def test_a_retired_key_vouches_for_nobody_on_a_device_that_has_followed():
    rig = device(FACTORY)
    told(rig, FACTORY, SECOND, endorsements=[endorsed(SECOND, FACTORY)])
    assert told(rig, SECOND) == ["second"]
    assert told(rig, SECOND, FOREIGN, endorsements=[endorsed(FOREIGN, FACTORY)]) == ["second"]
    assert told(rig, FACTORY, SECOND) == ["second"]  # nor does it come back because the service says so
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert told(rig, FACTORY, SECOND, endorsements=[endorsed(SECOND, FACTORY)]) == ["second"]
    assert told(rig, FACTORY, SECOND, endorsements=[endorsed(FACTORY, SECOND)]) == ["factory", "second"]


def test_when_all_are_taken_away_nothing_runs_and_the_known_ones_can_be_listed_again():
    rig = device(FACTORY)
    told(rig, FACTORY, SECOND, endorsements=[endorsed(SECOND, FACTORY)])
    assert told(rig) == []
    assert runs(rig, FACTORY, 3) == "unknown_release_key"
    assert told(rig, FOREIGN) == []
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert runs(rig, SECOND, 3) == "unknown_release_key"
    assert told(rig, SECOND) == ["second"]
    assert runs(rig, SECOND, 3) is True


def test_the_first_key_of_a_device_that_never_had_one_is_taken_and_only_endorsed_ones_after_it():
    rig = device()
    assert told(rig, SECOND) == ["second"]
    assert told(rig, SECOND, FOREIGN) == ["second"]
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert told(rig, FOREIGN) == []  # and nothing that is not signed runs from now on
    assert runs(rig, FOREIGN, 3) == "unknown_release_key"
    assert told(rig, SECOND) == ["second"]


def test_a_device_that_cannot_verify_relies_on_the_service_for_keys_as_for_releases():
    rig = device(FACTORY, crypto=Crypto())
    assert told(rig, FACTORY, SECOND) == ["factory"]
    assert told(rig, SECOND, endorsements=[endorsed(SECOND, FACTORY)]) == ["second"]


def test_an_absent_list_takes_no_release_key_away():
    rig = device(FACTORY)
    told(rig, FACTORY, SECOND, endorsements=[endorsed(SECOND, FACTORY)])
    for fields in ({}, {"trust": {"cas": ["CA-2"]}}):
        rig.peer.want(**fields)
        rig.push()
        rig.run_for(1)
        assert in_force(rig) == ["factory", "second"]


@pytest.mark.parametrize("how", ["before", "after", 1, 30])
@pytest.mark.parametrize("factory", [True, False])
def test_power_cut_at_every_save_keeps_the_keys_before_or_the_keys_after(how, factory):
    for cut in range(1, 4):
        rig = device(*((FACTORY,) if factory else ()))
        told(rig, FACTORY)
        rig.machine.cut_at, rig.machine.cut_how = rig.machine.ops + cut, how
        told(rig, SECOND, endorsements=[endorsed(SECOND, FACTORY)])
        rig.run(lambda rig=rig: rig.client.status.state == "online")
        rig.run_for(30)
        assert in_force(rig) == ["second"]
        assert rig.client._context.must_be_signed


@pytest.mark.parametrize("restarted", [False, True])
def test_a_device_that_ever_knew_a_release_key_runs_nothing_unsigned_when_the_last_one_goes(restarted):
    rig = device()
    told(rig, SECOND)
    assert told(rig) == []
    if restarted:
        rig.boot()
        rig.run(lambda: rig.client.status.state == "online")
    assert runs(rig, FOREIGN, 3) == "unknown_release_key"


def test_keys_from_before_they_had_a_record_of_their_own_go_on_counting():
    rig = Rig(crypto=Ed25519())
    lists = {"cas": [], "service_keys": [], "release_keys": [public(SECOND)], "bootstrap": []}
    Records(rig.machine).save("trust", {"now": lists, "before": None, "signed": True})
    rig.run(lambda: rig.client.status.state == "online")
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert in_force(rig) == ["second"]
    assert told(rig, SECOND, FOREIGN) == ["second"]


@pytest.mark.parametrize(
    "trust",
    [
        {"release_keys": [b"short"]},
        {"release_keys": "x"},
        {"release_keys": [bytes(32)] * 9},
        {"release_keys": [], "endorsements": {}},
        {"release_keys": [], "endorsements": [1]},
        {"release_keys": [], "endorsements": [endorsed(SECOND, FACTORY)] * 17},
        {"release_keys": [], "endorsements": [dict(endorsed(SECOND, FACTORY), by="x" * 32)]},
        {"release_keys": [], "endorsements": [dict(endorsed(SECOND, FACTORY), signature=b"short")]},
    ],
    ids=lambda trust: str(packb(trust)[:60]),
)
def test_malformed_lists_and_endorsements_change_nothing(trust):
    rig = device(FACTORY)
    rig.peer.want(trust=trust)
    rig.push()
    rig.run_for(1)
    assert rig.client.counters == {"trust_refused": 1}
    assert in_force(rig) == ["factory"]
