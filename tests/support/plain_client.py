"""A device written from docs/protocol.md alone: paho-mqtt and the standard library, nothing of ours.

Owns a simple device (section 5.5) with JSON payloads; it proves that the document is complete. Share no code with it.

    python tests/support/plain_client.py GROUP SERIAL KEY_BASE64 HOST PORT [CA_FILE]
"""

import base64
import hashlib
import hmac
import json
import queue
import random
import secrets
import ssl
import struct
import sys
import threading
import time
import zlib

import paho.mqtt.client as mqtt

CHUNK = 4096
WINDOW = 64  # chunks in one fetch
WINDOWS = 2  # outstanding at a time
HEADER = struct.Struct(">BBHI8sI")


class RefusedError(Exception):
    """The service answered `ok: false`: (code, reason)."""


class UntrustedError(Exception):
    """A proof, mac or digest is wrong; what it was about is not used."""


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def canon(label, *items):
    """Section 1.2."""
    out = b""
    for item in (label, *items):
        raw = (
            item.to_bytes(8, "big")
            if isinstance(item, int)
            else item.encode()
            if isinstance(item, str)
            else item or b""
        )
        out += len(raw).to_bytes(4, "big") + raw
    return out


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def digest_id(label, *items):
    """Sections 4.4 and 5.2: a computed id."""
    return hashlib.sha256(canon(label, *items)).hexdigest()[:32]


def api_key(key, nonces, thing_id, credential):
    """Section 1.5: HKDF-SHA256 for 32 bytes is two HMACs."""
    prk = mac(nonces, key)
    return mac(prk, canon("pv1 api-key", thing_id, credential) + b"\x01").hex()


class Connection:
    """One MQTT connection: its requests, repeated until answered, and the pushes that came meanwhile."""

    def __init__(self, host, port, prefix, client_id, *, password=None, tls=None, timeout_s=10.0):
        self.prefix = prefix
        self.inbox = queue.Queue()
        self.connected, self.reason = threading.Event(), None
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        if password is not None:
            self.client.username_pw_set(client_id, password)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: self.connected.set()
        self.client.on_message = self._on_message
        self.client.connect(host, port, keepalive=30)
        self.client.loop_start()
        if not self.connected.wait(timeout_s) or self.reason is not None:
            self.close()
            raise ConnectionError(self.reason or "no SUBACK")

    def _on_connect(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            self.reason = str(reason)
            self.connected.set()
        else:
            client.subscribe(self.prefix + "/dn/+", qos=1)

    def _on_message(self, _client, _data, message):
        head, _, verb = message.topic.rpartition("/")
        if head == self.prefix + "/dn":  # exactly our own topics
            self.inbox.put((verb, message.payload))

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def send(self, verb, message):
        self.client.publish(self.prefix + "/up/" + verb, json.dumps(message), qos=1)

    def receive(self, timeout_s):
        """(verb, payload bytes) of the next message, or ("", b"") after `timeout_s`."""
        try:
            return self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return "", b""

    def ask(self, verb, message, accept=bool):
        """The reply to a request with this message; repeats as in section 3.4. `accept` may ignore a reply."""
        message = {"id": secrets.token_hex(8), **message}
        for wait_s in (2.0, 3.0, 4.5, 6.75):
            self.send(verb, message)
            deadline = time.monotonic() + wait_s * random.uniform(0.75, 1.25)
            while (left := deadline - time.monotonic()) > 0:
                got, payload = self.receive(left)
                if got != verb or (reply := json.loads(payload))["id"] != message["id"]:
                    continue
                if not reply["ok"]:
                    raise RefusedError(reply["code"], reply.get("reason"))
                if accept(reply):
                    return reply
        raise TimeoutError(verb)


class PlainDevice:
    """A simple device in memory: `memory` is its flash, `boot_count` rises with `boot()`."""

    def __init__(self, group_id, serial, key, *, version_name="1.0", tls=None):
        self.group_id, self.serial, self.key, self.tls = group_id, serial, key, tls
        self.running = {"name": version_name}
        self.memory = {"boot_count": 0}
        self.boot()

    def boot(self):
        self.memory["boot_count"] += 1
        self.n = 0

    def activate(self, host, port):
        """Sections 4.1 to 4.3; stores the credential record. Raises RefusedError, UntrustedError."""
        items = self.serial, self.memory["boot_count"], secrets.token_bytes(16)
        session = mac(self.key, canon("pv1 session", *items))[:16].hex()  # section 1.4
        link = Connection(host, port, "pv1/b/" + session, session, tls=self.tls)
        try:
            for attempt in range(4):
                try:
                    return self._activate(link, session)
                except RefusedError as refused:
                    if refused.args[0] != "NONCE_EXPIRED" or attempt == 3:
                        raise
        finally:
            link.close()

    def _activate(self, link, session):
        nonce = secrets.token_bytes(16)
        who = {"group_id": self.group_id, "serial": self.serial, "nonce": b64(nonce)}
        server_nonce = unb64(link.ask("hello", who)["server_nonce"])
        claim = json.dumps(
            {**who, "boot_count": self.memory["boot_count"], "firmware": self.running, "caps": []}
        ).encode()
        proof = mac(self.key, canon("pv1 activate", session, server_nonce, claim))

        def genuine(reply):
            items = session, server_nonce, hashlib.sha256(claim).digest(), unb64(reply["grant"])
            return hmac.compare_digest(mac(self.key, canon("pv1 activated", *items)), unb64(reply["server_proof"]))

        message = {"claim": b64(claim), "server_nonce": b64(server_nonce), "proof": b64(proof)}
        grant = json.loads(unb64(link.ask("activate", message, genuine)["grant"]))
        if grant["credential_id"] != digest_id("pv1 credential", session, server_nonce, claim):
            raise UntrustedError("credential_id")
        if grant["kind"] != "api_key" or (self.tls is not None and not grant["endpoint"]["tls"]):
            raise UntrustedError("endpoint")
        password = api_key(self.key, nonce + server_nonce, grant["thing_id"], grant["credential_id"])
        self.memory["record"] = {**grant, "password": password}

    def connect(self):
        """Connects with the stored credential. Raises ConnectionError."""
        record = self.memory["record"]
        to, me = record["endpoint"], record["credential_id"]
        tls = ssl.create_default_context(cadata=record["ca"]) if to["tls"] else None
        self.link = Connection(to["host"], to["port"], "pv1/c/" + me, me, password=record["password"], tls=tls)

    def current(self):
        return self.link.ask("current", {}).get("version")

    def rename(self, name):
        return self.link.ask("rename", {**self._numbers(), "name": name})["name"]

    def installed(self, version):
        return self.link.ask("installed", {**self._numbers(), "version_id": version})["version"]

    def _numbers(self):
        self.n += 1
        return {"n": self.n, "boot_count": self.memory["boot_count"]}

    def target(self):
        """The `firmware` of the desired document after its mac and version id were checked. Raises UntrustedError."""
        desired, record = self.link.ask("target", {})["desired"], self.memory["record"]
        doc = unb64(desired["doc"])
        expected = mac(self.key, canon("pv1 desired", record["thing_id"], record["credential_id"], doc))
        if not hmac.compare_digest(expected, unb64(desired["mac"])):
            raise UntrustedError("mac")
        document = json.loads(doc)
        if document["rev"] < self.memory.get("rev", 0):
            raise UntrustedError("rev")
        self.memory["rev"] = document["rev"]
        items = [document["firmware"][name] for name in ("product", "hardware", "name", "seq", "image_id", "size")]
        if document["firmware"]["version_id"] != digest_id("pv1 image", *items):
            raise UntrustedError("version_id")
        return document["firmware"]

    def download(self, firmware, silence_s=2.0, timeout_s=120.0):
        """The image, fetched window by window and repaired by bitmap, SHA-256 checked. Raises RefusedError, UntrustedError."""
        digest, size = bytes.fromhex(firmware["image_id"]), firmware["size"]
        total = (size + CHUNK - 1) // CHUNK
        image, missing, windows = bytearray(size), set(range(total)), []
        first, stream, deadline = 0, 0, time.monotonic() + timeout_s
        while missing:
            if time.monotonic() > deadline:
                raise TimeoutError("fetch")
            while len(windows) < WINDOWS and first < total:
                last = min(first + WINDOW, total)
                self._fetch(digest, stream := (stream + 1) % 256, first, count=last - first)
                windows.append(set(range(first, last)))
                first = last
            verb, payload = self.link.receive(silence_s)
            if not verb:  # something was lost: ask again, only for what is missing
                for window in windows:
                    base = min(window)
                    bits = sum(1 << (index - base) for index in window)
                    bitmap = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
                    self._fetch(digest, stream := (stream + 1) % 256, base, bitmap=b64(bitmap))
            elif verb == "fetch":
                reply = json.loads(payload)
                if reply["code"] not in ("THROTTLED", "UNAVAILABLE"):
                    raise RefusedError(reply["code"], reply.get("reason"))
                time.sleep(min(reply.get("retry_after_s", 1), 5))  # then the silence brings the window again
            elif verb == "chunk" and (index := self._store(image, payload, digest)) is not None:
                missing.discard(index)
                for window in windows:
                    window.discard(index)
                windows = [window for window in windows if window]
        if hashlib.sha256(image).digest() != digest:
            raise UntrustedError("image digest")
        return bytes(image)

    def _fetch(self, digest, stream, first, **which):
        message = {"id": secrets.token_hex(8), "image": b64(digest[:8]), "stream": stream}
        self.link.send("fetch", {**message, "chunk_size": CHUNK, "first": first, **which})

    @staticmethod
    def _store(image, frame, digest):
        """The index of a frame that fits and is now in the image, else None (section 6.3)."""
        _flags, _stream, length, index, prefix, crc = HEADER.unpack(frame[:20].ljust(20, b"\0"))
        data, start = frame[20:], index * CHUNK
        fits = prefix == digest[:8] and len(data) == length + 1 == min(CHUNK, len(image) - start)
        if not fits or zlib.crc32(data) != crc:
            return None
        image[start : start + len(data)] = data
        return index

    def first_day(self, host, port):
        """From power-up to confirmed firmware; returns the version that the service says is installed."""
        self.activate(host, port)
        self.connect()
        self.current()
        firmware = self.target()
        self.image = self.download(firmware)
        self.link.close()
        self.running = {name: firmware[name] for name in ("version_id", "name")}
        self.boot()
        self.connect()
        self.installed(firmware["version_id"])
        return self.current()


def main(group, serial, key, host, port, ca=None):
    """`key` is base64; without `ca` (a PEM file for the bootstrap broker) there is no TLS: for trials on loopback."""
    tls = ssl.create_default_context(cafile=ca) if ca else None
    print(json.dumps(PlainDevice(group, serial, base64.b64decode(key), tls=tls).first_day(host, int(port))))


if __name__ == "__main__":
    main(*sys.argv[1:])
