"""On MicroPython: a device activates, fetches an image in windows, installs, restarts and is confirmed."""

from device_sdk.core import job
from device_sdk.core.ports import Crypto, Product, WrongSignatureError
from device_sdk.wire import ids
from tests.support.peer import Peer, firmware
from tests.support.rig import Rig
from tests.support.warehouse_peer import WarehousePeer, WarehouseRig, entry

IMAGE = bytes([(k * 7 + k // 256) % 256 for k in range(40 * 256 + 1)])


def run(damage_every):
    """The whole way; every so many chunks one is damaged."""
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE), settings={"rev": 1})
    seen = [0]

    def mangle(verb, payload):
        if verb != "chunk":
            return [payload]
        seen[0] += 1
        if damage_every and seen[0] % damage_every == 0:
            return [payload[:-1] + bytes([payload[-1] ^ 1])]
        return [payload]

    peer.mangle = mangle
    rig = Rig(peer)
    rig.run(lambda: job.CONFIRMED in peer.states())
    assert bytes(rig.machine.idle) == IMAGE
    assert rig.machine.running["name"] == "2.0"
    assert peer.said("report")[0]["unsupported"] == ["settings"]
    return rig


def move(rig):
    """To the other environment; the first time nobody answers there."""
    rig.there.up = False
    rig.peer.move(rig.there)
    rig.push()
    rig.run(lambda: "placement" not in rig.peer.doc)
    assert rig.connection.host == "ops"
    rig.run_for(1)
    rig.there.up = True
    rig.peer.move(rig.there)
    rig.push()
    rig.run(lambda: rig.connection is not None and rig.connection.host == "ops2")
    rig.run(lambda: rig.client.status.state == "online")


class Gadget(Product):
    def __init__(self):
        self.values = {}

    def apply_settings(self, values):
        self.values = values

    def needs_trial(self, before, values):
        return True


def change():
    """New settings on trial, then a renewal that gives a new device key."""
    rig = Rig(product=Gadget())
    rig.run(lambda: rig.client.status.state == "online")
    rig.peer.want(settings={"rev": 1, "values": {"network": "b"}})
    rig.push()
    rig.run(lambda: {"rev": 1, "state": "applied"} in [r.get("settings") for r in rig.peer.said("report")])
    assert rig.product.values == {"network": "b"}
    old = rig.owner
    rig.peer.grants = {"rekey": True}
    rig.peer.want(credential={"renew": 1}, trust={"release_keys": [bytes(32)]})
    rig.push()
    rig.run(lambda: rig.connection is not None and rig.owner != old and rig.client.status.state == "online")
    rig.peer.want(settings={"rev": 2, "values": {}})
    rig.push()
    rig.run(lambda: rig.product.values == {})
    assert rig.client.counters == {}
    follow(rig)


def follow(rig):
    """From the first release key to another one over a retired one; this machine cannot verify Ed25519."""
    first, second, third = bytes(32), b"2" * 32, b"3" * 32
    chain = [
        {"key": third, "by": ids.release_key_id(second), "signature": bytes(64)},
        {"key": second, "by": ids.release_key_id(first), "signature": bytes(64)},
    ]
    rig.peer.want(trust={"release_keys": [third, b"4" * 32], "endorsements": chain})
    rig.push()
    rig.run_for(1)
    assert rig.client._context.release_keys == [third]
    assert rig.client.counters == {"release_key_not_endorsed": 1}
    rig.boot()
    rig.run(lambda: rig.client.status.state == "online")
    assert rig.client._context.release_keys == [third]


class Doubting(Crypto):
    def verify_ed25519(self, public_key, message, signature):
        raise WrongSignatureError


def refuse():
    """A release whose signature does not fit, on a machine that can tell."""
    key = b"1" * 32
    peer = Peer()
    peer.serve(IMAGE)
    peer.want(firmware(IMAGE, key_id=ids.release_key_id(key)))
    rig = Rig(peer, crypto=Doubting(), release_keys=(key,))
    rig.run(lambda: peer.causes() == ["wrong_signature"])
    assert peer.said("fetch") == []


def stage():
    """The warehouse, with a secret that can be opened and without, and the handshake out of the box."""
    items = (
        entry("app", IMAGE, "software", "2.1", [("key", "1")], image=True),
        entry("key", b"secret", "secret", "1.0"),
        entry("vault", IMAGE[:5000], "secret", "1.0", image=True),
    )
    rig = WarehouseRig(WarehousePeer(items[0], items[1], items[2]), product=Gadget())
    rig.run(lambda: rig.off)
    assert rig.shelf.order == ["key", "app", "vault"]
    assert rig.shelf.installed["vault"] == ("1.0", IMAGE[:5000])
    assert rig.shelf.installed["app"] == ("2.1", IMAGE)
    rig.peer.settings = (1, {"features": {"kiosk": True}})
    rig.peer.want(handshake={"settings_rev": 1})
    rig.unpack()
    rig.run(lambda: {"rev": 1, "state": "applied"} in [r.get("site") for r in rig.peer.said("report")])
    stock = WarehouseRig(WarehousePeer(items[1]), crypto=Crypto())
    stock.run(lambda: stock.peer.said_items.get("key", {}).get("cause") == "no_aes_gcm")


quiet = run(0)
assert quiet.client.counters == {}
damaged = run(7)
move(quiet)
change()
refuse()
stage()
print("confirmed", len(quiet.peer.requests), len(damaged.peer.requests))
