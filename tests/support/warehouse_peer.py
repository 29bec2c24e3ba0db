"""The scripted service and the machine of peer.py, with a warehouse: `stage`, items, `staged`, the handshake.

Owns WarehousePeer, Shelf (the items port, which loses power as the machine does), HallTablet and WarehouseRig. Imports only the
device SDK, seals by a plain function, so that it needs no library for AES, and runs on MicroPython too.
"""

import hashlib

from device_sdk.core.actions import Shutdown
from device_sdk.core.identity import Endpoint
from device_sdk.core.ports import Crypto, Items, Product
from device_sdk.core.staging import first_client
from device_sdk.wire import ids, keys
from device_sdk.wire.manifest import needs_text
from device_sdk.wire.packer import packb
from tests.support.machine import Machine
from tests.support.peer import PRODUCT, THING, Peer
from tests.support.rig import Rig


class XorCrypto(Crypto):
    """Stands for AES-GCM where only the way of the bytes is tested."""

    def aes_gcm_open(self, key, nonce, sealed):
        body, tag = sealed[:-16], sealed[-16:]
        if tag != self.hmac_sha256(key, nonce + body)[:16]:
            raise ValueError("tag")
        return self._xor(body, key, nonce)

    def seal(self, key, nonce, plain):
        body = self._xor(plain, key, nonce)
        return body + self.hmac_sha256(key, nonce + body)[:16]

    def _xor(self, data, key, nonce):
        stream = self.hmac_sha256(key, nonce)
        return bytes([data[k] ^ stream[k % 32] for k in range(len(data))])


def entry(name, content, kind="content", version="1.0", needs=(), **changes):
    """(item of a manifest, its bytes)."""
    digest = hashlib.sha256(content).digest()
    out = {"name": name, "kind": kind, "version": version, "size": len(content), "sha256": digest,
           "signature": bytes(64), "key_id": "0" * 32, "needs": [list(one) for one in needs]}  # fmt: skip
    out.update(changes)
    return out, content


def signing_message(item):
    needs = needs_text([tuple(one) for one in item["needs"]])
    return ids.item_message(
        PRODUCT, item["name"], item["kind"], item["version"], item["size"], ids.hex_of(item["sha256"]), needs
    )


class Shelf(Items):
    """Items of a machine; every write is an operation at which power may go."""

    def __init__(self, machine):
        self.machine = machine
        self.area = Machine()
        self.installed = {}
        self.order = []
        self.broken = ()
        self.fail = None

    def begin(self, image_id, size):
        self.machine._do("items", lambda: self.area.begin(image_id, size))

    def write(self, offset, data):
        self.machine._do("items", lambda: self.area.write(offset, data))

    def sync(self):
        self.machine._do("items", self.area.sync)

    def read(self, offset, length):
        return self.area.read(offset, length)

    def install(self, item, secret):
        if self.fail is not None:
            raise self.fail
        content = secret if secret is not None else self.area.read(0, item["size"])

        def effect():
            self.installed[item["name"]] = (item["version"], content)
            self.order.append(item["name"])

        self.machine._do("items", effect)

    def works(self, item):
        return item["name"] not in self.broken


class HallTablet(Product):
    """`wired`: on a cable at the customer's; else only the network of its settings gets it through, if it is the right one."""

    def __init__(self, peer, wired, right="hall"):
        self.peer = peer
        self.wired = wired
        self.right = right
        self.values = {}
        self.given = []
        self.in_warehouse = True

    def apply_site_settings(self, values):
        self.values = values
        self.given.append(values)
        self.connect()

    def connect(self):
        ssid = self.values.get("network", {}).get("ssid")
        # Once it has a network it uses that one, also where there is a cable.
        self.peer.up = self.in_warehouse or (self.wired if ssid is None else ssid == self.right)

    def arrive(self):
        """At the customer's, where it starts again."""
        self.in_warehouse = False
        self.values = {}
        self.connect()


class WarehousePeer(Peer):
    """`stages`: how many were granted. `refuse` works for its verbs too."""

    def __init__(self, *entries):
        Peer.__init__(self)
        self.items = {item["name"]: (item, content) for item, content in entries}
        self.manifest_id = "ab" * 32
        self.step = "received"
        self.said_items = {}
        self.stages = 0
        self.used = set()
        self.settings = None  # (rev, values) of the site
        self.values = {}  # of the warehouse step
        self.crypto = XorCrypto()
        for item, content in entries:
            if item.get("image") and item["kind"] == "secret":
                sealed = self._sealed(item, content)
                item["sealed"] = item.get("sealed", hashlib.sha256(sealed).digest())
                self.serve(sealed)
            elif item.get("image"):
                self.serve(content)

    def _stage(self, session, request, out):
        nonce, server_nonce = self._nonces[session]
        claim = request["claim"]
        assert keys.hmac_sha256(self.key, keys.stage_message(session, server_nonce, claim)) == request["proof"]
        if self.used:
            return {"ok": False, "code": "ALREADY_STAGED"}
        credential_id = ids.credential_id(session, server_nonce, claim)
        for known in self.credentials.values():
            known["state"] = "dropped"
        key = self.key
        if "rekey" in self.grants:
            key = keys.rekey(key, nonce, server_nonce, THING, credential_id)
        password = keys.api_key(key, nonce, server_nonce, THING, credential_id)
        made = {"state": "pending", "password": password, "environment": self.environment, "key": key}
        self.credentials[credential_id] = made
        values = {
            "thing_id": THING, "name": "Thermometer 1", "ou": "acme", "environment": self.environment,
            "credential_id": credential_id, "kind": "api_key", "time": 1,
            "endpoint": {"host": self.hosts[1], "port": 1883, "tls": False},
        }  # fmt: skip
        values.update(self.grants)
        grant = packb(values)
        proof = keys.hmac_sha256(self.key, keys.stage_granted_message(session, server_nonce, claim, grant))
        doc = {"manifest_id": self.manifest_id, "name": "b", "items": [item for item, _ in self.items.values()]}
        if self.values:
            doc["settings"] = {"values": self.values}
        raw = packb(doc)
        mac = keys.hmac_sha256(self.key, keys.manifest_message(THING, credential_id, raw))
        self.stages += 1
        self.step = "staged"
        return {"grant": grant, "server_proof": proof, "manifest": {"doc": raw, "mac": mac}}

    def _report(self, owner, request, out):
        if self.step not in ("received", "staged"):
            assert self.credentials[owner]["state"] == "confirmed"
        self.used.add(owner)
        said = request.get("item")
        if said is not None:
            self.said_items[said["name"]] = said
        return Peer._report(self, owner, request, out) if self.step == "at_site" else {}

    def _fetch(self, owner, request, out):
        self.used.add(owner)
        return Peer._fetch(self, owner, request, out)

    def _item(self, owner, request, out):
        self.used.add(owner)
        item, content = self.items[request["name"]]
        if item["kind"] == "secret":
            content = self._sealed(item, content)
        piece = content[request["offset"] : request["offset"] + 8192]
        return {"name": item["name"], "size": len(content), "data": piece}

    def _sealed(self, item, content):
        key = keys.item_key(self.key, item["name"], item["version"])
        nonce = keys.item_nonce(key, item["sha256"])
        return nonce + self.crypto.seal(key, nonce, content)

    def _staged(self, owner, request, out):
        missing = [
            name
            for name, (item, _) in self.items.items()
            if (self.said_items.get(name, {}).get("version"), self.said_items.get(name, {}).get("state"))
            != (item["version"], "working")
        ]
        if missing:
            return {"ok": False, "code": "CONFLICT", "state": {"items": missing}}
        if self.step == "shipped":
            return {"shipped": True}
        self.step = "out_of_box"
        return {}

    def _online(self, owner, request, out):
        assert self.step in ("out_of_box", "shipped", "at_site"), self.step
        return Peer._online(self, owner, request, out)

    def _handshake(self, owner, request, out):
        self.step = "at_site"
        if self.settings is None or self.settings[0] == request["settings_rev"]:
            return {}
        doc = packb({"rev": self.settings[0], "values": self.settings[1]})
        mac = keys.hmac_sha256(self.key, keys.handshake_message(THING, owner, doc))
        return {"settings": {"doc": doc, "mac": mac}}

    def item_states(self, name):
        """What was said of an item, repeats left out."""
        out = []
        for report in self.said("report"):
            said = report.get("item", {})
            if said.get("name") == name and (not out or out[-1] != said["state"]):
                out.append(said["state"])
        return out


class WarehouseRig(Rig):
    """A unit with its shelf. At a Shutdown it is off until unpack()."""

    def __init__(self, peer, machine=None, product=None, **more):
        machine = machine or Machine()
        more.setdefault("crypto", XorCrypto())
        more.setdefault("warehouse", (Endpoint("depot", 1883, False),))
        Rig.__init__(self, peer, machine, product=product, **more)
        self.shelf = Shelf(machine)
        self.off = False
        peer.hosts = peer.hosts + ("depot",)  # noqa: RUF005 - MicroPython has no star here

    def boot(self):
        self.boots += 1
        self.machine.boot()
        self.shelf.area.boot()
        self.queue = []
        self.connection = None
        self.client = first_client(
            self.identity,
            self.policy,
            self.machine,
            self.machine,
            self.crypto,
            self.random_bytes,
            self.product,
            self.shelf,
        )
        self._guarded(lambda: self.client.start(self.now))

    def unpack(self):
        self.off = False
        self.boot()

    def _act(self):
        actions = self.client.actions()
        self.off = self.off or any(isinstance(one, Shutdown) for one in actions)
        self.client._context.outbox = actions
        Rig._act(self)
