"""The gate: how a broker learns which credentials are valid.

Owns the port only; embedded.py and mosquitto.py implement it. The database is the truth, a broker's own file is a
cache of it. All calls are idempotent and return only when the broker has confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.domain.credential import CredentialKind
from service.errors import Secret

# Logins that the doctor makes for a moment begin with this, which no computed credential id does but by a chance of
# 2**-64. A comparison of the broker's list with the database leaves them alone.
CANARY_PREFIX = "ca9a21e5" * 2


@dataclass(frozen=True, slots=True)
class Login:
    """What one credential looks like to a broker."""

    credential_id: str  # MQTT user name and client id, or the certificate's CN
    kind: CredentialKind
    api_key: Secret | None = None  # the 64 hex characters as ASCII bytes; kind api_key only
    api_key_sha256: bytes | None = None  # SHA-256 of those characters; kind api_key only
    certificate_serial: str | None = None  # lower-case hex; kind x509 only


@dataclass(frozen=True, slots=True)
class AccountLogin:
    """What an operator or integrator looks like to a broker: user name = client id = its name, or one of its
    further sessions' (account_topics.session_names), all with the same key.
    """

    name: str
    space: str  # "o" or "e": the topics that it may use
    key: Secret
    key_sha256: bytes  # of the key's 64 hex characters


class GateError(Exception):
    """The broker did not confirm in time; try again."""


class BrokerGate(Protocol):
    async def grant(self, logins: Sequence[Login]) -> None:
        """Make these logins work; returns when they do. Raises GateError."""
        ...

    async def revoke(self, logins: Sequence[Login]) -> None:
        """Refuse these logins and end their live sessions; returns when both hold. Raises GateError."""
        ...

    async def set_accounts(self, wanted: Sequence[AccountLogin]) -> tuple[int, int]:
        """Let in exactly these accounts, each to its own topics; returns (granted, revoked). Raises GateError.

        The sessions of one that is gone, or whose key has changed, end. Nothing happens where nothing has changed.
        """
        ...

    async def snapshot(self) -> frozenset[str] | None:
        """The credential ids (kind api_key) that the broker would let in, or None where it keeps no list."""
        ...
