"""The requests of protocol version 1, as strict models: what a field may be, and nothing of what it means.

Owns types, characters and bounds. Validation errors never leave decode.py, because they could hold input. `RAW` names
the fields that are bytes: JSON carries them as base64url. Source: docs/protocol.md, sections 3 to 6.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from device_sdk.wire import limits
from service.domain.device import FirmwareState
from service.domain.manifest import ItemState

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"

Int = Annotated[int, Field(ge=0, le=limits.MAX_INT)]
Id = Annotated[str, Field(min_length=1, max_length=limits.MAX_ID_CHARS, pattern=r"^[ -~]+$")]
GroupId = Annotated[str, Field(max_length=limits.MAX_GROUP_ID_CHARS, pattern=r"^[A-Za-z0-9._-]+$")]
Serial = Annotated[str, Field(max_length=limits.MAX_SERIAL_CHARS, pattern=r"^[A-Za-z0-9._:-]+$")]
HexId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ImageId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ItemName = Annotated[str, Field(max_length=limits.MAX_ITEM_NAME_CHARS, pattern=r"^[A-Za-z0-9._-]+$")]
Version = Annotated[str, Field(max_length=80, pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,7}$")]
Nonce = Annotated[bytes, Field(min_length=limits.NONCE_BYTES, max_length=limits.NONCE_BYTES)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]
Cause = Annotated[str, Field(max_length=256)]
Word = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[ -~]+$")]
Caps = Annotated[list[Word], Field(max_length=32)]
# RSA-PSS with a 4096-bit key makes the longest signature.
Proof = Annotated[bytes, Field(min_length=1, max_length=512)]


class Model(BaseModel):
    """Strict, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)
    RAW: ClassVar[tuple[str, ...]] = ()


class Hello(Model):
    RAW = ("nonce",)
    id: Id
    group_id: GroupId
    serial: Serial
    nonce: Nonce


class Running(Model):
    """What runs now; no version_id for what the factory put there."""

    version_id: HexId | None = None
    name: Name | None = None


class Claim(Model):
    RAW = ("nonce", "csr")
    group_id: GroupId
    serial: Serial
    nonce: Nonce
    boot_count: Int
    firmware: Running | None = None
    csr: Annotated[bytes, Field(min_length=1, max_length=4096)] | None = None
    model: Name | None = None
    attributes: Annotated[dict[Word, Annotated[str, Field(max_length=256)]], Field(max_length=32)] | None = None
    key_index: Annotated[int, Field(ge=0, lt=limits.MAX_PUBLIC_KEYS)] | None = None
    caps: Caps


class Activate(Model):
    RAW = ("claim", "server_nonce", "proof")
    id: Id
    claim: Annotated[bytes, Field(min_length=1)]
    server_nonce: Nonce
    proof: Proof


class Stage(Activate):
    """The same fields; another word in the proof says which is meant."""


class Online(Model):
    id: Id
    n: Int
    boot_count: Int
    firmware: Running | None = None
    desired_rev: Int
    caps: Caps


class FirmwareReport(Model):
    state: Annotated[FirmwareState, Field(strict=False)]
    version_id: HexId | None = None
    progress: Annotated[int, Field(ge=0, le=100)] | None = None
    cause: Cause | None = None
    until_s: Int | None = None  # deferred: ask again in so many seconds


class SettingsReport(Model):
    rev: Int
    state: Word
    cause: Cause | None = None


class PlacementReport(Model):
    state: Word
    environment: Annotated[str, Field(max_length=256)] | None = None
    cause: Cause | None = None


class ItemSaid(Model):
    name: ItemName
    version: Version
    state: Annotated[ItemState, Field(strict=False)]
    progress: Annotated[int, Field(ge=0, le=100)] | None = None
    cause: Cause | None = None


class Report(Model):
    id: Id
    n: Int
    boot_count: Int | None = None
    desired_rev: Int
    firmware: FirmwareReport | None = None
    settings: SettingsReport | None = None
    placement: PlacementReport | None = None
    moving: HexId | None = None
    item: ItemSaid | None = None
    site: SettingsReport | None = None
    unsupported: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)] | None = None


class Fetch(Model):
    """Bounds of the range are not checked here: a wrong one is RANGE, not BAD_REQUEST."""

    RAW = ("image", "bitmap")
    id: Id
    image: Annotated[bytes, Field(min_length=8, max_length=8)]
    stream: Annotated[int, Field(ge=0, le=255)]
    chunk_size: Int
    first: Int
    count: Int | None = None
    bitmap: bytes | None = None


class Item(Model):
    """One piece of an item that is no image of its own."""

    id: Id
    name: ItemName
    offset: Int


class Staged(Model):
    id: Id
    n: Int
    boot_count: Int | None = None
    manifest_id: ImageId


class Handshake(Model):
    id: Id
    settings_rev: Int


class Target(Model):
    id: Id


class Current(Model):
    id: Id


class Installed(Model):
    id: Id
    n: Int
    boot_count: Int | None = None
    version_id: HexId


class Rename(Model):
    id: Id
    n: Int
    boot_count: Int | None = None
    name: Name


Request = Hello | Activate | Online | Report | Fetch | Item | Staged | Handshake | Target | Current | Installed | Rename

# `stage` is read everywhere, so that its sender can be told where it is meant for.
BOOTSTRAP: dict[str, type[Model]] = {"hello": Hello, "activate": Activate, "stage": Stage}
WAREHOUSE: dict[str, type[Model]] = {"hello": Hello, "stage": Stage}
OPERATIONAL: dict[str, type[Model]] = {
    **BOOTSTRAP,
    "online": Online,
    "report": Report,
    "fetch": Fetch,
    "item": Item,
    "staged": Staged,
    "handshake": Handshake,
    "target": Target,
    "current": Current,
    "installed": Installed,
    "rename": Rename,
}
