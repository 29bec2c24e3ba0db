"""A venue tablet written from docs/protocol.md, section 9, alone: its call in the warehouse, its items, its handshake.

Builds on plain_client.py and shares no code with the SDK. One thread; JSON payloads.
"""

import hashlib
import hmac
import json
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.plain_client import (
    Connection,
    PlainDevice,
    UntrustedError,
    api_key,
    b64,
    canon,
    digest_id,
    mac,
    unb64,
)


class WarehouseConnection(Connection):
    """On the warehouse's broker (9.1): its own topics may come with `warehouse/` before them."""

    def _on_message(self, client, data, message):
        message.topic = message.topic.removeprefix("warehouse/").encode()
        super()._on_message(client, data, message)


class Tablet(PlainDevice):
    """`flash` is what it has installed, by name: (version, bytes). `settings`: what it uses."""

    def __init__(self, group_id, serial, key, release_key, *, product="Tablet", wired=True, tls=None):
        super().__init__(group_id, serial, key, tls=tls)
        self.release_key, self.product = Ed25519PublicKey.from_public_bytes(release_key), product
        self.flash, self.settings = {}, {}
        self.memory["settings_rev"] = 0
        self.wired = wired

    def can_connect(self):
        """Whether it finds a network at its site: without a wire it has to know one."""
        return self.wired or "ssid" in self.settings.get("network", {})

    # -- in the warehouse ---------------------------------------------------------------------------------------------

    def stage(self, host, port):
        """The one-time initial call (9.2, 9.3). Raises RefusedError, UntrustedError."""
        items = self.serial, self.memory["boot_count"], secrets.token_bytes(16)
        session = mac(self.key, canon("pv1 session", *items))[:16].hex()
        link = WarehouseConnection(host, port, "pv1/b/" + session, session, tls=self.tls)
        try:
            nonce = secrets.token_bytes(16)
            who = {"group_id": self.group_id, "serial": self.serial, "nonce": b64(nonce)}
            server_nonce = unb64(link.ask("hello", who)["server_nonce"])
            body = {**who, "boot_count": self.memory["boot_count"], "firmware": self.running, "caps": []}
            claim = json.dumps(body).encode()
            proof = mac(self.key, canon("pv1 stage", session, server_nonce, claim))
            reply = link.ask("stage", {"claim": b64(claim), "server_nonce": b64(server_nonce), "proof": b64(proof)})
        finally:
            link.close()
        # 1. server_proof, the grant, then the manifest's mac.
        granted = session, server_nonce, hashlib.sha256(claim).digest(), unb64(reply["grant"])
        self._check(mac(self.key, canon("pv1 stage granted", *granted)), reply["server_proof"])
        grant = json.loads(unb64(reply["grant"]))
        if grant["credential_id"] != digest_id("pv1 credential", session, server_nonce, claim):
            raise UntrustedError("credential_id")
        password = api_key(self.key, nonce + server_nonce, grant["thing_id"], grant["credential_id"])
        self.memory["record"] = {**grant, "password": password}
        self.manifest = self._open(reply["manifest"], "pv1 manifest")
        # 2. Every signature.
        for item in self.manifest["items"]:
            self._check_signature(item)

    def _check_signature(self, item):
        needs = ",".join(f"{name}>={lowest}" for name, lowest in item.get("needs", []))
        signed = [item[name] for name in ("name", "kind", "version", "size")]
        message = canon("pv1 item", self.product, *signed, unb64(item["sha256"]).hex(), needs)
        self.release_key.verify(unb64(item["signature"]), message)

    def install_all(self, broken=()):
        """Fetches, installs and reports every item in the manifest's order (9.4); the names that work.

        An item of `broken` fails, and it goes no further.
        """
        self.connect()
        try:
            for item in self.manifest["items"]:
                self.say(item, "pending")
            for item in self.manifest["items"]:
                missing = [name for name, _ in item.get("needs", []) if name not in self.flash]
                if missing:
                    raise UntrustedError(f"{item['name']} stands before {missing}")
                data = self._bytes_of(item)
                if hashlib.sha256(data).digest() != unb64(item["sha256"]):
                    raise UntrustedError(item["name"])
                self.say(item, "fetched")
                if item["name"] in broken:
                    self.say(item, "failed", cause="flash_worn")
                    return list(self.flash)
                self.flash[item["name"]] = (item["version"], data)
                self.say(item, "installed")
                self.say(item, "working")
            self.link.ask("staged", {**self._numbers(), "manifest_id": self.manifest["manifest_id"]})
            self.settings = self.manifest.get("settings", {}).get("values", {})
            return list(self.flash)
        finally:
            self.link.close()

    def fetch_image_of(self, item):
        """Asks for an image as some manifest names it, not for certain its own."""
        self.connect()
        try:
            return self.download({"image_id": unb64(item["sealed"]).hex(), "size": item["size"] + 28})
        finally:
            self.link.close()

    def say(self, item, state, **more):
        of_item = {"name": item["name"], "version": item["version"], "state": state, **more}
        self._report(item=of_item)

    def _report(self, **said):
        self.link.ask("report", {**self._numbers(), "desired_rev": self.memory.get("rev", 0), **said})

    def _bytes_of(self, item):
        if item.get("image") and item["kind"] == "secret":
            sealed = self.download({"image_id": unb64(item["sealed"]).hex(), "size": item["size"] + 28})
            return self._unseal(item, sealed)
        if item.get("image"):
            return self.download({"image_id": unb64(item["sha256"]).hex(), "size": item["size"]})
        data, size = b"", None
        while size is None or len(data) < size:
            reply = self.link.ask("item", {"name": item["name"], "offset": len(data)})
            size, data = reply["size"], data + unb64(reply["data"])
        return self._unseal(item, data) if item["kind"] == "secret" else data

    def _unseal(self, item, data):
        prk = mac(bytes(32), self.key)  # HKDF with an empty salt
        key = mac(prk, canon("pv1 sealed item", item["name"], item["version"]) + b"\x01")
        return AESGCM(key).decrypt(data[:12], data[12:], None)

    # -- at the customer's --------------------------------------------------------------------------------------------

    def first_boot(self):
        """Online, then the handshake (9.6); stays connected."""
        if not self.can_connect():
            raise ConnectionError("it knows no network")
        self.boot()
        self.connect()
        reply = self.link.ask("online", {**self._numbers(), "desired_rev": 0, "caps": []})
        self.wanted_rev = self._wanted(reply["desired"])
        self.handshake()

    def handshake(self, works=True):
        """Takes the settings of its site over, if there are others, and says so."""
        reply = self.link.ask("handshake", {"settings_rev": self.memory["settings_rev"]})
        if "settings" not in reply:
            return False
        document = self._open(reply["settings"], "pv1 handshake")
        self.memory["settings_rev"] = document["rev"]
        said = {"rev": document["rev"], "state": "applied" if works else "failed"}
        if works:
            self.settings = document["values"]
        else:
            said["cause"] = "cut_off"  # and it goes on with the last good ones
        self._report(site=said)
        return True

    def pushed_rev(self, timeout_s=10.0):
        """The revision that the next pushed document names."""
        verb, payload = self.link.receive(timeout_s)
        while verb not in ("desired", ""):
            verb, payload = self.link.receive(timeout_s)
        if not verb:
            raise TimeoutError("desired")
        return self._wanted(json.loads(payload)["desired"])

    def _wanted(self, desired):
        document = self._open(desired, "pv1 desired")
        self.memory["rev"] = document["rev"]
        return document["handshake"]["settings_rev"]

    def _open(self, signed, label):
        doc, record = unb64(signed["doc"]), self.memory["record"]
        self._check(mac(self.key, canon(label, record["thing_id"], record["credential_id"], doc)), signed["mac"])
        return json.loads(doc)

    @staticmethod
    def _check(expected, said):
        if not hmac.compare_digest(expected, unb64(said)):
            raise UntrustedError("proof")
