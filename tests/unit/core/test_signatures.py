"""What a device makes of an Ed25519 signature: a wrong one is refused for the same cause, however a port says no."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.core import signatures
from device_sdk.core.ports import Crypto, NoEd25519Error, WrongSignatureError
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.wire import ids, keys, topics
from device_sdk.wire.packer import packb
from tests.support.peer import THING, K
from tests.support.rig import Rig
from tests.support.signed_firmware import IMAGE, PUBLIC, RELEASE, signed, wanting

OTHER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


class Answering(FullCrypto):
    """A port that answers where it has to raise."""

    def verify_ed25519(self, public_key, message, signature):
        try:
            super().verify_ed25519(public_key, message, signature)
        except WrongSignatureError:
            return False
        return True


PORTS = pytest.mark.parametrize("crypto", [FullCrypto(), Answering()], ids=["raises", "answers"])


@PORTS
def test_a_release_with_a_wrong_signature_is_refused(crypto):
    rig = wanting(dict(signed(IMAGE), signature=OTHER.sign(b"something else")), crypto=crypto)
    rig.run_for(60)
    assert rig.peer.said("fetch") == []
    assert rig.peer.causes() == ["wrong_signature"]


@PORTS
def test_an_endorsement_with_a_wrong_signature_lets_no_release_key_count(crypto):
    key = OTHER.public_key().public_bytes_raw()
    forged = {"key": key, "by": ids.release_key_id(PUBLIC), "signature": OTHER.sign(ids.endorsement_message(key))}
    rig = Rig(crypto=crypto, release_keys=(PUBLIC,))
    rig.peer.want(trust={"release_keys": [PUBLIC, key], "endorsements": [forged]})
    rig.run(lambda: rig.client.status.state == "online")
    rig.run_for(1)
    assert rig.client._context.release_keys == [PUBLIC]
    assert rig.client.counters == {"release_key_not_endorsed": 1}


class Signing(Crypto):
    """A public-key device in miniature, with "signatures" that are HMACs; it says no as `no` does."""

    def __init__(self, no):
        self.no = no

    def sign(self, message):
        return keys.hmac_sha256(K, message)

    def make_csr(self):
        return b"csr", None

    def verify_ed25519(self, public_key, message, signature):
        if signature != keys.hmac_sha256(public_key, message):
            return self.no()
        return None


def wrong():
    raise WrongSignatureError


def unable():
    raise NoEd25519Error


@pytest.mark.parametrize("no", [wrong, unable, bool], ids=["wrong", "unable", "answers"])
def test_a_document_with_a_wrong_signature_of_the_service_is_refused(no):
    rig = Rig(crypto=Signing(no), key=None, key_index=0, service_keys=(K,))
    rig.peer.grants = {"kind": "x509", "certificate": "PEM"}
    rig.run(lambda: rig.client.status.state == "online")
    rig.peer.want(settings={"rev": 1})
    doc = packb(rig.peer.doc)
    mac = keys.desired_mac(b"x" * 32, THING, rig.owner, doc)
    before = rig.client._desired.rev
    rig.deliver(topics.down("c", rig.owner, "desired"), packb({"desired": {"doc": doc, "mac": mac}}))
    assert rig.client._desired.rev == before
    assert rig.client.counters == {"mac": 1}


def test_a_port_that_answers_is_found_out_with_the_first_good_signature():
    good = RELEASE.sign(b"m")
    signatures.verify(FullCrypto(), PUBLIC, b"m", good)
    with pytest.raises(WrongSignatureError):
        signatures.verify(Answering(), PUBLIC, b"m", good)


def test_a_device_without_ed25519_says_so():
    with pytest.raises(NoEd25519Error):
        signatures.verify(Crypto(), PUBLIC, b"m", RELEASE.sign(b"m"))
