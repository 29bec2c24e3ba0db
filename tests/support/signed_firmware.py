"""Signed images for the peer of the core, and devices that want them."""

from __future__ import annotations

import random

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from device_sdk.core.ports import Crypto, WrongSignatureError
from device_sdk.wire import ids
from tests.support.peer import Peer, firmware, message
from tests.support.rig import Rig

IMAGE = random.Random(7).randbytes(40 * 256 + 1)
OTHER = random.Random(8).randbytes(11 * 256)
RELEASE = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PUBLIC = RELEASE.public_key().public_bytes_raw()


class Ed25519(Crypto):
    def verify_ed25519(self, public_key, message, signature):
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except InvalidSignature as error:
            raise WrongSignatureError from error


def signed(image, **changes):
    version = firmware(image, key_id=ids.release_key_id(PUBLIC), **changes)
    version["signature"] = RELEASE.sign(message(version))
    return version


def wanting(version, image=IMAGE, crypto=None, **identity):
    peer = Peer()
    peer.serve(image)
    peer.want(version)
    return Rig(peer, crypto=crypto or Ed25519(), release_keys=(PUBLIC,), **identity)


def confirmed(rig):
    return lambda: "confirmed" in rig.peer.states() and rig.client.status.state == "online"


def offer(rig, version, image):
    rig.peer.serve(image)
    rig.peer.want(version)
    rig.push()
