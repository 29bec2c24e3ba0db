"""A manifest: what a unit gets installed in the warehouse, item by item, and what it says of each.

Values and rules, no I/O. A manifest is never changed once made. The order of installation is the wire package's, so that
service and device compute the same. Source: docs/protocol.md, section 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from device_sdk.wire import ids, limits, packer, versions
from device_sdk.wire import manifest as rules
from device_sdk.wire.canon import canon
from service.errors import Secret

MAX_SECRETS_BYTES = 4 * 1024 * 1024  # of one manifest together: the service holds them in memory while it is in use


class ManifestError(ValueError):
    """No device could work with such a manifest; the text says why, for the operator who builds it."""


class ItemKind(StrEnum):
    SOFTWARE = rules.SOFTWARE
    CONTENT = rules.CONTENT
    CERTIFICATE = rules.CERTIFICATE
    SECRET = rules.SECRET


class ItemState(StrEnum):
    PENDING = "pending"  # the device's turn in every state but the last two
    FETCHED = "fetched"  # there, and its SHA-256 is right
    INSTALLED = "installed"
    WORKING = "working"  # nobody's turn: tried, and good
    FAILED = "failed"  # the operator's turn: the device waits where it is


@dataclass(frozen=True, slots=True)
class Need:
    name: str
    at_least: str

    def __str__(self) -> str:
        return f"{self.name}>={self.at_least}"


@dataclass(frozen=True, slots=True)
class Item:
    """Its bytes are in one of three places: an image (any size), `content` (at most 16 KiB) or `secret` (1 MiB)."""

    name: str
    kind: ItemKind
    version: str
    size: int  # of the plain bytes
    sha256: str  # 64 hex, of the plain bytes
    signature: bytes  # Ed25519 by a release key over `message`
    key_id: str
    needs: tuple[Need, ...] = ()
    image_id: str | None = None
    content: bytes | None = None
    secret: Secret | None = None

    @property
    def is_sealed_image(self) -> bool:
        """A secret that each device downloads as an image of its own, sealed for it alone."""
        return self.secret is not None and self.size > limits.MAX_INLINE_BYTES

    def message(self, product: str) -> bytes:
        """The bytes that a release key signs. `product`: its name."""
        needs = rules.needs_text([(one.name, one.at_least) for one in self.needs])
        return ids.item_message(product, self.name, self.kind.value, self.version, self.size, self.sha256, needs)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`items` stand in the order in which they are installed."""

    manifest_id: str
    product_id: str
    name: str  # `static`, or the build's
    items: tuple[Item, ...] = ()

    def item(self, name: str) -> Item | None:
        return next((one for one in self.items if one.name == name), None)

    @property
    def sealed_images(self) -> tuple[Item, ...]:
        return tuple(one for one in self.items if one.is_sealed_image)

    def image(self, prefix: bytes) -> Item | None:
        """The item whose image begins with these 8 bytes of its digest; sealed ones have another for each device."""
        wanted = prefix.hex()
        return next((one for one in self.items if one.image_id and one.image_id.startswith(wanted)), None)


@dataclass(frozen=True, slots=True)
class ItemReport:
    """What a unit last said of one item."""

    name: str
    version: str
    state: ItemState
    at: datetime
    progress: int | None = None  # percent fetched
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """The settings in force at a unit's site; the values may hold payment and network secrets."""

    rev: int
    values: Mapping[str, Mapping[str, object]] = field(repr=False, hash=False)


def build(product_id: str, product: str, name: str, items: Sequence[Item]) -> Manifest:
    """The manifest of these items, in the order of installation. Raises ManifestError.

    `product` is the product's name, as it is signed; signatures are checked by who knows the release keys.
    """
    if not items or len(items) > limits.MAX_ITEMS:
        raise ManifestError(f"a manifest has 1 to {limits.MAX_ITEMS} items")
    for one in items:
        _check(one)
    entries = [(one.name, one.version, [(need.name, need.at_least) for need in one.needs]) for one in items]
    try:
        order = rules.install_order(entries)
    except rules.NeedsError as error:
        raise ManifestError(str(error)) from error
    by_name = {one.name: one for one in items}
    ordered = tuple(by_name[one] for one in order)
    made = Manifest(manifest_id(product, name, ordered), product_id, name, ordered)
    if sum(one.size for one in ordered if one.secret is not None) > MAX_SECRETS_BYTES:
        raise ManifestError(f"its secrets have more than {MAX_SECRETS_BYTES} bytes together")
    digests = {one.name: bytes(32) for one in made.sealed_images}
    if len(packer.packb(document(made, digests))) > limits.MAX_MANIFEST_BYTES:
        raise ManifestError("too many items for one manifest: put what belongs together into one image")
    return made


def document(of: Manifest, sealed: Mapping[str, bytes]) -> dict[str, object]:
    """What a device is told of it. The bytes of items come apart: images by `fetch`, all else by `item`.

    `sealed`: by name, the SHA-256 of each sealed image as it is for this device.
    """
    items = [_told(one, sealed.get(one.name)) for one in of.items]
    return {"manifest_id": of.manifest_id, "name": of.name, "items": items}


def _told(item: Item, sealed: bytes | None) -> dict[str, object]:
    told: dict[str, object] = {
        "name": item.name,
        "kind": item.kind.value,
        "version": item.version,
        "size": item.size,
        "sha256": bytes.fromhex(item.sha256),
        "signature": item.signature,
        "key_id": item.key_id,
    }
    if item.needs:
        told["needs"] = [[one.name, one.at_least] for one in item.needs]
    if item.image_id is not None or item.is_sealed_image:
        told["image"] = True
    if item.is_sealed_image:
        told["sealed"] = sealed
    return told


def manifest_id(product: str, name: str, items: Sequence[Item]) -> str:
    """64 hex over all that a device acts on."""
    signed = [part for one in items for part in (one.message(product), one.signature)]
    return hashlib.sha256(canon("pv1 manifest id", product, name, *signed)).hexdigest()


def all_work(manifest: Manifest, reports: Mapping[str, ItemReport]) -> bool:
    """Whether the unit said of every item, in this very version, that it works."""
    return not not_working(manifest, reports)


def not_working(manifest: Manifest, reports: Mapping[str, ItemReport]) -> tuple[str, ...]:
    found = []
    for one in manifest.items:
        said = reports.get(one.name)
        if said is None or (said.version, said.state) != (one.version, ItemState.WORKING):
            found.append(one.name)
    return tuple(found)


def _check(item: Item) -> None:
    if not ids.is_item_name(item.name):
        raise ManifestError(f"{item.name!r}: an item's name is 1-{limits.MAX_ITEM_NAME_CHARS} of A-Z a-z 0-9 . _ -")
    for version in (item.version, *(one.at_least for one in item.needs)):
        if not versions.is_version(version):
            raise ManifestError(f"{item.name}: {version!r} is no version; it is numbers with dots between, as 2.10.3")
    if len(item.needs) > limits.MAX_NEEDS:
        raise ManifestError(f"{item.name}: needs more than {limits.MAX_NEEDS} others")
    places = [one for one in (item.image_id, item.content, item.secret) if one is not None]
    if len(places) != 1 or (item.kind is ItemKind.SECRET) != (item.secret is not None):
        raise ManifestError(f"{item.name}: its bytes are an image, content or, of kind secret only, a secret")
    _check_size(item)
    if item.image_id is not None and item.image_id != item.sha256:
        raise ManifestError(f"{item.name}: its image is another than its SHA-256 says")


def _check_size(item: Item) -> None:
    if item.size < 1:
        raise ManifestError(f"{item.name}: has no bytes")
    if item.secret is not None and item.size > limits.MAX_SECRET_BYTES:
        raise ManifestError(f"{item.name}: a secret has at most {limits.MAX_SECRET_BYTES} bytes")
    if item.content is not None and item.size > limits.MAX_INLINE_BYTES:
        raise ManifestError(f"{item.name}: over {limits.MAX_INLINE_BYTES} bytes it must be an image of its own")
