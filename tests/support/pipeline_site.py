"""A pipeline over fakes with one product, two groups and devices that speak the protocol by hand."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import msgpack

from device_sdk.wire import ids, keys, topics
from service.credentials.keyfile import KeyFile
from service.domain.catalogue import Catalogue, Endpoint, Environment
from service.domain.credential import Credential, CredentialKind, CredentialState
from service.domain.device import Device, DeviceState
from service.domain.group import Group, Reactivation
from service.domain.product import Product, Version
from service.errors import Secret
from service.mqtt.port import Role
from service.pipeline.bounds import Bounds
from service.pipeline.hooks import no_hooks
from service.pipeline.service import Pipeline
from service.protocol import encode
from tests.support.fake_link import START, FakeClock, FakeGate, FakeLink, FakeUpkeep
from tests.support.fake_store import FakeStore

IMAGE = bytes(range(256)) * 40 + b"the rest"  # 41 chunks of 256 bytes, the last of 8
IMAGE_ID = hashlib.sha256(IMAGE).hexdigest()
QUICK = Bounds(session_burst=1000, credential_burst=1000, serial_burst=1000)


def version(name: str = "2.0", seq: int = 2, image_id: str = IMAGE_ID, size: int = len(IMAGE)) -> Version:
    return Version(
        ids.version_id("Thermometer", "rev-b", name, seq, image_id, size),
        "thermometer", name, f"Release {name}", "Thermometer", "rev-b", seq, image_id, size, bytes(64), "0" * 32,
    )  # fmt: skip


OLD, NEW = version("1.0", 1), version()


def group(group_id: str = "line-1", **fields) -> Group:
    given = {"default_ou": "acme", "default_environment": "prod", "reactivation": Reactivation.OPEN}
    return Group(group_id, "thermometer", **{**given, **fields})


def catalogue(*groups: Group, target: Version | None = NEW, kinds=(CredentialKind.API_KEY,), tls=False) -> Catalogue:
    endpoints = {kind: Endpoint("broker.example", 8883, tls) for kind in kinds}
    return Catalogue(
        rev=1,
        groups={one.group_id: one for one in groups or (group(),)},
        products={"thermometer": Product("thermometer", "Thermometer", "rev-b", target)},
        environments={"prod": Environment("prod", endpoints, "CA" if tls else None)},
        versions={one.version_id: one for one in (OLD, NEW)},
    )


def registered(serial: str = "sn-1", group_id: str = "line-1", **fields) -> Device:
    key = Secret(hashlib.sha256(serial.encode()).digest())
    given = {"device_id": f"dev-{group_id}-{serial}", "state": DeviceState.REGISTERED, "registered_at": START}
    return Device(**{**given, "group_id": group_id, "serial": serial, "key": key, **fields})


def pending(number: int, **fields) -> Credential:
    given = {
        "credential_id": f"{number:032x}", "device_id": "dev", "kind": CredentialKind.API_KEY,
        "state": CredentialState.PENDING, "environment": "prod", "created_at": START,
        "expires_at": START + timedelta(hours=1), "boot_count": 1, "nonce": bytes(16), "server_nonce": bytes(16),
        "grant": b"", "encoding": "msgpack",
    }  # fmt: skip
    return Credential(**{**given, **fields})


def holding(*rows):
    return registered(state=DeviceState.ACTIVATED, credentials=tuple(rows))


class MemoryImages:
    def __init__(self, *images: bytes) -> None:
        self.images = {hashlib.sha256(one).hexdigest(): one for one in images or (IMAGE,)}
        self.reads = 0

    def open(self, image_id: str):
        files = self

        class Open:
            def read(self, offset: int, length: int) -> bytes:
                files.reads += 1
                return files.images[image_id][offset : offset + length]

            def close(self) -> None:
                pass

        return Open()


class Site:
    """The pipeline and everything around it."""

    def __init__(
        self, keys_: KeyFile, store: FakeStore, bounds: Bounds, authorities=None, images=None, hook=no_hooks
    ) -> None:
        self.clock = FakeClock()
        self.store = store
        self.upkeep = FakeUpkeep(store)
        self.gate = FakeGate()
        self.gates = {name: self.gate if name == "prod" else FakeGate() for name in store.catalogue.environments}
        self.links = {(name, role): FakeLink(role, name) for name in self.gates for role in Role}
        self.boot, self.op = self.links["prod", Role.BOOTSTRAP], self.links["prod", Role.OPERATIONAL]
        self.keys = keys_
        self.images = images or MemoryImages()
        self.pipeline = Pipeline(
            store=store,
            upkeep=self.upkeep,
            gates=self.gates,
            images=self.images,
            keys=keys_,
            authorities=authorities or {},
            bounds=bounds,
            clock=self.clock.wall,
            monotonic=self.clock.monotonic,
            ask_hook=hook,
        )
        for link in self.links.values():
            link.deliver = self.pipeline.deliver
            self.pipeline.attach(link)

    def counted(self, name: str) -> int:
        self.pipeline.record.count()
        return self.pipeline.record._counters[name] + self.store.counters[name] + self.upkeep.counters.get(name, 0)

    def set_catalogue(self, new: Catalogue) -> None:
        self.store.catalogue = replace(new, rev=self.store.catalogue.rev + 1)

    async def settle(self) -> None:
        """Until nothing waits and nothing is under way."""
        for _ in range(3):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while not (self.pipeline.idle and self.pipeline.streamer.idle):
                await asyncio.sleep(0.001)


_KEYS = {}


def keyfile(folder) -> KeyFile:
    if "one" not in _KEYS:
        _KEYS["one"] = KeyFile.create(folder / "keys.json")
    return _KEYS["one"]


@asynccontextmanager
async def running(folder, *, devices=None, world=None, bounds=None, authorities=None, images=None, hook=no_hooks):
    """A site whose pipeline runs; at the end nothing may be left."""
    store = FakeStore(world or catalogue())
    for one in (registered(),) if devices is None else devices:
        store.add(one)
    site = Site(keyfile(folder), store, bounds or Bounds(), authorities, images, hook)
    task = asyncio.create_task(site.pipeline.run())
    await asyncio.sleep(0)
    try:
        yield site
    finally:
        task.cancel()
        with_error = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(with_error[0], asyncio.CancelledError):
            raise with_error[0]


class Peer:
    """A device by hand: MessagePack or JSON, no retries, no checks of its own but those of a test."""

    def __init__(self, site: Site, serial="sn-1", group_id="line-1", key=None, encoding="msgpack") -> None:
        self.site = site
        self.serial, self.group_id = serial, group_id
        self.key = key if key is not None else hashlib.sha256(serial.encode()).digest()
        self.encoding = encoding
        self.session = hashlib.sha256(f"{serial} session".encode()).hexdigest()[:32]
        self.nonce = hashlib.sha256(f"{serial} nonce".encode()).digest()[:16]
        self.boot_count, self.n, self.requests = 1, 0, 0
        self.credential_id = ""
        self.grant: dict = {}
        self.at = "prod"  # whose brokers it speaks to
        self.claim = b""

    def unpack(self, payload: bytes) -> dict:
        if self.encoding == "json":
            return encode.unpack(payload)
        return msgpack.unpackb(payload)

    def raw(self, value) -> bytes:
        """A byte field of a reply."""
        import base64

        return value if isinstance(value, bytes) else base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))

    def pack(self, body: dict) -> bytes:
        return encode.pack(body, self.encoding)

    async def ask(self, space: str, verb: str, body: dict) -> dict:
        self.requests += 1
        body = {"id": str(self.requests), **body}
        return self.unpack(await self.ask_raw(space, verb, self.pack(body)))

    async def ask_raw(self, space: str, verb: str, payload: bytes) -> bytes:
        link = self.site.links[self.at, Role.BOOTSTRAP if space == "b" else Role.OPERATIONAL]
        owner = self.session if space == "b" else self.credential_id
        link.send(topics.up(space, owner, verb), payload)
        return await link.next(topics.down(space, owner, verb))

    async def hello(self, space: str = "b") -> bytes:
        reply = await self.ask(space, "hello", {"group_id": self.group_id, "serial": self.serial, "nonce": self.nonce})
        assert reply["ok"], reply
        return self.raw(reply["server_nonce"])

    def activate_body(self, server_nonce: bytes, space: str = "b", **claim) -> dict:
        owner = self.session if space == "b" else self.credential_id
        self.claim = self.pack(
            {
                "group_id": self.group_id,
                "serial": self.serial,
                "nonce": self.nonce,
                "boot_count": self.boot_count,
                "caps": [],
                **claim,
            }
        )
        proof = keys.activate_proof(self.key, owner, server_nonce, self.claim)
        return {"claim": self.claim, "server_nonce": server_nonce, "proof": proof}

    async def activate(self, space: str = "b", **claim) -> dict:
        """Hello and activate; on success the credential is taken."""
        owner = self.session if space == "b" else self.credential_id
        server_nonce = await self.hello(space)
        reply = await self.ask(space, "activate", self.activate_body(server_nonce, space, **claim))
        if reply["ok"]:
            grant = self.raw(reply["grant"])
            expected = keys.activated_proof(self.key, owner, server_nonce, self.claim, grant)
            assert self.raw(reply["server_proof"]) == expected
            self.grant = self.unpack(grant)
            assert self.grant["credential_id"] == ids.credential_id(owner, server_nonce, self.claim)
            self.credential_id = self.grant["credential_id"]
        return reply

    async def online(self, **fields) -> dict:
        self.n += 1
        body = {"n": self.n, "boot_count": self.boot_count, "desired_rev": 0, "caps": [], **fields}
        return await self.ask("c", "online", body)

    async def report(self, **fields) -> dict:
        self.n += 1
        return await self.ask("c", "report", {"n": self.n, "desired_rev": 0, **fields})

    def document(self, desired: dict) -> dict:
        """The doc of a reply or push, its mac checked."""
        doc = self.raw(desired["doc"])
        mac = keys.desired_mac(self.key, self.grant["thing_id"], self.credential_id, doc)
        assert self.raw(desired["mac"]) == mac
        return self.unpack(doc)


def credentials(site, serial="sn-1"):
    return site.store.device("line-1", serial).credentials
