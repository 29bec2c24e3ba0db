"""What the service asks the device to trust besides what the factory put in.

Owns record "trust": the lists in force and those before them. New entries count at once; old ones go only after an
`online` was answered over a connection that was made without them. What the factory put in always counts.
Source: docs/protocol.md, section "The document". Runs on MicroPython.
"""

from device_sdk.core import endpoints
from device_sdk.core.fields import MalformedError

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_MAX_ENTRIES = 8
_KEY_BYTES = 32


class Trust:
    """`alone`: the connection now being made goes without the lists that are to go."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._now: dict[str, Any] = _NOTHING
        self._before: dict[str, Any] | None = None
        self._since_accepted = True
        self.alone = False

    def load(self) -> None:
        stored = self._context.records.load("trust")
        if stored is not None:
            self._now = stored["now"]
            self._before = stored["before"]
            self._context.must_be_signed = self._context.must_be_signed or stored["signed"]
        self._use()

    def offer(self, offer: object) -> None:
        """The `trust` of an accepted document; None: as it is."""
        if offer is None:
            return
        try:
            wanted = _read(offer, self._context.identity.allow_plain)
        except MalformedError as error:
            self._context.trouble("trust_refused", str(error))
            return
        if wanted == self._now:
            return
        before = self._all() if self._before is not None else self._now
        self._save(wanted, before)
        self._since_accepted = False

    def connecting(self) -> None:
        """Before each Connect: without the old lists at first, and by turns as long as that comes to nothing."""
        self._since_accepted = True
        self.alone = self._before is not None and not self.alone

    def answered(self) -> None:
        """An `online` was answered ok on this connection."""
        if self._before is not None and self.alone and self._since_accepted:
            self._save(self._now, None)
            self.alone = False

    @property
    def bootstrap(self) -> "list[dict[str, Any]]":
        found: list[dict[str, Any]] = self._all()["bootstrap"]
        return found

    def ca_pem(self, own: "str | None") -> "str | None":
        """What to verify an endpoint with whose own authority is `own`; None stays the system's."""
        if own is None:
            return None
        more = self._now["cas"] if self.alone else self._all()["cas"]
        return "\n".join([own] + [ca for ca in more if ca != own])

    def _all(self) -> "dict[str, Any]":
        if self._before is None:
            return self._now
        return {
            name: self._now[name] + [one for one in self._before[name] if one not in self._now[name]]
            for name in self._now
        }

    def _save(self, now: "dict[str, Any]", before: "dict[str, Any] | None") -> None:
        signed = self._context.must_be_signed or bool(now["release_keys"])
        self._context.records.save("trust", {"now": now, "before": before, "signed": signed})
        self._context.must_be_signed = signed
        self._now = now
        self._before = before
        self._use()

    def _use(self) -> None:
        """Service keys and release keys count from this moment on."""
        known = self._all()
        self._context.prover.more_service_keys = known["service_keys"]
        self._context.more_release_keys = known["release_keys"]


_NOTHING: "dict[str, Any]" = {"cas": [], "service_keys": [], "release_keys": [], "bootstrap": []}


def _read(offer: object, allow_plain: bool) -> "dict[str, Any]":
    if not isinstance(offer, dict):
        raise MalformedError("trust")
    return {
        "cas": _entries(offer, "cas", _is_pem),
        "service_keys": _entries(offer, "service_keys", _is_key),
        "release_keys": _entries(offer, "release_keys", _is_key),
        "bootstrap": endpoints.read_list(offer.get("bootstrap"), allow_plain),
    }


def _entries(offer: "dict[str, Any]", name: str, fits: "Any") -> "list[Any]":
    value = offer.get(name)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_ENTRIES or not all([fits(one) for one in value]):
        raise MalformedError(name)
    return list(value)


def _is_pem(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= endpoints.MAX_PEM_CHARS


def _is_key(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == _KEY_BYTES
