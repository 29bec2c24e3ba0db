"""Real devices' cores and the real service with a network between them that does what it is told. No time passes by itself.

There are two environments, "prod" and "east", with one database and one service; operators' commands go through the
engine that also MQTT and the command line use. The store is a real database, broker logins are a table, and every
message waits in a list until it is delivered, dropped or doubled. Each step runs the service until nothing is left to
do. The devices are those of life_unit.py.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import sqlite3
from pathlib import Path

from sqlalchemy import insert, update

from device_sdk.core import actions
from device_sdk.simulator.memory import SharedChunks
from device_sdk.wire import ids, packer, topics
from service.credentials.keyfile import KeyFile
from service.domain.catalogue import Endpoint, Environment
from service.domain.credential import CredentialKind
from service.domain.product import Version
from service.errors import Secret
from service.mqtt.port import Inbound, LinkDown, Role
from service.operations import registration, requests
from service.operations.accounts import THIS_MACHINE
from service.operations.commands import Commands, Request
from service.operations.outcomes import Result
from service.pipeline.bounds import Bounds
from service.storage import tables
from service.storage.catalogue_rows import version_row
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.auditor import Told, audit, confirmed_devices
from tests.support.fake_link import FakeClock, FakeGate
from tests.support.life_unit import HOSTS, KEY_ID, PUBLIC_KEY, RELEASE_KEY, Place, Unit
from tests.support.mishaps import let_in_what_is_frozen, release_what_was_held_back, take_away_clones
from tests.support.pipeline_site import MemoryImages
from tests.support.still_pipeline import StillPipeline
from tests.support.storage import GROUP, NOW, PRODUCT, new_database


def _environment(name: str, bootstrap: str, operational: str) -> Environment:
    ends = {CredentialKind.API_KEY: Endpoint(operational, 1, tls=False)}
    return Environment(name, ends, bootstrap=(Endpoint(bootstrap, 1, tls=False),))


ENVIRONMENTS = {"prod": _environment("prod", "boot", "op"), "east": _environment("east", "boot-east", "op-east")}
_REKEYED = "SELECT device_id FROM device JOIN event USING (group_id, serial) WHERE kind = 'rekeyed'"
_MADE: dict[str, KeyFile] = {}  # made once for all worlds, in the first one's folder


class WireLink:
    """One link of the service: what it publishes goes onto the network."""

    def __init__(self, place: Place, world: World) -> None:
        self.environment, self.role = place
        self._world = world

    @property
    def up(self) -> bool:
        return self.environment not in self._world.dark

    async def publish(self, topic: str, payload: bytes) -> None:
        if not self.up:
            raise LinkDown
        self._world.down.append(((self.environment, self.role), topic, payload))


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
        self.clones: list[Unit] = []  # those of `units` that nobody should have made
        self.forgetful: set[str] = set()  # serials of which a device has lost its memory, or was there twice
        self.handed_over: set[str] = set()  # serials for which an operator has asked for a new key
        self.starts = 0
        self.commands_asked = 0

    @classmethod
    async def create(cls, folder: Path, serials: list[str]) -> World:
        world = cls(folder)
        if "one" not in _MADE:
            _MADE["one"] = KeyFile.create(folder / "keys.json")
        world.database = await new_database(world.path)
        async with world.database.write() as transaction:
            row = {"key_id": KEY_ID, "public_key": PUBLIC_KEY, "name": "release", "added_at": 0}
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
            len(image), RELEASE_KEY.sign(message), KEY_ID,
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
        self.pipeline = StillPipeline(
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
        self._say_links()
        self.running = asyncio.create_task(self.pipeline.run())
        await self.upkeep()

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
        async with asyncio.timeout(300):  # of work that takes milliseconds, unless the processors are others'
            await self.pipeline.settle(self.running)
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
        if verb == "transfer" and outcome.result is Result.CHANGED:
            self.handed_over.add(unit.serial)
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
        """Nobody reaches that environment's brokers any more, the service included."""
        self.dark.add(environment)
        self._say_links()
        for unit in self.units:
            if unit.connected is not None and unit.connected[0][0] == environment:
                self.lose_connection(unit)

    def lighten(self) -> None:
        """All environments can be reached again."""
        self.dark.clear()
        self._say_links()

    def _say_links(self) -> None:
        for environment in ENVIRONMENTS:
            self.pipeline.link_state(environment, connected=environment not in self.dark)

    def take_over(self, place: Place, client_id: str) -> None:
        """Somebody logs in with this client id: whoever had it is out."""
        for unit in self.units:
            if unit.connected == (place, client_id):
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
        """No more faults, nobody blocked, clones gone: every device gets the power and the time that it needs."""
        self.lighten()
        for gate in self.gates.values():
            gate.fail = False
        await self.pipeline.compare_logins()
        for unit in self.units:
            unit.power.cut_at = None
            if self.rows(f"SELECT 1 FROM device WHERE serial = '{unit.serial}' AND state = 'blocked'"):
                await self.operate("unblock", unit)
        await take_away_clones(self)
        suspects = set(self.forgetful)
        for step in range(1200):
            await release_what_was_held_back(self)
            await let_in_what_is_frozen(self, suspects)
            for unit in self.units:
                if unit.client is None:
                    unit.power_up()
            await self.exchange()
            if self._all_confirmed() and not self.unfinished():
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
        """Devices that are not in service, by the database or by themselves: online on the credential that is
        confirmed, in the environment where their thing is.
        """
        where = "SELECT d.serial, t.environment, c.credential_id FROM device d"
        where += " JOIN thing t ON t.holder_device_id = d.device_id JOIN credential c ON c.device_id = d.device_id"
        there = {
            serial: ((environment, Role.OPERATIONAL), credential_id)
            for serial, environment, credential_id in self.rows(f"{where} WHERE c.state = 'confirmed'")
        }
        expected, confirmed = self.expected(), confirmed_devices(self.path)
        return [
            f"{unit.serial}: {unit.connected} {unit.client and unit.client.status}"
            for unit in self.units
            if unit.told_name in expected
            and not (
                unit.told_name in confirmed
                and unit.connected == there.get(unit.serial)
                and unit.client is not None
                and unit.client.status.state == "online"
            )
        ]
