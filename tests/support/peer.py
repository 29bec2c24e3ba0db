"""A scripted service: what the device core is tested against, without any I/O.

Answers as docs/protocol.md says, unless told to lie. Machine is in machine.py; Rig, which brings both together in virtual
time, in rig.py. Imports only the device SDK and runs on MicroPython too.
"""

import hashlib

from device_sdk.wire import frames, ids, keys, topics
from device_sdk.wire.packer import packb, unpackb

K = bytes(range(32))
GROUP = "thermo-2026"
SERIAL = "T-0001"
THING = "0193b1f2a7c47d3e8f10c2d3e4f5a6b7"
PRODUCT = "Thermometer"
HARDWARE = "rev-b"


def firmware(image, name="2.0", seq=2, **changes):
    """A firmware map of a document; `signature` is zeros unless given."""
    image_id = ids.hex_of(hashlib.sha256(image).digest())
    out = {
        "name": name,
        "description": "",
        "product": PRODUCT,
        "hardware": HARDWARE,
        "seq": seq,
        "image_id": image_id,
        "size": len(image),
        "signature": bytes(64),
        "key_id": "0" * 32,
    }
    out.update(changes)
    if "version_id" not in out:
        out["version_id"] = ids.digest_id(message(out))
    return out


def message(version):
    """The bytes that a release key signs."""
    return ids.image_message(
        version["product"], version["hardware"], version["name"], version["seq"], version["image_id"], version["size"]
    )


class Peer:
    """The service for one device in one environment. `mangle(verb, payload)` may replace each reply by a list of payloads.

    `beside`: the peer of another environment with the same database.
    """

    def __init__(self, environment="here", hosts=("boot", "ops"), beside=None):
        self.environment = environment
        self.hosts = hosts  # of its bootstrap broker and its operational one
        self.images = {}  # first 8 bytes of the digest -> image
        # credential_id -> {"state", "password", "environment"}
        self.credentials = beside.credentials if beside is not None else {}
        self.grants = {}  # what a grant says differently; rekey: a new device key comes with it
        self.down = ()  # hosts that cannot be reached
        self.rev = 0
        self.doc = {}
        self.requests = []  # (verb, map) as received
        self.connects = []
        self.refuse = {}  # verb -> a refusal map to answer with
        self.up = True
        self.mangle = None
        self.plain = True
        self.chunks_sent = {}
        self.key = K
        self._nonces = {}
        self._last = (0, 0, b"")

    def want(self, version=None, **fields):
        """The desired document from now on."""
        self.rev += 1
        self.doc = dict(fields)
        if version is None:
            version = self.doc.get("firmware")
        self.doc["rev"] = self.rev
        if version is not None:
            self.doc["firmware"] = version

    def move(self, there, **changes):
        """Want the device in that peer's environment."""
        self.doc.pop("placement", None)
        placement = {
            "ou": "acme",
            "environment": there.environment,
            "bootstrap": [{"host": there.hosts[0], "port": 1883, "tls": False}],
            "deadline_s": 3600,
        }
        placement.update(changes)
        self.want(**dict(self.doc, placement=placement))

    def serve(self, image):
        self.images[hashlib.sha256(image).digest()[:8]] = image

    def said(self, verb):
        return [fields for name, fields in self.requests if name == verb]

    def states(self):
        """The firmware states reported, repeats left out."""
        out = []
        for report in self.said("report"):
            state = report.get("firmware", {}).get("state")
            if state is not None and (not out or out[-1] != state):
                out.append(state)
        return out

    def causes(self):
        return [r["firmware"]["cause"] for r in self.said("report") if "cause" in r.get("firmware", {})]

    def admit(self, connect):
        """None, or why the connection fails."""
        self.connects.append(connect)
        if not self.up or connect.host in self.down:
            return "unreachable"
        if connect.username is None:
            return None
        known = self.credentials.get(connect.username)
        if known is None or known["state"] == "dropped" or known["environment"] != self.environment:
            return "refused"
        if known["password"] != connect.password:
            return "refused"
        return None

    def push(self, owner, rev=None):
        """A desired push on this credential."""
        return topics.down("c", owner, "desired"), packb({"desired": self.desired(owner)})

    def desired(self, owner):
        doc = packb(self.doc)
        key = self.credentials.get(owner, {}).get("key", self.key)
        return {"doc": doc, "mac": keys.desired_mac(key, THING, owner, doc)}

    def handle(self, topic, payload):
        """[(topic, payload), ...] that go back."""
        space, owner, _, verb = topics.parse(topic)
        request = unpackb(payload)
        self.requests.append((verb, request))
        out = []
        if verb in self.refuse:
            reply = {"ok": False}
            reply.update(self.refuse[verb])
        else:
            reply = getattr(self, "_" + verb)(owner, request, out)
        if reply is not None:
            reply.setdefault("ok", True)
            reply["id"] = request["id"]
            out.append((verb, packb(reply)))
        if self.mangle is not None:
            out = [(verb, changed) for verb, sent in out for changed in self.mangle(verb, sent)]
        return [(topics.down(space, owner, verb), sent) for verb, sent in out]

    def _hello(self, session, request, out):
        server_nonce = hashlib.sha256(session.encode() + request["nonce"]).digest()[:16]
        self._nonces[session] = (request["nonce"], server_nonce)
        return {"server_nonce": server_nonce, "expires_s": 120, "time": 1}

    def _activate(self, session, request, out):
        nonce, server_nonce = self._nonces[session]
        claim = request["claim"]
        if keys.activate_proof(self.key, session, server_nonce, claim) != request["proof"]:
            return {"ok": False, "code": "REFUSED", "retry_after_s": 30}
        credential_id = ids.credential_id(session, server_nonce, claim)
        key = self.key
        if "rekey" in self.grants:
            key = keys.rekey(key, nonce, server_nonce, THING, credential_id)
        password = keys.api_key(key, nonce, server_nonce, THING, credential_id)
        made = {"state": "pending", "password": password, "environment": self.environment}
        if key != self.key:
            made["key"] = key
        self.credentials.setdefault(credential_id, made)
        values = {
            "thing_id": THING,
            "name": "Thermometer 1",
            "ou": "acme",
            "environment": self.environment,
            "credential_id": credential_id,
            "kind": "api_key",
            "endpoint": {"host": self.hosts[1], "port": 1883, "tls": not self.plain},
            "time": 1,
        }
        values.update(self.grants)
        grant = packb(values)
        proof = keys.activated_proof(self.key, session, server_nonce, claim, grant)
        return {"grant": grant, "server_proof": proof}

    def _numbered(self, request):
        self._last = (request["boot_count"], request["n"], b"")

    def _document(self, owner, request):
        return {"desired": self.desired(owner)} if self.doc and request["desired_rev"] < self.rev else {}

    def _online(self, owner, request, out):
        for name, known in self.credentials.items():
            known["state"] = "confirmed" if name == owner else "dropped"
        self.key = self.credentials[owner].get("key", self.key)  # the key before it is refused from now on
        reply = {"name": "Thermometer 1", "ou": "acme", "environment": self.environment}
        reply.update(self._document(owner, request))
        return reply

    def _report(self, owner, request, out):
        if request.get("placement", {}).get("state") == "failed" and "placement" in self.doc:
            # The command has failed: the device is wanted where it is.
            self.doc.pop("placement")
            self.want(**self.doc)
        return self._document(owner, request)

    def _fetch(self, owner, request, out):
        image = self.images.get(bytes(request["image"]))
        if image is None:
            return {"ok": False, "code": "IMAGE_UNKNOWN"}
        size, first = request["chunk_size"], request["first"]
        if "count" in request:
            wanted = list(range(first, first + request["count"]))
        else:
            wanted = frames.bitmap_indexes(first, request["bitmap"])
        last = frames.chunk_count(len(image), size) - 1
        for index in wanted:
            assert index <= last
            data = image[index * size : (index + 1) * size]
            self.chunks_sent[index] = self.chunks_sent.get(index, 0) + 1
            out.append(("chunk", frames.encode_chunk(request["stream"], index, request["image"], data, index == last)))
        return None
