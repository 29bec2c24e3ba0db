"""Whether a firmware version that is offered may run here.

Owns the checks before the first byte is fetched, in their order. Fetches and stores nothing.
Source: docs/protocol.md, section "Firmware". Runs on MicroPython.
"""

from device_sdk.core import fields, signatures
from device_sdk.core.fields import MalformedError
from device_sdk.core.ports import NoEd25519Error, WrongSignatureError
from device_sdk.wire import ids, limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_MAX_NAME_CHARS = 128
_MAX_SIZE = 1 << 40
_SIGNATURE_BYTES = 64


class RefusedReleaseError(Exception):
    """The version may not run here; `cause` is the lower_snake word that the device reports."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def check_release(context: "Context", offer: object, highest_seq: int) -> "dict[str, Any]":
    """What to keep of an offered version: version_id, name, seq, image_id, size. Raises RefusedReleaseError.

    `highest_seq` is the highest that was confirmed on this device.
    """
    # 1. It is well formed.
    try:
        version, hardware, product, signature, key_id = _read(offer)
    except MalformedError:
        raise RefusedReleaseError("malformed_firmware")
    # 2. It is meant for this product and hardware.
    if product != context.identity.product:
        raise RefusedReleaseError("wrong_product")
    if hardware != context.identity.hardware:
        raise RefusedReleaseError("wrong_hardware")
    # 3. Its id is the one that its content computes.
    message = ids.image_message(
        product, hardware, version["name"], version["seq"], version["image_id"], version["size"]
    )
    if ids.digest_id(message) != version["version_id"]:
        raise RefusedReleaseError("wrong_version_id")
    # 4. A release key that we know signed it. Where there never was one, or Ed25519 is out of reach, mac and SHA-256
    #    decide; a device whose last key was taken away runs nothing new.
    check_signature(context, key_id, message, signature)
    # 5. No way back to an older release.
    if version["seq"] < highest_seq:
        raise RefusedReleaseError("lower_seq")
    return version


def check_signature(context: "Context", key_id: str, message: bytes, signature: bytes) -> None:
    """That a release key that counts here signed these bytes, as far as this device can tell. Raises RefusedReleaseError."""
    if context.must_be_signed:
        known = [key for key in context.release_keys if ids.release_key_id(key) == key_id]
        if not known:
            raise RefusedReleaseError("unknown_release_key")
        try:
            signatures.verify(context.crypto, known[0], message, signature)
        except NoEd25519Error:
            pass
        except WrongSignatureError:
            raise RefusedReleaseError("wrong_signature")


def _read(offer: object) -> "tuple[dict[str, Any], str, str, bytes, str]":
    if not isinstance(offer, dict):
        raise MalformedError("firmware")
    version_id = fields.text(offer, "version_id", limits.ID_HEX_CHARS)
    image_id = fields.text(offer, "image_id", limits.IMAGE_ID_HEX_CHARS)
    version = {
        "version_id": version_id,
        "name": fields.text(offer, "name", _MAX_NAME_CHARS),
        "seq": fields.integer(offer, "seq", 0, limits.MAX_INT),
        "image_id": image_id,
        "size": fields.integer(offer, "size", 1, _MAX_SIZE),
    }
    signature = fields.raw(offer, "signature")
    if not ids.is_hex_id(version_id) or not ids.is_image_id(image_id):
        raise MalformedError("firmware")
    if len(signature) != _SIGNATURE_BYTES or not version["name"]:
        raise MalformedError("firmware")
    hardware = fields.text(offer, "hardware", _MAX_NAME_CHARS)
    product = fields.text(offer, "product", _MAX_NAME_CHARS)
    return version, hardware, product, signature, fields.text(offer, "key_id", limits.ID_HEX_CHARS)
