"""A manifest as the device takes it: read, checked, and put into the order of installation.

Owns the checks before the first item is fetched. Fetches and stores nothing. Source: docs/protocol.md, section "The
manifest". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.core.release import RefusedReleaseError, check_signature
from device_sdk.wire import ids, limits, versions
from device_sdk.wire.manifest import KINDS, SECRET, NeedsError, install_order, needs_text

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_MAX_SIZE = 1 << 40
_DIGEST_BYTES = 32
_SIGNATURE_BYTES = 64


class RefusedManifestError(Exception):
    """Nothing of this manifest may be installed; `cause` is the lower_snake word, `item` the one it is about."""

    def __init__(self, cause: str, item: "dict[str, Any] | None" = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.item = item


def read(doc: bytes) -> "dict[str, Any]":
    """{"manifest_id", "items", "values"} of a document whose mac was right. Raises MalformedError.

    An item is a map of name, kind, version, size, sha256 (64 hex), image (whether it is one), needs, signature, key_id;
    and, of what comes by `fetch`, image_id and image_size: those of the sealed bytes where it is a secret.
    """
    values = fields.read_map(doc)
    manifest_id = fields.text(values, "manifest_id", limits.IMAGE_ID_HEX_CHARS)
    items = values.get("items")
    if not ids.is_image_id(manifest_id) or not isinstance(items, (list, tuple)):
        raise MalformedError("manifest")
    if not 1 <= len(items) <= limits.MAX_ITEMS:
        raise MalformedError("items")
    settings = values.get("settings")
    site = fields.submap(settings, "values") if isinstance(settings, dict) else {}
    return {"manifest_id": manifest_id, "items": [_item(one) for one in items], "values": site}


def ordered(context: "Context", items: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    """The items in the order of installation, every one signed for this product. Raises RefusedManifestError."""
    for item in items:
        needs = needs_text(item["needs"])
        message = ids.item_message(
            context.identity.product,
            item["name"],
            item["kind"],
            item["version"],
            item["size"],
            item["sha256"],
            needs,
        )
        try:
            check_signature(context, item["key_id"], message, item["signature"])
        except RefusedReleaseError as refusal:
            raise RefusedManifestError(refusal.cause, item)
    try:
        order = install_order([(item["name"], item["version"], item["needs"]) for item in items])
    except NeedsError as error:
        raise RefusedManifestError(error.cause, items[0])
    by_name = {item["name"]: item for item in items}
    return [by_name[name] for name in order]


def _item(value: object) -> "dict[str, Any]":
    if not isinstance(value, dict):
        raise MalformedError("item")
    name = fields.text(value, "name", limits.MAX_ITEM_NAME_CHARS)
    kind = fields.text(value, "kind", 16)
    version = fields.text(value, "version", 80)
    digest = fields.raw(value, "sha256")
    signature = fields.raw(value, "signature")
    image = value.get("image") is True
    size = fields.integer(value, "size", 1, _max_size(kind, image))
    if not ids.is_item_name(name) or kind not in KINDS or not versions.is_version(version):
        raise MalformedError("item")
    if len(digest) != _DIGEST_BYTES or len(signature) != _SIGNATURE_BYTES:
        raise MalformedError("item")
    streamed, streamed_bytes = digest, size
    if image and kind == SECRET:
        streamed, streamed_bytes = fields.raw(value, "sealed"), size + limits.SEAL_BYTES
        if len(streamed) != _DIGEST_BYTES:
            raise MalformedError("item")
    return {
        "name": name,
        "kind": kind,
        "version": version,
        "size": size,
        "sha256": ids.hex_of(digest),
        "image": image,
        "image_id": ids.hex_of(streamed),
        "image_size": streamed_bytes,
        "needs": _needs(value.get("needs")),
        "signature": signature,
        "key_id": fields.text(value, "key_id", limits.ID_HEX_CHARS),
    }


def _max_size(kind: str, image: bool) -> int:
    if not image:
        return limits.MAX_INLINE_BYTES
    return limits.MAX_SECRET_BYTES if kind == SECRET else _MAX_SIZE


def _needs(value: object) -> "list[tuple[str, str]]":
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) > limits.MAX_NEEDS:
        raise MalformedError("needs")
    found: list[tuple[str, str]] = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise MalformedError("needs")
        name, lowest = pair[0], pair[1]
        if not isinstance(name, str) or not ids.is_item_name(name) or not versions.is_version(lowest):
            raise MalformedError("needs")
        found.append((name, lowest))
    return found
