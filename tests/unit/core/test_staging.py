"""A unit in the warehouse: manifest, items, the box; and power that goes at every operation."""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.core.client import Client
from device_sdk.core.ports import Crypto, InstallError
from device_sdk.core.records import Records
from device_sdk.core.staging import StagingClient
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.wire import ids, keys, topics
from device_sdk.wire.packer import packb, unpackb
from tests.support.machine import Machine
from tests.support.peer import K
from tests.support.warehouse_peer import WarehousePeer, WarehouseRig, XorCrypto, entry, signing_message

IMAGE = random.Random(5).randbytes(20 * 256 + 7)
CERTIFICATE = random.Random(6).randbytes(9000)  # two pieces
SECRET = b"only for this unit"
VAULT = random.Random(7).randbytes(9 * 256)  # sealed, and downloaded as an image
SEALED_BYTES = len(VAULT) + 28
MAX_WINDOW_BYTES = 2048


class WithRequests(XorCrypto):
    def make_csr(self):
        return b"request", "PRIVATE KEY"


def entries():
    return (
        entry("app", IMAGE, "software", "2.1", [("licence", "1"), ("ca", "1.0")], image=True),
        entry("ca", CERTIFICATE, "certificate"),
        entry("licence", SECRET, "secret", "1.2"),
        entry("vault", VAULT, "secret", "3", image=True),
    )


def fresh(cut_at=None, how="before", given=None, **more):
    machine = Machine()
    machine.cut_at, machine.cut_how = cut_at, how
    return WarehouseRig(WarehousePeer(*(given or entries())), machine, **more)


def boxed(rig):
    """Until it is off; or starts as what it is at the customer's, when power went just before."""
    rig.run(lambda: rig.off or isinstance(rig.client, Client))
    return rig


def online(rig):
    rig.run(lambda: rig.client.status.state == "online")


def restaged(rig):
    """As an operator's command leaves the service."""
    for known in rig.peer.credentials.values():
        known["state"] = "dropped"
    rig.peer.used, rig.peer.said_items = set(), {}
    rig.drop()


def check(rig):
    plain = {"app": ("2.1", IMAGE), "ca": ("1.0", CERTIFICATE)}
    assert rig.shelf.installed == {**plain, "licence": ("1.2", SECRET), "vault": ("3", VAULT)}
    assert rig.peer.step == "out_of_box"
    assert not rig.off or all(known["state"] != "confirmed" for known in rig.peer.credentials.values())


def test_a_unit_installs_every_item_after_what_it_needs_and_shuts_down_when_all_work():
    rig = boxed(fresh())
    check(rig)
    assert rig.shelf.order == ["ca", "licence", "app", "vault"]
    for name in rig.shelf.order:
        assert rig.peer.item_states(name) == ["pending", "fetched", "installed", "working"]
    assert rig.peer.stages == 1
    assert rig.client.status.state == "boxed"


def test_at_the_customers_the_staged_credential_is_confirmed():
    rig = boxed(fresh())
    rig.unpack()
    assert isinstance(rig.client, Client)
    rig.run(lambda: rig.client.status.state == "online")
    (confirmed,) = [name for name, known in rig.peer.credentials.items() if known["state"] == "confirmed"]
    assert confirmed == rig.owner
    rig.boot()
    assert isinstance(rig.client, Client)


OPERATIONS = boxed(fresh()).machine.ops


@pytest.mark.parametrize("how", ["before", "after", 1, 20])
def test_power_may_go_at_every_operation_of_a_staging(how):
    assert OPERATIONS > 40
    for cut_at in range(1, OPERATIONS + 1):
        rig = boxed(fresh(cut_at, how))
        assert rig.cuts == 1
        check(rig)
        assert rig.peer.stages <= 2  # a second one only while the first was not used
        twice = rig.shelf.area.write_bytes - len(IMAGE) - len(CERTIFICATE) - SEALED_BYTES
        assert twice <= MAX_WINDOW_BYTES + len(CERTIFICATE), (cut_at, how)
        rig.unpack()
        online(rig)


def test_power_that_goes_again_and_again_still_ends():
    rig = fresh()
    rig.machine.cut_at = 1
    step = [1]

    def again():
        step[0] += 1
        rig.machine.cut_at = rig.machine.ops + step[0]

    rig.on_boot = again
    boxed(rig)
    check(rig)
    assert rig.cuts >= 8


@pytest.mark.parametrize("verb", ["hello", "stage", "report", "item", "staged"])
def test_any_reply_may_be_lost(verb):
    rig = fresh()
    lost = []

    def mangle(name, payload):
        if name == verb and len(lost) < 5:
            lost.append(payload)
            return []
        return [payload]

    rig.peer.mangle = mangle
    check(boxed(rig))
    assert len(lost) == 5


def test_an_item_that_does_not_work_stops_the_unit_and_is_tried_again_at_the_next_start():
    rig = fresh()
    rig.shelf.broken = ("licence",)
    rig.run(lambda: rig.peer.item_states("licence")[-1:] == ["failed"])
    rig.run_for(3600)
    assert rig.peer.said_items["licence"]["cause"] == "not_working"
    assert "app" not in rig.shelf.installed
    assert not rig.off
    assert rig.client.status.cause == "not_working"
    rig.shelf.broken = ()
    rig.boot()
    check(boxed(rig))


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ((entry("a", b"bytes", sha256=bytes(32)),), "wrong_hash"),
        ((entry("a", IMAGE, image=True, sha256=b"\1" * 32),), "image_unknown"),
        ((entry("a", b"bytes", size=4),), "wrong_size"),
        ((entry("a", b"x", needs=[("b", "1")]),), "unmet_need"),
        ((entry("a", b"x", needs=[("b", "2")]), entry("b", b"y", version="1.9")), "unmet_need"),
        ((entry("a", b"x", needs=[("b", "1")]), entry("b", b"y", needs=[("a", "1")])), "need_cycle"),
    ],
)
def test_an_item_that_is_not_what_was_promised_is_reported_with_its_cause(given, cause):
    rig = fresh(given=given)
    rig.run(lambda: any(one["state"] == "failed" for one in rig.peer.said_items.values()))
    rig.run_for(600)
    assert [one["cause"] for one in rig.peer.said_items.values() if one["state"] == "failed"] == [cause]
    assert rig.shelf.installed == {} or cause == "wrong_hash"
    assert not rig.off


def sealed(**changes):
    return entry("vault", VAULT, "secret", "3", image=True, **changes)


@pytest.mark.parametrize(
    ("given", "damage", "cause"),
    [
        (sealed(sealed=b"\1" * 32), None, "image_unknown"),
        (sealed(), "chunks", "wrong_hash"),  # what came is not what was promised
        (sealed(), "key", "wrong_seal"),  # it is, and sealed for another unit
        (sealed(sha256=bytes(32)), None, "wrong_hash"),  # and with another secret in it
    ],
)
def test_a_sealed_image_that_is_not_what_was_promised_is_reported_and_not_installed(given, damage, cause):
    rig = fresh(given=(given,))
    ((prefix, image),) = rig.peer.images.items()
    if damage == "chunks":
        rig.peer.images[prefix] = image[:-1] + bytes([image[-1] ^ 1])
    elif damage == "key":
        other = WarehousePeer()
        other.key = b"k" * 32
        foreign = other._sealed(*given)
        rig.peer.serve(foreign)
        given[0]["sealed"] = hashlib.sha256(foreign).digest()
    rig.run(lambda: rig.peer.said_items.get("vault", {}).get("state") == "failed")
    assert rig.peer.said_items["vault"]["cause"] == cause
    assert rig.shelf.installed == {}


def test_an_installer_that_cannot_says_why():
    rig = fresh()
    rig.shelf.fail = InstallError("no_space")
    rig.run(lambda: any(one.get("cause") == "no_space" for one in rig.peer.said_items.values()))


def test_a_device_without_aes_says_so():
    rig = fresh(crypto=Crypto())
    rig.run(lambda: rig.peer.said_items.get("licence", {}).get("cause") == "no_aes_gcm")


@pytest.mark.parametrize(("signed", "cause"), [(True, None), (False, "wrong_signature")])
def test_every_item_must_be_signed_by_a_release_key_where_the_device_has_one(signed, cause):
    release = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
    public = release.public_key().public_bytes_raw()
    item, content = entry("a", b"bytes", key_id=ids.release_key_id(public))
    item["signature"] = release.sign(signing_message(item) + (b"" if signed else b"x"))
    rig = fresh(given=((item, content),), crypto=FullCrypto(), release_keys=(public,))
    rig.run(lambda: rig.off or rig.peer.said_items.get("a", {}).get("state") == "failed")
    assert rig.peer.said_items["a"].get("cause") == cause
    assert ("a" in rig.shelf.installed) is signed


def test_an_item_goes_down_to_the_stated_version_as_well():
    rig = fresh()
    rig.shelf.installed["ca"] = ("9.0", b"newer")
    check(boxed(rig))


@pytest.mark.parametrize("field", ["server_proof", "manifest"])
def test_a_reply_that_does_not_prove_itself_is_as_none(field):
    rig = fresh()

    def mangle(verb, payload):
        if verb != "stage":
            return [payload]
        reply = unpackb(payload)
        forged = dict(reply)
        forged[field] = bytes(32) if field == "server_proof" else dict(reply["manifest"], mac=bytes(32))
        return [packb(forged), payload]

    rig.peer.mangle = mangle
    check(boxed(rig))
    assert rig.client.counters["garbage"] >= 1


def test_anywhere_else_it_does_without_the_warehouse_until_the_next_start():
    rig = fresh()
    rig.peer.refuse["stage"] = {"code": "NOT_IN_WAREHOUSE"}
    rig.run(lambda: isinstance(rig.client, Client))
    del rig.peer.refuse["stage"]
    rig.peer.step = "at_site"
    rig.run(lambda: rig.client.status.state == "online")


def test_a_warehouse_that_cannot_be_reached_keeps_no_unit_from_its_work():
    rig = fresh()
    rig.peer.down = ("depot",)
    rig.peer.step = "at_site"
    rig.run(lambda: isinstance(rig.client, Client) and rig.client.status.state == "online")
    rig.boot()
    assert isinstance(rig.client, Client)  # it is in service now


def test_after_restage_the_broker_refuses_the_old_credential_and_the_unit_is_staged_anew():
    rig = fresh()
    rig.shelf.broken = ("licence",)
    rig.run(lambda: rig.peer.item_states("licence")[-1:] == ["failed"])
    rig.shelf.broken = ()
    restaged(rig)
    check(boxed(rig))
    assert rig.peer.stages == 2


def test_an_already_staged_unit_waits_for_an_operator_and_asks_rarely():
    rig = fresh()
    rig.peer.used.add("x")
    rig.run_for(24 * 3600)
    assert 3 <= len(rig.peer.said("stage")) <= 12
    assert isinstance(rig.client, StagingClient)


def test_numbers_that_the_service_has_seen_already_are_passed():
    rig = fresh()
    refused = []

    def mangle(verb, payload):
        if verb == "report" and not refused:
            refused.append(1)
            reply = {"id": unpackb(payload)["id"], "ok": False, "code": "CONFLICT", "state": {"boot_count": 7, "n": 3}}
            return [packb(reply)]
        return [payload]

    rig.peer.mangle = mangle
    check(boxed(rig))
    assert rig.peer.said("staged")[-1]["boot_count"] == 8


def test_messages_with_the_mark_of_the_warehouse_are_taken_there_and_nowhere_else():
    rig = fresh()
    plain = rig.peer.handle

    def marked(topic, payload):
        return [("warehouse/" + one, sent) for one, sent in plain(topic, payload)]

    rig.peer.handle = marked
    rig.run(lambda: rig.peer.stages == 1 and rig.client._credentials.get("next") is not None)
    rig.run_for(30)
    assert rig.client.counters["foreign_topic"] >= 1
    rig.peer.handle = plain
    check(boxed(rig))


def test_nothing_that_comes_in_can_raise():
    rig = fresh()
    rig.run(lambda: rig.connection is not None and rig.connection.host == "ops")
    owner = rig.owner
    rng = random.Random(3)
    for verb in ("report", "item", "staged", "fetch", "chunk", "desired", "x"):
        for payload in (
            b"",
            b"\xc1",
            packb({}),
            packb({"id": 1, "ok": "x"}),
            packb({"ok": True, "size": -0, "data": ""}),
            rng.randbytes(60),
        ):
            rig.client.received(topics.down("c", owner, verb), payload, rig.now)
    check(boxed(rig))


def test_a_unit_that_changes_hands_opens_its_secrets_with_the_key_that_proved_its_call():
    rig = fresh()
    rig.peer.grants = {"rekey": True}
    check(boxed(rig))
    assert rig.peer.key == K
    rig.unpack()
    online(rig)
    assert rig.peer.key != K
    assert Records(rig.machine).load("key") == {"key": rig.peer.key}


def test_a_key_that_was_not_confirmed_proves_no_further_call():
    rig = fresh()
    rig.peer.grants = {"rekey": True}
    rig.shelf.broken = ("licence",)
    rig.run(lambda: rig.peer.item_states("licence")[-1:] == ["failed"])
    rig.shelf.broken = ()
    restaged(rig)
    check(boxed(rig))
    assert rig.peer.stages == 2


def test_a_unit_with_a_private_key_asks_for_a_certificate_and_keeps_it_through_power_cuts():
    def certified(cut_at=None):
        rig = fresh(cut_at, crypto=WithRequests())
        rig.peer.grants = {"kind": "x509", "certificate": "CERTIFICATE"}
        return boxed(rig)

    for cut_at in (None, *range(1, 12)):
        rig = certified(cut_at)
        check(rig)
        assert unpackb(rig.peer.said("stage")[-1]["claim"])["csr"] == b"request"
        rig.unpack()
        online(rig)
        assert (rig.connection.certificate_pem, rig.connection.private_key_pem) == ("CERTIFICATE", "PRIVATE KEY")


def test_the_key_of_a_sealed_item_is_one_of_its_own():
    assert keys.item_key(bytes(32), "a", "1") != keys.item_key(bytes(32), "a", "1.0")
    key = keys.item_key(bytes(32), "a", "1")
    assert keys.item_nonce(key, bytes(32)) != keys.item_nonce(key, b"\1" * 32)
