"""A scripted service and a machine that loses power: what the device core is tested against, without any I/O.

Owns Peer (answers as docs/protocol.md says, unless told to lie), Machine (flash and two slots, power can be cut at every
operation) and Rig (virtual time; carries messages between the core and the peer). Imports only the device SDK and runs
on MicroPython too.
"""

import hashlib

from device_sdk.core.actions import Connect, Disconnect, Note, Publish, Reboot
from device_sdk.core.client import Client
from device_sdk.core.identity import Endpoint, Identity, Policy
from device_sdk.core.ports import Crypto, Flash, Installer
from device_sdk.wire import frames, ids, keys, topics
from device_sdk.wire.packer import packb, unpackb

K = bytes(range(32))
GROUP = "thermo-2026"
SERIAL = "T-0001"
THING = "0193b1f2a7c47d3e8f10c2d3e4f5a6b7"
PRODUCT = "Thermometer"
HARDWARE = "rev-b"
LATENCY_S = 0.01


class PowerCut(BaseException):
    """The power went in the middle of an operation."""


class Machine(Flash, Installer):
    """What survives a restart. `cut_at`: the number of the operation at which power goes, `cut_how` "before", "after",
    or a number: a save is torn at that byte. What was written and not synced is lost with the power.
    """

    def __init__(self):
        self.flash = {}
        self.running = {"version_id": None, "name": None}
        self.old = None  # what runs again if the trial ends badly
        self.trial = False
        self.next_boot = None
        self.idle_id = None
        self.idle = bytearray()
        self.volatile = []
        self.healthy_answer = True
        self.bad_images = ()  # versions whose image crashes at start
        self.fail = {}  # method name -> exception to raise
        self.ops = 0
        self.cut_at = None
        self.cut_how = "before"
        self.write_bytes = 0

    def boot(self):
        """What the boot loader does."""
        self.volatile = []
        if self.next_boot is not None:
            self.old, self.running, self.trial = self.running, self.next_boot, True
            self.next_boot = None
            if self.running["version_id"] in self.bad_images:
                self.running, self.trial = self.old, False
        elif self.trial:
            self.running, self.trial = self.old, False

    def _op(self, name):
        if name in self.fail:
            raise self.fail[name]
        self.ops += 1
        return self.cut_at is not None and self.ops == self.cut_at

    def _cut(self):
        self.volatile = []
        raise PowerCut

    def load(self, name):
        return self.flash.get(name)

    def save(self, name, data):
        cut = self._op("save")
        if cut and self.cut_how == "before":
            self._cut()
        if cut and self.cut_how != "after":
            old = self.flash.get(name, b"")
            at = min(self.cut_how, len(data))
            self.flash[name] = data[:at] + old[at:]
            self._cut()
        self.flash[name] = bytes(data)
        if cut:
            self._cut()

    def _do(self, name, effect):
        cut = self._op(name)
        if cut and self.cut_how != "after":
            self._cut()
        effect()
        if cut:
            self._cut()

    def begin(self, image_id, size):
        def effect():
            if self.idle_id != image_id or len(self.idle) != size:
                self.idle_id = image_id
                self.idle = bytearray(size)

        self._do("begin", effect)

    def write(self, offset, data):
        self.write_bytes += len(data)
        self._do("write", lambda: self.volatile.append((offset, bytes(data))))

    def _flush(self):
        for offset, data in self.volatile:
            self.idle[offset : offset + len(data)] = data
        self.volatile = []

    def sync(self):
        self._do("sync", self._flush)

    def read(self, offset, length):
        if "read" in self.fail:
            raise self.fail["read"]
        image = bytearray(self.idle)
        for at, data in self.volatile:
            image[at : at + len(data)] = data
        return bytes(image[offset : offset + length])

    def install(self, version):
        def effect():
            self._flush()
            self.next_boot = {"version_id": version["version_id"], "name": version["name"]}

        self._do("install", effect)

    def booted(self):
        info = dict(self.running)
        info["trial"] = self.trial
        return info

    def confirm(self):
        def effect():
            self.trial = False

        self._do("confirm", effect)

    def revert(self):
        def effect():
            self.next_boot = None

        self._do("revert", effect)

    def healthy(self):
        return self.healthy_answer


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


class Rig:
    """One device and its peer in virtual time. A PowerCut boots the machine again, as Reboot does."""

    def __init__(self, peer=None, machine=None, policy=None, crypto=None, product=None, **identity):
        self.peer = peer or Peer()
        self.there = Peer("there", ("boot2", "ops2"), self.peer)
        self.product = product
        self.machine = machine or Machine()
        self.policy = policy or Policy(chunk_size=256, window_chunks=4, max_window_bytes=2048)
        self.crypto = crypto or Crypto()
        given = {"key": K, "allow_plain": True, "bootstrap": [Endpoint("boot", 1883, False)]}
        given.update(identity)
        self.identity = Identity(GROUP, SERIAL, product=PRODUCT, hardware=HARDWARE, **given)
        self.now = 1000.0
        self.notes = []
        self.boots = 0
        self.reboots = 0
        self.cuts = 0
        self.seed = 1
        self.client = None
        self.on_boot = None

    def random_bytes(self, count):
        self.seed += 1
        return hashlib.sha256(b"%d" % self.seed).digest()[:count]

    def boot(self):
        self.boots += 1
        self.machine.boot()
        self.queue = []
        self.connection = None
        self.client = Client(
            self.identity, self.policy, self.machine, self.machine, self.crypto, self.random_bytes, self.product
        )
        self._guarded(lambda: self.client.start(self.now))

    def run(self, until, max_s=4 * 3600.0, max_steps=200000):
        """Until `until()` holds; AssertionError when it does not in time."""
        if self.client is None:
            self.boot()
        end = self.now + max_s
        for _ in range(max_steps):
            if until():
                return
            if not self._step(end):
                break
        assert until(), str((self.client.status, self.notes[-12:]))

    def run_for(self, seconds):
        if self.client is None:
            self.boot()
        end = self.now + seconds
        while self._step(end):
            pass
        self.now = max(self.now, end)

    def drop(self):
        """The broker ends the connection."""
        self.queue = []
        self.connection = None
        self._guarded(lambda: self.client.disconnected(self.now))

    def deliver(self, topic, payload):
        self._guarded(lambda: self.client.received(topic, payload, self.now))

    def push(self):
        """The document as it is, pushed to the credential in use."""
        self.deliver(*self.peer_of(self.connection).push(self.owner))

    @property
    def owner(self):
        return self.connection.client_id

    def _step(self, end):
        wake_at = self.client.wake_at
        at = min([t for t in (wake_at, self.queue[0][0] if self.queue else None) if t is not None] or [end + 1])
        if at > end:
            return False
        self.now = max(self.now, at)
        if self.queue and self.queue[0][0] <= self.now:
            event = self.queue.pop(0)[1]
            self._guarded(event)
        else:
            self._guarded(lambda: self.client.tick(self.now))
        return True

    def _guarded(self, call):
        try:
            call()
            self._act()
        except PowerCut:
            self.cuts += 1
            self.machine.cut_at = None
            self.now += 5.0
            if self.on_boot is not None:
                self.on_boot()
            self.boot()

    def _act(self):
        for action in self.client.actions():
            if isinstance(action, Note):
                self.notes.append((action.level, action.event, action.detail))
            elif isinstance(action, Connect):
                self._connect(action)
            elif isinstance(action, Disconnect):
                self.connection = None
                self.queue = []
            elif isinstance(action, Reboot):
                self.reboots += 1
                self.boot()
                return
            elif isinstance(action, Publish):
                assert self.connection is not None, action
                for topic, payload in self.peer_of(self.connection).handle(action.topic, action.payload):
                    self._later(self._delivery(topic, payload))

    def _delivery(self, topic, payload):
        return lambda: self.client.received(topic, payload, self.now)

    def peer_of(self, connect):
        """Whose broker that is; None: nobody's."""
        if connect.host == "nowhere":
            return None
        return self.there if connect.host in self.there.hosts else self.peer

    def _later(self, event):
        self.queue.append((self.now + LATENCY_S, event))

    def _connect(self, action):
        self.queue = []
        peer = self.peer_of(action)
        reason = peer.admit(action) if peer is not None else "unreachable"
        if reason is None:
            self.connection = action
            self._later(lambda: self.client.connected(self.now))
        else:
            self.connection = None
            self._later(lambda: self.client.connect_failed(reason, self.now))
