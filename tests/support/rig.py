"""Virtual time: carries messages between a device's core on a machine and the scripted service.

Runs on MicroPython too; imports only the device SDK and its neighbours here.
"""

import hashlib

from device_sdk.core.actions import Connect, Disconnect, Note, Publish, Reboot
from device_sdk.core.client import Client
from device_sdk.core.identity import Endpoint, Identity, Policy
from device_sdk.core.ports import Crypto
from tests.support.machine import Machine, PowerCut
from tests.support.peer import GROUP, HARDWARE, PRODUCT, SERIAL, K, Peer

LATENCY_S = 0.01


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
