"""A credential: what one device logs in with, and the one table of its moves.

Values and the TRANSITIONS table; no I/O, no clock. A row is inserted once and never goes back.
Source: docs/protocol.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class CredentialKind(StrEnum):
    API_KEY = "api_key"
    X509 = "x509"


class CredentialState(StrEnum):
    PENDING = "pending"  # the device's turn: connect with it and say online
    CONFIRMED = "confirmed"  # in use
    DROPPED = "dropped"  # nobody's turn: refused everywhere; the broker is told until it has heard


TRANSITIONS: dict[CredentialState, frozenset[CredentialState]] = {
    CredentialState.PENDING: frozenset({CredentialState.CONFIRMED, CredentialState.DROPPED}),
    CredentialState.CONFIRMED: frozenset({CredentialState.DROPPED}),
    CredentialState.DROPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Credential:
    """One row. Secrets are not in it: an API key is derived again from the device key and the two nonces."""

    credential_id: str
    device_id: str
    kind: CredentialKind
    state: CredentialState
    environment: str
    created_at: datetime
    expires_at: datetime  # while pending: when it lapses
    boot_count: int  # of the claim
    nonce: bytes
    server_nonce: bytes
    grant: bytes  # the exact bytes of the grant, so that a repeated activate gets the same reply
    encoding: str  # "msgpack" or "json": of the claim, later of the last online
    api_key_sha256: bytes | None = None
    certificate_pem: str | None = None
    certificate_serial: str | None = None  # lower-case hex
    spki_sha256: bytes | None = None
    certificate_expires_at: datetime | None = None
    confirmed_at: datetime | None = None
    dropped_at: datetime | None = None
    drop_cause: str | None = None
    revoked_at: datetime | None = None  # when the broker has confirmed that it is dead
    last_boot_count: int = 0  # (last_boot_count, last_n) of the newest state-changing request
    last_n: int = 0
    last_reply: bytes | None = None
    desired_rev: int = 0
    desired_doc: bytes | None = None  # the exact bytes under desired_rev
    heard_rev: int = 0  # the revision that the device said to have
    first_n: int = 0  # of the first such request with last_boot_count
    first_id: str | None = None  # and its id; None once it has told of two devices
    held_at: datetime | None = None  # reactivation under policy hold: when its first online was put off
    awaits_operator: bool = False
    approved: bool = False  # an operator approved this reactivation
    last_heard_at: datetime | None = None
    rekey: bool = False  # confirming it replaces the device's key by the one made from its nonces
    renewed_from: str | None = None  # credential_id of the confirmed one that asked for it
