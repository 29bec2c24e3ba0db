"""The desired document: whether one that arrives counts.

Owns the checks of mac and revision, the stored revision and the list of what this device does not support. Acts on
nothing in it. Source: docs/protocol.md, section "Desired state". Runs on MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.wire import keys, limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_SUPPORTED = ("rev", "firmware", "retired", "placement", "credential", "trust", "handshake")
_MAX_UNSUPPORTED = 16
_MAX_FIELD_CHARS = 64


class RefusedDocumentError(Exception):
    """The document does not count; `cause` is "malformed", "mac", "lower_rev" or "same_rev_other_bytes"."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Desired:
    """`rev`: the newest accepted under the credential in use, 0 before the first. `unsupported`: its unknown fields."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._credential_id = ""
        self._thing_id = ""
        self._digest = b""
        self.rev = 0
        self.unsupported: list[str] = []

    def use(self, credential: "dict[str, Any]") -> None:
        """From now on this credential speaks; the revision belongs to it."""
        self._credential_id = credential["credential_id"]
        self._thing_id = credential["thing_id"]
        self.unsupported = []
        stored = self._context.records.load("desired")
        if stored is not None and stored["credential_id"] == self._credential_id:
            self.rev = stored["rev"]
            self._digest = stored["digest"]
        else:
            self.rev = 0
            self._digest = b""

    def check(self, desired: object) -> "tuple[dict[str, Any], bytes] | None":
        """(document, its bytes) of a newer one, None for the one we have; raises RefusedDocumentError otherwise."""
        try:
            if not isinstance(desired, dict):
                raise MalformedError("desired")
            doc = fields.raw(desired, "doc")
            mac = fields.raw(desired, "mac")
            # 1. The service says this to this very credential: over the exact bytes, before they are decoded.
            if not self._context.prover.fits(keys.desired_message(self._thing_id, self._credential_id, doc), mac):
                raise RefusedDocumentError("mac")
            # 2. It is a document.
            values = fields.read_map(doc)
            rev = fields.integer(values, "rev", 1, limits.MAX_INT)
        except MalformedError:
            raise RefusedDocumentError("malformed")
        # 3. It is not older than what we have, nor another one under the same number.
        if rev < self.rev:
            raise RefusedDocumentError("lower_rev")
        if rev == self.rev:
            if self._context.crypto.sha256(doc) != self._digest:
                raise RefusedDocumentError("same_rev_other_bytes")
            return None
        return values, doc

    def accept(self, values: "dict[str, Any]", doc: bytes) -> None:
        """Store that it counts, after what it asks for was stored: power lost in between only brings it again."""
        digest = self._context.crypto.sha256(doc)
        record = {"credential_id": self._credential_id, "rev": values["rev"], "digest": digest}
        self._context.records.save("desired", record)
        self.rev = values["rev"]
        self._digest = digest
        unknown = [key for key in values if key not in _SUPPORTED]
        if self._context.product is not None:
            unknown = [key for key in unknown if key != "settings"]
        self.unsupported = sorted([key[:_MAX_FIELD_CHARS] for key in unknown])[:_MAX_UNSUPPORTED]
