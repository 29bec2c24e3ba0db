"""Which release keys count, and how one comes to count that the factory did not put in.

Owns record "signers". A key that the service names counts only when a key that counts already, or one that leads there,
has endorsed it: whoever takes the service over can take keys away, but add none. The order of endorsements does not
matter. Source: docs/protocol.md, section "Trust". Runs on MicroPython.
"""

from device_sdk.core import fields, signatures
from device_sdk.core.fields import MalformedError
from device_sdk.core.ports import NoEd25519Error, WrongSignatureError
from device_sdk.wire import ids, limits

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

MAX_KEYS = 8
MAX_ENDORSEMENTS = 16
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


class ReleaseKeys:
    """Keeps context.release_keys and context.must_be_signed.

    `_known`: keys that were taken besides the factory's. `_gone`: ids of factory keys that were left out of a list in
    which another key stayed; they need an endorsement like any other. `_listed`: the keys in force, None before the
    first list.
    """

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._known: list[bytes] = []
        self._gone: list[str] = []
        self._listed: list[bytes] | None = None

    def load(self, older: "dict[str, Any] | None") -> None:
        """`older`: record "trust", which held the keys before they had a record of their own."""
        stored = self._context.records.load("signers")
        if stored is None:
            if older is not None and "signed" in older:
                self._take_over(older)
            return
        self._known, self._gone, self._listed = stored["known"], stored["gone"], stored["listed"]
        self._context.must_be_signed = self._context.must_be_signed or stored["signed"]
        if self._listed is not None:
            self._context.release_keys = list(self._listed)

    def offer(self, listed: "list[bytes]", endorsements: "list[dict[str, Any]]") -> None:
        """All keys that the service trusts, and who vouches for whom; both checked by `read`."""
        factory = [one for one in self._context.identity.release_keys if ids.release_key_id(one) not in self._gone]
        roots = factory + self._known
        if not roots and not self._context.must_be_signed:
            # The first of a device that never had one: until now it ran what the service alone vouched for.
            trusted = list(listed)
        else:
            trusted = self._reached(roots, listed, endorsements)
        in_force = [one for one in listed if one in trusted]
        for one in listed:
            if one not in in_force:
                self._context.trouble("release_key_not_endorsed", ids.release_key_id(one))
        known, gone = self._known, self._gone
        if in_force:
            of_factory = self._context.identity.release_keys
            known = [one for one in in_force if one not in of_factory]
            gone = sorted([ids.release_key_id(one) for one in of_factory if one not in in_force])
        # Else none counts now, but each is remembered: the way back is to list one of them, or one that they endorse.
        if (known, gone, in_force) != (self._known, self._gone, self._listed):
            self._save(known, gone, in_force)

    def _take_over(self, older: "dict[str, Any]") -> None:
        known = list(older["now"]["release_keys"])
        if older["before"] is not None:
            known += [one for one in older["before"]["release_keys"] if one not in known]
        self._context.must_be_signed = self._context.must_be_signed or older["signed"]
        try:
            self._save(known, [], known + [one for one in self._context.release_keys if one not in known])
        except OSError as error:
            self._context.trouble("flash_error", str(error))

    def _reached(
        self, roots: "list[bytes]", listed: "list[bytes]", endorsements: "list[dict[str, Any]]"
    ) -> "list[bytes]":
        """The keys that the roots lead to. Each endorsement is verified once at most, and none more than needed."""
        found = list(roots)
        left = [one for one in endorsements if one["key"] not in found]
        while [one for one in listed if one not in found]:
            known_as = [ids.release_key_id(one) for one in found]
            ready = [one for one in left if one["by"] in known_as]
            if not ready:
                break
            left = [one for one in left if one["by"] not in known_as]
            for one in ready:
                if one["key"] not in found and self._holds(one, found[known_as.index(one["by"])]):
                    found.append(one["key"])
        return found

    def _holds(self, endorsement: "dict[str, Any]", by: bytes) -> bool:
        """A device that cannot verify Ed25519 relies on the service here as it does for releases."""
        message = ids.endorsement_message(endorsement["key"])
        try:
            signatures.verify(self._context.crypto, by, message, endorsement["signature"])
        except NoEd25519Error:
            return True
        except WrongSignatureError:
            return False
        return True

    def _save(self, known: "list[bytes]", gone: "list[str]", in_force: "list[bytes]") -> None:
        signed = self._context.must_be_signed or bool(in_force)
        self._context.records.save("signers", {"known": known, "gone": gone, "listed": in_force, "signed": signed})
        self._known, self._gone, self._listed = known, gone, in_force
        self._context.must_be_signed = signed
        self._context.release_keys = list(in_force)


def read(offer: "dict[str, Any]") -> "tuple[list[bytes] | None, list[dict[str, Any]]]":
    """`release_keys` (None: absent) and `endorsements` of a `trust` from outside. Raises MalformedError."""
    listed = fields.raw_list(offer, "release_keys", MAX_KEYS, _KEY_BYTES)
    value = offer.get("endorsements")
    if value is None:
        return listed, []
    if not isinstance(value, (list, tuple)) or len(value) > MAX_ENDORSEMENTS:
        raise MalformedError("endorsements")
    return listed, [_endorsement(one) for one in value]


def _endorsement(value: object) -> "dict[str, Any]":
    if not isinstance(value, dict):
        raise MalformedError("endorsements")
    key, signature = fields.raw(value, "key"), fields.raw(value, "signature")
    by = fields.text(value, "by", limits.ID_HEX_CHARS)
    if len(key) != _KEY_BYTES or len(signature) != _SIGNATURE_BYTES or not ids.is_hex_id(by):
        raise MalformedError("endorsements")
    return {"key": key, "by": by, "signature": signature}
