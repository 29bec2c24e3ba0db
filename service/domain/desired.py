"""What the service wants of a device: the content of its desired document, and when its revision rises. Pure.

Owns the fields and their order; the exact bytes are made in handlers/, stored with the credential and sent from there.
Source: docs/protocol.md, section 5.
"""

from __future__ import annotations

from datetime import datetime

from service.domain.catalogue import Catalogue
from service.domain.credential import Credential
from service.domain.device import Device
from service.domain.product import Version


def target_of(device: Device, catalogue: Catalogue) -> Version | None:
    """The version that this device is to run."""
    if device.thing is None:
        return None
    product = catalogue.products.get(device.thing.product_id)
    return product.target if product is not None else None


def content(device: Device, credential: Credential, catalogue: Catalogue, now: datetime) -> dict[str, object]:
    """The document without its `rev`; empty when nothing is wanted."""
    wanted: dict[str, object] = {}
    version = target_of(device, catalogue)
    if version is not None:
        wanted["firmware"] = _firmware(version)
    if is_renewal_due(credential, now):
        # Above the number of any earlier certificate, and the same however often it is computed.
        wanted["credential"] = {"renew": int(credential.created_at.timestamp())}
    return wanted


def is_renewal_due(credential: Credential, now: datetime) -> bool:
    """Whether two thirds of its certificate's life are over."""
    expires_at = credential.certificate_expires_at
    return expires_at is not None and now >= credential.created_at + (expires_at - credential.created_at) * 2 / 3


def _firmware(version: Version) -> dict[str, object]:
    return {
        "version_id": version.version_id,
        "name": version.name,
        "description": version.description,
        "product": version.product,
        "hardware": version.hardware,
        "seq": version.seq,
        "image_id": version.image_id,
        "size": version.size,
        "signature": version.signature,
        "key_id": version.key_id,
    }


def next_rev(stored: int, reported: int | None) -> int:
    """The revision of a document that differs: above the stored one and above what the device has seen."""
    return max(stored, reported or 0) + 1
