"""The service as a function of one message, for tests of devices: no broker, no database, one process.

Answers hello, activate, online, report and fetch for devices whose keys it is told, offers one signed image, and counts
what it was asked. `answer` fits MqttServer. It is written from the protocol document with the wire package.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.wire import codes, frames, ids, keys, topics
from device_sdk.wire.packer import packb, unpackb

PRODUCT = "thermometer"
HARDWARE = "rev1"
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
RELEASE_PUBLIC = RELEASE_KEY.public_key().public_bytes_raw()


class ScriptedService:
    """`device_keys`: serial -> K. Set `port` to that of the server before the first activation.

    `served` counts chunks by index, `windows` holds the indexes of each fetch, `firmware` the last reported state by
    serial, `confirmed` the serials that came online on the offered version. `lose` is asked for each message sent.
    """

    def __init__(self, device_keys: dict[str, bytes], image: bytes, *, seq: int = 2) -> None:
        self.port = 0
        self.device_keys = device_keys
        self.served: Counter[int] = Counter()
        self.windows: list[list[int]] = []
        self.firmware: dict[str, dict[str, Any]] = {}
        self.confirmed: set[str] = set()
        self.activations: Counter[str] = Counter()
        self.api_keys: dict[str, str] = {}
        self.refusal: dict[str, Any] | None = None
        self.settings: dict[str, Any] | None = None  # {rev, values}; set it before the first contact
        self.settings_told: dict[str, dict[str, Any]] = {}  # serial -> what was reported of them last
        self.ca: str | None = None  # set: the endpoint has TLS, signed by this
        self._nonces: dict[str, tuple[str, bytes]] = {}
        self._credentials: dict[str, tuple[str, str]] = {}  # credential_id -> (serial, thing_id)
        self._docs: dict[str, bytes] = {}
        self.offer(image, "2.0", seq)

    def offer(self, image: bytes, name: str, seq: int) -> None:
        """From now on this image is every device's target."""
        self.image = image
        self.image_id = hashlib.sha256(image).hexdigest()
        message = ids.image_message(PRODUCT, HARDWARE, name, seq, self.image_id, len(image))
        self.version_id = ids.digest_id(message)
        self.target = {
            "version_id": self.version_id,
            "name": name,
            "description": "",
            "product": PRODUCT,
            "hardware": HARDWARE,
            "seq": seq,
            "image_id": self.image_id,
            "size": len(image),
            "signature": RELEASE_KEY.sign(message),
            "key_id": ids.release_key_id(RELEASE_PUBLIC),
        }
        self.rev = getattr(self, "rev", 0) + 1

    def login(self, client_id: str, username: str | None, password: str | None) -> bool:
        """Anonymous bootstrap sessions, and credentials with their key."""
        if username is None:
            return ids.is_hex_id(client_id)
        return client_id == username and self.api_keys.get(username) == password

    def answer(self, client_id: str, topic: str, payload: bytes) -> Iterator[tuple[str, bytes]]:
        parsed = topics.parse(topic)
        assert parsed is not None, topic
        space, owner, _, verb = parsed
        assert owner == client_id
        request = unpackb(payload)
        if verb == "fetch":
            yield from self._chunks(owner, request)
            return
        reply = self.refusal or getattr(self, f"_{verb}")(owner, request)
        yield (
            topics.down(space, owner, verb),
            packb({"id": request["id"], "ok": "code" not in reply, "trace": "0" * 16, **reply}),
        )

    def _hello(self, owner: str, request: dict[str, Any]) -> dict[str, Any]:
        nonce = hashlib.sha256(owner.encode()).digest()[:16]
        self._nonces[owner] = (request["serial"], nonce)
        return {"server_nonce": nonce, "expires_s": 120, "time": 1_800_000_000}

    def _activate(self, owner: str, request: dict[str, Any]) -> dict[str, Any]:
        serial, server_nonce = self._nonces[owner]
        key, claim = self.device_keys[serial], request["claim"]
        if keys.activate_proof(key, owner, server_nonce, claim) != request["proof"]:
            return {"code": codes.REFUSED, "reason": "refused"}
        nonce = unpackb(claim)["nonce"]
        credential_id = ids.credential_id(owner, server_nonce, claim)
        thing_id = ids.digest_id(serial.encode())
        self._credentials[credential_id] = (serial, thing_id)
        self.api_keys[credential_id] = keys.api_key(key, nonce, server_nonce, thing_id, credential_id)
        self.activations[serial] += 1
        grant = packb(
            {
                "thing_id": thing_id,
                "name": "Thermometer 1",
                "ou": "acme",
                "environment": "test",
                "credential_id": credential_id,
                "kind": "api_key",
                "endpoint": {"host": "127.0.0.1", "port": self.port, "tls": self.ca is not None},
                **({} if self.ca is None else {"ca": self.ca}),
                "time": 1_800_000_000,
            }
        )
        return {"grant": grant, "server_proof": keys.activated_proof(key, owner, server_nonce, claim, grant)}

    def _online(self, owner: str, request: dict[str, Any]) -> dict[str, Any]:
        serial, _thing_id = self._credentials[owner]
        if (request.get("firmware") or {}).get("version_id") == self.version_id:
            self.confirmed.add(serial)
        return {"name": "Thermometer 1", "ou": "acme", "environment": "test", **self._desired(owner, request)}

    def _report(self, owner: str, request: dict[str, Any]) -> dict[str, Any]:
        serial, _ = self._credentials[owner]
        if "firmware" in request:
            self.firmware[serial] = request["firmware"]
        if "settings" in request:
            self.settings_told[serial] = request["settings"]
        return self._desired(owner, request)

    def _desired(self, owner: str, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("desired_rev", 0) >= self.rev:
            return {}
        serial, thing_id = self._credentials[owner]
        more = {} if self.settings is None else {"settings": self.settings}
        doc = packb({"rev": self.rev, "firmware": self.target, **more})
        return {"desired": {"doc": doc, "mac": keys.desired_mac(self.device_keys[serial], thing_id, owner, doc)}}

    def _chunks(self, owner: str, request: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        prefix = bytes.fromhex(self.image_id)[:8]
        assert request["image"] == prefix
        size = request["chunk_size"]
        if "count" in request:
            wanted = list(range(request["first"], request["first"] + request["count"]))
        else:
            wanted = frames.bitmap_indexes(request["first"], request["bitmap"])
        self.windows.append(wanted)
        last = (len(self.image) + size - 1) // size - 1
        for index in wanted:
            self.served[index] += 1
            data = self.image[index * size : (index + 1) * size]
            frame = frames.encode_chunk(request["stream"], index, prefix, data, index == last)
            yield topics.down(topics.OPERATIONAL, owner, "chunk"), frame
