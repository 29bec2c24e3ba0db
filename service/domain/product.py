"""Products, their versions and the release keys that sign them. Values only. Source: docs/protocol.md, section 5."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    """One firmware version. `signature` is the offline Ed25519 release signature over ids.image_message(...)."""

    version_id: str
    product_id: str
    name: str
    description: str
    product: str  # the product's name, as signed
    hardware: str
    seq: int
    image_id: str
    size: int
    signature: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Product:
    product_id: str  # lower-case word used on the command line, e.g. "thermometer"
    name: str  # what people read and things are named after, e.g. "Thermometer"
    hardware: str
    target: Version | None = None


def name_of(product: Product, number: int) -> str:
    """What the product's thing of that number is called at first, for example `Thermometer 2`."""
    return f"{product.name} {number}"


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    key_id: str
    public_key: bytes  # 32 raw Ed25519 bytes
    name: str


@dataclass(frozen=True, slots=True)
class Endorsement:
    """One release key vouches for another: it signed ids.endorsement_message(public_key)."""

    public_key: bytes  # 32 raw Ed25519 bytes, of the key that is vouched for
    by: str  # key_id of the one that vouches
    signature: bytes
