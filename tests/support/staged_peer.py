"""A unit in a warehouse by hand, on the pipeline of pipeline_site: its manifest, its secrets, its site's settings."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from device_sdk.wire import keys, topics
from service.domain import manifest
from service.domain.device import Device
from service.domain.manifest import Item, ItemKind, Manifest, Need, SiteSettings
from service.domain.staging import Unit
from service.domain.warehouse import DeviceType, Equipment, Step
from service.errors import Secret
from service.mqtt.port import Role
from tests.support.fake_link import START
from tests.support.pipeline_site import IMAGE, Peer, registered

SECRET = b"the licence key of every tablet of this build"
CERTIFICATE = (
    b"-----BEGIN CERTIFICATE-----\n" + b"MIIB" * 2600 + b"\n-----END CERTIFICATE-----\n"
)  # more than one piece
VALUES = {
    "features": {"kiosk": True},
    "payment": {"terminal": "T1"},
    "network": {"ssid": "hall", "key": "salt-and-sea"},
}
SITE = SiteSettings(3, VALUES)


def item(name: str, data: bytes, kind: ItemKind = ItemKind.CONTENT, version: str = "1.0", needs=(), **fields) -> Item:
    given = {"content": data, **fields}
    return Item(
        name, kind, version, len(data), hashlib.sha256(data).hexdigest(), bytes(64), "0" * 32,
        tuple(Need(*one) for one in needs), **given,
    )  # fmt: skip


def build(*items: Item, name: str = "build-7") -> Manifest:
    return manifest.build("thermometer", "Thermometer", name, items)


FIRMWARE = item("app", IMAGE, ItemKind.SOFTWARE, "2.1", [("ca", "1"), ("licence", "1")],
                content=None, image_id=hashlib.sha256(IMAGE).hexdigest())  # fmt: skip
LICENCE = item("licence", SECRET, ItemKind.SECRET, "1.2", content=None, secret=Secret(SECRET))
AUTHORITY = item("ca", CERTIFICATE, ItemKind.CERTIFICATE, "1.0")
BUILD = build(FIRMWARE, LICENCE, AUTHORITY)


def unit(
    serial: str = "sn-1", offered: Manifest | None = BUILD, settings: SiteSettings | None = SITE, **fields
) -> Unit:
    given = {"step": Step.RECEIVED, "step_at": START, "device_id": f"dev-line-1-{serial}", "site": "hall-1", **fields}
    of_type = DeviceType("tablet", "line-1", warehouse_settings=("network.ssid",))
    return Unit(Equipment("line-1", serial, "tablet", **given), of_type, offered, settings=settings)


def handed_over(serial: str = "sn-1", **fields) -> Device:
    of_device = {name: fields.pop(name) for name in ("public_keys", "key") if name in fields}
    return registered(serial, unit=unit(serial, **fields), **of_device)


class StagedPeer(Peer):
    """Peer, with the warehouse's verbs."""

    at_role = Role.WAREHOUSE  # whose link takes its `stage`
    manifest: dict

    async def ask_raw(self, space: str, verb: str, payload: bytes) -> bytes:
        if space != "b" or self.at_role is not Role.WAREHOUSE:
            return await super().ask_raw(space, verb, payload)
        link = self.site.links[self.at, Role.WAREHOUSE]
        root = "warehouse/pv1"
        link.send(topics.up("b", self.session, verb, root), payload)
        return await link.next(topics.down("b", self.session, verb, root))

    def stage_body(self, server_nonce: bytes, **claim) -> dict:
        body = self.activate_body(server_nonce, **claim)
        proof = keys.hmac_sha256(self.key, keys.stage_message(self.session, server_nonce, self.claim))
        return {**body, "proof": proof}

    async def stage(self, **claim) -> dict:
        """Hello and stage; on success credential and manifest are taken."""
        server_nonce = await self.hello()
        reply = await self.ask("b", "stage", self.stage_body(server_nonce, **claim))
        if reply["ok"]:
            grant = self.raw(reply["grant"])
            message = keys.stage_granted_message(self.session, server_nonce, self.claim, grant)
            assert self.raw(reply["server_proof"]) == keys.hmac_sha256(self.key, message)
            self.grant = self.unpack(grant)
            self.credential_id = self.grant["credential_id"]
            self.manifest = self.signed(reply["manifest"], keys.manifest_message)
        return reply

    def signed(self, document: dict, message) -> dict:
        """The content of {doc, mac}, its mac checked."""
        doc = self.raw(document["doc"])
        mac = keys.hmac_sha256(self.key, message(self.grant["thing_id"], self.credential_id, doc))
        assert self.raw(document["mac"]) == mac
        return self.unpack(doc)

    async def say(self, name: str, version: str, state: str, **fields) -> dict:
        return await self.report(item={"name": name, "version": version, "state": state, **fields})

    async def all_work(self) -> None:
        for one in self.manifest["items"]:
            assert (await self.say(one["name"], one["version"], "working"))["ok"]

    async def staged(self, **fields) -> dict:
        self.n += 1
        body = {"n": self.n, "boot_count": self.boot_count, "manifest_id": self.manifest["manifest_id"], **fields}
        return await self.ask("c", "staged", body)

    async def bytes_of(self, name: str) -> bytes:
        """An item that is no image, piece by piece."""
        content = b""
        while True:
            reply = await self.ask("c", "item", {"name": name, "offset": len(content)})
            assert reply["ok"], reply
            assert 0 < len(reply["data"]) <= 8192
            content += reply["data"]
            if len(content) == reply["size"]:
                return content

    def opened(self, name: str, version: str, sealed: bytes) -> bytes:
        return AESGCM(keys.item_key(self.key, name, version)).decrypt(sealed[:12], sealed[12:], None)


def step_of(site, serial: str = "sn-1") -> Step:
    return site.store.device("line-1", serial).unit.equipment.step


def change_unit(site, serial: str = "sn-1", /, **fields) -> None:
    """As an operator's command does."""
    device = site.store.device("line-1", serial)
    of_unit = {name: fields.pop(name) for name in ("items", "settings", "offered", "manifest") if name in fields}
    equipment = replace(device.unit.equipment, **fields)
    site.store.add(replace(device, unit=replace(device.unit, equipment=equipment, **of_unit)))
