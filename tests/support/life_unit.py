"""One device of lifecycle.py: its core, its flash and slots, and the network that the world carries for it."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.core import actions
from device_sdk.core.client import Client
from device_sdk.core.identity import Endpoint, Identity, Policy
from device_sdk.core.ports import Product, SettingsError
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller
from device_sdk.simulator.power import Power, PowerLostError
from device_sdk.wire import ids
from service.mqtt.port import Role
from tests.support.storage import GROUP, PRODUCT

if TYPE_CHECKING:
    from tests.support.lifecycle import World

CHUNK = 256
HOSTS = {
    "boot": ("prod", Role.BOOTSTRAP),
    "op": ("prod", Role.OPERATIONAL),
    "boot-east": ("east", Role.BOOTSTRAP),
    "op-east": ("east", Role.OPERATIONAL),
}
Place = tuple[str, Role]
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(b"R" * 32)
PUBLIC_KEY = RELEASE_KEY.public_key().public_bytes_raw()
KEY_ID = ids.release_key_id(PUBLIC_KEY)


class Gadget(Product):
    """Takes any settings but `refuse`; those named `network` it tries on a new connection."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}

    def apply_settings(self, values: dict[str, object]) -> None:
        if "refuse" in values:
            raise SettingsError("out_of_range")
        self.values = values

    def needs_trial(self, before: dict[str, object], values: dict[str, object]) -> bool:
        return before.get("network") != values.get("network")


class Unit:
    """One device: what is soldered in, and the program that runs while it has power."""

    def __init__(self, world: World, serial: str, *, seed: str | None = None) -> None:
        """`seed`: for a second device of the same serial, which must not draw the same random numbers."""
        self.world = world
        self.serial = serial
        self.key = hashlib.sha256(serial.encode()).digest()
        self.rng = random.Random(seed or serial)
        self.power = Power(self.rng)
        self.flash = MemoryFlash(self.power)
        self.installer = MemoryInstaller(self.power, world.shared, CHUNK)
        self.policy = Policy(chunk_size=CHUNK, window_chunks=4, max_window_bytes=8 * CHUNK)
        self.identity = Identity(
            GROUP.group_id, serial, self.key, PRODUCT.name, PRODUCT.hardware,
            [Endpoint("boot", 1, tls=False), Endpoint("boot-east", 1, tls=False)], release_keys=(PUBLIC_KEY,), allow_plain=True,
        )  # fmt: skip
        self.product = Gadget()
        self.client: Client | None = None
        self.connected: tuple[Place, str] | None = None  # the broker, and the client id there
        self.rebooting = False

    @property
    def told_name(self) -> tuple[str, str]:
        return self.identity.group_id, self.serial

    def power_up(self) -> None:
        self.power.restore()
        self.rebooting = False
        self.connected = None
        self.installer.boot()
        self.client = Client(
            self.identity, self.policy, self.flash, self.installer, FullCrypto(), self.rng.randbytes, self.product
        )
        self.do(lambda client, now: client.start(now))

    def power_off(self) -> None:
        self.power.cut()
        self.client, self.connected = None, None

    def do(self, call) -> None:
        """One call of the core, and everything it asks for; a power cut on the way ends the program."""
        try:
            self._call(call)
        except PowerLostError:
            self.client, self.connected = None, None

    def _call(self, call) -> None:
        if self.client is None:
            return
        call(self.client, self.world.clock.monotonic())
        while self.client is not None and (todo := self.client.actions()):
            for action in todo:
                self._act(action)

    def _act(self, action) -> None:
        if isinstance(action, actions.Connect):
            self._connect(action)
        elif isinstance(action, actions.Disconnect):
            self.connected = None
        elif isinstance(action, actions.Publish):
            if self.connected is not None:
                self.world.up.append((*self.connected, action.topic, action.payload))
        elif isinstance(action, actions.Reboot):
            self.client, self.connected, self.rebooting = None, None, True

    def _connect(self, action: actions.Connect) -> None:
        place = HOSTS[action.host]
        if place[0] in self.world.dark:
            self._call(lambda client, now: client.connect_failed("unreachable", now))
            return
        if place[1] is Role.OPERATIONAL and not self.world.lets_in(place[0], action):
            self._call(lambda client, now: client.connect_failed("refused", now))
            return
        self.world.take_over(place, action.client_id)
        self.connected = (place, action.client_id)
        self._call(lambda client, now: client.connected(now))
