"""Real devices' cores and the real service with a network between them that does what it is told. No time passes by itself.

There are two environments, "prod" and "east", with one database and one service; operators' commands go through the
engine that also MQTT and the command line use. The store is a real database, broker logins are a table, and every message waits in a list until it is delivered,
dropped or doubled. Each step runs the service until nothing is left to do.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, update

from device_sdk.core import actions
from device_sdk.core.client import Client
from device_sdk.core.identity import Endpoint as DeviceEndpoint
from device_sdk.core.identity import Identity, Policy
from device_sdk.core.ports import Product, SettingsError
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.simulator.memory import MemoryFlash, MemoryInstaller, SharedChunks
from device_sdk.simulator.power import Power, PowerLostError
from device_sdk.wire import ids, packer, topics
from service.credentials.keyfile import KeyFile
from service.domain.catalogue import Endpoint, Environment
from service.domain.credential import CredentialKind
from service.domain.product import Version
from service.errors import Secret
from service.mqtt.port import Inbound, Role
from service.operations import registration, requests
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.operations.outcomes import Result
from service.pipeline.bounds import Bounds
from service.pipeline.service import Pipeline
from service.storage import tables
from service.storage.catalogue_rows import version_row
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.auditor import Told, audit, confirmed_devices
from tests.support.fake_link import FakeClock, FakeGate
from tests.support.pipeline_site import MemoryImages
from tests.support.storage import GROUP, NOW, PRODUCT, new_database

CHUNK = 256
HOSTS = {
    "boot": ("prod", Role.BOOTSTRAP),
    "op": ("prod", Role.OPERATIONAL),
    "boot-east": ("east", Role.BOOTSTRAP),
    "op-east": ("east", Role.OPERATIONAL),
}
Place = tuple[str, Role]


def _environment(name: str, bootstrap: str, operational: str) -> Environment:
    ends = {CredentialKind.API_KEY: Endpoint(operational, 1, tls=False)}
    return Environment(name, ends, bootstrap=(Endpoint(bootstrap, 1, tls=False),))


ENVIRONMENTS = {"prod": _environment("prod", "boot", "op"), "east": _environment("east", "boot-east", "op-east")}
_RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(b"R" * 32)
_PUBLIC_KEY = _RELEASE_KEY.public_key().public_bytes_raw()
_KEY_ID = ids.release_key_id(_PUBLIC_KEY)
_REKEYED = "SELECT device_id FROM device JOIN event USING (group_id, serial) WHERE kind = 'rekeyed'"
_MADE: dict[str, KeyFile] = {}  # made once for all worlds, in the first one's folder


class WireLink:
    """One link of the service: what it publishes goes onto the network."""

    def __init__(self, place: Place, world: World) -> None:
        self.environment, self.role = place
        self.up = True
        self._world = world

    async def publish(self, topic: str, payload: bytes) -> None:
        self._world.down.append(((self.environment, self.role), topic, payload))


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

    def __init__(self, world: World, serial: str) -> None:
        self.world = world
        self.serial = serial
        self.key = hashlib.sha256(serial.encode()).digest()
        self.rng = random.Random(serial)
        self.power = Power(self.rng)
        self.flash = MemoryFlash(self.power)
        self.installer = MemoryInstaller(self.power, world.shared, CHUNK)
        self.policy = Policy(chunk_size=CHUNK, window_chunks=4, max_window_bytes=8 * CHUNK)
        self.identity = Identity(
            GROUP.group_id, serial, self.key, PRODUCT.name, PRODUCT.hardware, [DeviceEndpoint("boot", 1, tls=False)],
            release_keys=(_PUBLIC_KEY,), allow_plain=True,
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
        self.connected = (place, action.client_id)
        self._call(lambda client, now: client.connected(now))


class World:
    """Build with `await World.create(...)`; every public method leaves the service idle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "firstlight.db"
        self.clock = FakeClock()
        self.gates = {name: FakeGate() for name in ENVIRONMENTS}
        self.gate = self.gates["prod"]
        self.dark: set[str] = set()  # environments whose brokers nobody can reach
        self.shared = SharedChunks()
        self.images = MemoryImages(b"unused")
        self.up: list[tuple[Place, str, str, bytes]] = []
        self.down: list[tuple[Place, str, bytes]] = []
        self.told: list[Told] = []
        self.units: list[Unit] = []
        self.starts = 0
        self.commands_asked = 0

    @classmethod
    async def create(cls, folder: Path, serials: list[str]) -> World:
        world = cls(folder)
        if "one" not in _MADE:
            _MADE["one"] = KeyFile.create(folder / "keys.json")
        world.database = await new_database(world.path)
        async with world.database.write() as transaction:
            row = {"key_id": _KEY_ID, "public_key": _PUBLIC_KEY, "name": "release", "added_at": 0}
            await transaction.connection.execute(insert(tables.release_key), [row])
        await world.release("2.0", 2)
        for serial in serials:
            await world.register(serial)
        world.commands = Commands(
            world.database, ENVIRONMENTS, random_bytes=random.randbytes, clock=world.clock.wall
        )  # fmt: skip
        world.burned = world.factory_data()
        await world.start_service()
        return world

    async def register(self, serial: str) -> Unit:
        """A device of its own key; it has no power yet."""
        unit = Unit(self, serial)
        asked = registration.Registration(GROUP.group_id, serial, key=Secret(unit.key))
        await registration.register(self.database, asked, now=self.clock.wall(), random_bytes=random.randbytes)
        self.units.append(unit)
        return unit

    async def release(self, name: str, seq: int) -> None:
        """A new signed version, and the target from now on."""
        image = hashlib.sha256(name.encode()).digest() * 61 + b"tail"  # 8 chunks, the last one short
        image_id = hashlib.sha256(image).hexdigest()
        self.images.images[image_id] = image
        message = ids.image_message(PRODUCT.name, PRODUCT.hardware, name, seq, image_id, len(image))
        version = Version(
            ids.digest_id(message), PRODUCT.product_id, name, "", PRODUCT.name, PRODUCT.hardware, seq, image_id,
            len(image), _RELEASE_KEY.sign(message), _KEY_ID,
        )  # fmt: skip
        async with self.database.write() as transaction:
            connection = transaction.connection
            row = {"image_id": image_id, "size": len(image), "added_at": 0}
            await connection.execute(insert(tables.image), [row])
            await connection.execute(insert(tables.version), [version_row(version, NOW)])
            target = update(tables.product).values(target_version_id=version.version_id)
            await connection.execute(target)
            await requests.raise_catalogue_rev(connection)

    # -- the service --------------------------------------------------------------------------------------------------

    async def start_service(self) -> None:
        self.starts += 1
        self.pipeline = Pipeline(
            store=SqlStore(self.database, ENVIRONMENTS),
            upkeep=Upkeep(self.database),
            gates=self.gates,
            images=self.images,
            keys=_MADE["one"],
            authorities={},
            bounds=Bounds(tick_s=3600.0, dropped_kept_s=10**9),
            clock=self.clock.wall,
            monotonic=self.clock.monotonic,
        )
        self.links = {place: WireLink(place, self) for place in HOSTS.values()}
        for link in self.links.values():
            self.pipeline.attach(link)
        self.running = asyncio.create_task(self.pipeline.run())
        await self.settle()

    async def kill_service(self) -> None:
        """Everything in its memory is gone, and what was on the way to it."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.up.clear()

    async def close(self) -> None:
        await self.kill_service()
        await self.database.close()

    async def settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while not (self.pipeline.idle and self.pipeline.streamer.idle):
                if self.running.done():
                    self.running.result()
                await asyncio.sleep(0)
        self._end_revoked()

    async def upkeep(self) -> None:
        await self.pipeline.ticker.tick()
        await self.pipeline.revoker.revoke_all()
        await self.settle()

    async def set_group(self, **columns) -> None:
        """Policies of every group from now on."""
        async with self.database.write() as transaction:
            await transaction.connection.execute(update(tables.registration_group).values(**columns))
            await requests.raise_catalogue_rev(transaction.connection)
        await self.upkeep()

    # -- operators ----------------------------------------------------------------------------------------------------

    async def operate(self, verb: str, unit: Unit, **arguments) -> tuple[Result, str | None]:
        """One command for one device: what became of it, and the cause of a refusal."""
        self.commands_asked += 1
        asked = {
            "id": str(self.commands_asked),
            "selector": {"devices": [f"{GROUP.group_id}/{unit.serial}"]},
            "arguments": arguments,
        }
        status = await self.commands.submit(THIS_MACHINE, verb, Request.model_validate(asked))
        await self.upkeep()
        (outcome,) = status.outcomes
        return outcome.result, outcome.cause

    async def replace(self, unit: Unit, serial: str, **arguments) -> tuple[Result, str | None]:
        """A new device with its own key for the thing of that unit; it has no power yet."""
        new = Unit(self, serial)
        key = base64.b64encode(new.key).decode()
        result = await self.operate(
            "replace", unit, new=f"{GROUP.group_id}/{serial}", device_key=key, **arguments
        )  # fmt: skip
        if result[0] is Result.CHANGED:
            self.units.append(new)
        return result

    # -- the brokers --------------------------------------------------------------------------------------------------

    def lets_in(self, environment: str, action: actions.Connect) -> bool:
        login = self.gates[environment].logins.get(action.client_id)
        if login is None or action.username != action.client_id or action.password is None:
            return False
        return hashlib.sha256(action.password.encode()).digest() == login.api_key_sha256

    def _end_revoked(self) -> None:
        for unit in self.units:
            if unit.connected is None:
                continue
            (environment, role), client_id = unit.connected
            if role is Role.OPERATIONAL and client_id not in self.gates[environment].logins:
                self.lose_connection(unit)

    def go_dark(self, environment: str) -> None:
        """Nobody reaches that environment's brokers any more."""
        self.dark.add(environment)
        for unit in self.units:
            if unit.connected is not None and unit.connected[0][0] == environment:
                self.lose_connection(unit)

    def lose_connection(self, unit: Unit) -> None:
        if unit.connected is not None:
            unit.connected = None
            unit.do(lambda client, now: client.disconnected(now))

    # -- the network --------------------------------------------------------------------------------------------------

    async def deliver_up(self, at: int, *, keep: bool = False) -> None:
        place, client_id, topic, payload = self.up[at] if keep else self.up.pop(at)
        space, owner, _, _ = topics.parse(topic)
        assert owner == client_id, "a device wrote to another's topic"
        assert space == (topics.BOOTSTRAP if place[1] is Role.BOOTSTRAP else topics.OPERATIONAL)
        self.pipeline.deliver(Inbound(self.links[place], topic, payload, lambda: None))
        await self.settle()

    def deliver_down(self, at: int, *, keep: bool = False) -> None:
        place, topic, payload = self.down[at] if keep else self.down.pop(at)
        _, owner, _, verb = topics.parse(topic)
        for unit in self.units:
            if unit.connected == (place, owner):
                self._note(unit, verb, owner, payload)
                unit.do(lambda client, now: client.received(topic, payload, now))

    def _note(self, unit: Unit, verb: str, owner: str, payload: bytes) -> None:
        """What the auditor holds the service to."""
        if verb not in ("activate", "online"):
            return
        reply = packer.unpackb(payload)
        if reply["ok"]:
            grant = packer.unpackb(reply["grant"]) if verb == "activate" else {"credential_id": owner}
            self.told.append(Told(GROUP.group_id, unit.serial, verb, grant["credential_id"], grant.get("thing_id")))

    async def exchange(self) -> None:
        """Deliver everything, in order, until the network is empty."""
        for _ in range(2000):
            if self.up:
                await self.deliver_up(0)
            elif self.down:
                self.deliver_down(0)
            else:
                return
        raise AssertionError("the conversation does not end")

    # -- time ---------------------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.upkeep()
        for unit in self.units:
            unit.do(lambda client, now: client.tick(now))
            if unit.rebooting:
                unit.power_up()
        await self.settle()

    # -- what must hold -----------------------------------------------------------------------------------------------

    def audit(self, *, settled: bool = False) -> list[str]:
        logins = {one for gate in self.gates.values() for one in gate.logins} if settled else None
        found = audit(self.path, self.told, logins=logins, settled=settled)
        handed_over = {device_id for (device_id,) in self.rows(_REKEYED)}
        now = self.factory_data()
        changed = [one for one, held in self.burned.items() if now.get(one) != held and one not in handed_over]
        return [*found, *(f"what the factory gave {one} has changed" for one in changed)]

    def factory_data(self) -> dict[object, object]:
        """What no command may change: groups and their secrets; serials and their keys, as they are stored."""
        with sqlite3.connect(self.path) as connection:
            groups = connection.execute("SELECT group_id, key_kind, secret_sealed FROM registration_group")
            devices = connection.execute("SELECT device_id, group_id, serial, key_sealed FROM device")
            found = {row[0]: row[1:] for row in [*groups, *devices]}
        connection.close()
        return found

    def rows(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.path) as connection:
            found = connection.execute(query).fetchall()
        connection.close()
        return found

    async def calm(self) -> None:
        """No more faults, nobody blocked: every device gets the power and the time that it needs."""
        self.dark.clear()
        for gate in self.gates.values():
            gate.fail = False
        for unit in self.units:
            unit.power.cut_at = None
            if self.rows(f"SELECT 1 FROM device WHERE serial = '{unit.serial}' AND state = 'blocked'"):
                await self.operate("unblock", unit)
        for step in range(1200):
            for unit in self.units:
                if unit.client is None:
                    unit.power_up()
            await self.exchange()
            if self._all_confirmed():
                break
            # A device that was refused for good reason waits for an hour and more.
            await self.advance(0.5 if step % 10 else 30 if step < 600 else 900)
        await self.advance(1)
        await self.exchange()

    def _all_confirmed(self) -> bool:
        return self.expected() == confirmed_devices(self.path)

    def expected(self) -> set[tuple[str, str]]:
        """The devices that are to be in service at last: all but those that were replaced."""
        replaced = set(self.rows("SELECT group_id, serial FROM device WHERE state = 'replaced'"))
        return {unit.told_name for unit in self.units} - replaced

    def unfinished(self) -> list[str]:
        missing = self.expected() - confirmed_devices(self.path)
        return [
            f"{unit.serial}: {unit.client and unit.client.status}" for unit in self.units if unit.told_name in missing
        ]
