"""What the service asks the device to trust besides what the factory put in.

Owns record "trust": authorities, bootstrap endpoints and service keys; release keys have rules of their own
(release_keys.py). New authorities and endpoints count at once; old ones go only after an `online` was answered over a
connection that was made without them. Those of the factory always count. Service keys stand in place of the factory's.
Source: docs/protocol.md, section "Trust". Runs on MicroPython.
"""

from device_sdk.core import endpoints, fields, release_keys
from device_sdk.core.fields import MalformedError
from device_sdk.core.release_keys import ReleaseKeys

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
        self._release_keys = ReleaseKeys(context)
        self._now: dict[str, Any] = _NOTHING
        self._before: dict[str, Any] | None = None
        self._service_keys: list[bytes] | None = None  # None: the factory's
        self._since_accepted = True
        self.alone = False

    def load(self) -> None:
        stored = self._context.records.load("trust")
        if stored is not None:
            self._now = stored["now"]
            self._before = stored["before"]
            self._service_keys = stored.get("service_keys")
        self._release_keys.load(stored)
        self._use()

    def offer(self, offer: object) -> None:
        """The `trust` of an accepted document; None: as it is. Called before another proof is checked."""
        if offer is None:
            return
        try:
            wanted, service_keys, listed, endorsements = _read(offer, self._context.identity.allow_plain)
        except MalformedError as error:
            self._context.trouble("trust_refused", str(error))
            return
        if listed is not None:
            self._release_keys.offer(listed, endorsements)
        service_keys = self._checked(service_keys)
        if wanted == self._now and service_keys == self._service_keys:
            return
        before = self._before
        if wanted != self._now:
            before = self._all() if before is not None else self._now
            self._since_accepted = False
        self._save(wanted, before, service_keys)

    def connecting(self) -> None:
        """Before each Connect: without the old lists at first, and by turns as long as that comes to nothing."""
        self._since_accepted = True
        self.alone = self._before is not None and not self.alone

    def answered(self) -> None:
        """An `online` was answered ok on this connection."""
        if self._before is not None and self.alone and self._since_accepted:
            self._save(self._now, None, self._service_keys)
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

    def _checked(self, listed: "list[bytes] | None") -> "list[bytes] | None":
        """The service keys from now on: those listed, if one of them has proven the document that lists them."""
        if listed is None or self._context.identity.key is not None:
            return self._service_keys
        if self._context.prover.proven_by not in listed:
            # The next document would have to be proven by a key that has never spoken to us.
            self._context.trouble("trust_refused", "service_keys")
            return self._service_keys
        return listed

    def _all(self) -> "dict[str, Any]":
        if self._before is None:
            return self._now
        return {
            name: self._now[name] + [one for one in self._before[name] if one not in self._now[name]]
            for name in self._now
        }

    def _save(self, now: "dict[str, Any]", before: "dict[str, Any] | None", service_keys: "list[bytes] | None") -> None:
        self._context.records.save("trust", {"now": now, "before": before, "service_keys": service_keys})
        self._now = now
        self._before = before
        self._service_keys = service_keys
        self._use()

    def _use(self) -> None:
        if self._service_keys is not None:
            self._context.prover.service_keys = list(self._service_keys)


_NOTHING: "dict[str, Any]" = {"cas": [], "bootstrap": []}


def _read(
    offer: object, allow_plain: bool
) -> "tuple[dict[str, Any], list[bytes] | None, list[bytes] | None, list[dict[str, Any]]]":
    if not isinstance(offer, dict):
        raise MalformedError("trust")
    wanted = {"cas": _authorities(offer), "bootstrap": endpoints.read_list(offer.get("bootstrap"), allow_plain)}
    listed, endorsements = release_keys.read(offer)
    return wanted, fields.raw_list(offer, "service_keys", _MAX_ENTRIES, _KEY_BYTES), listed, endorsements


def _authorities(offer: "dict[str, Any]") -> "list[str]":
    value = offer.get("cas")
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_ENTRIES or not all([_is_pem(one) for one in value]):
        raise MalformedError("cas")
    return list(value)


def _is_pem(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= endpoints.MAX_PEM_CHARS
