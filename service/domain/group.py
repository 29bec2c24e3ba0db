"""A registration group: which kind of key its devices hold and how they may come in.

Values only; never changes when a device moves. Source: docs/protocol.md, sections 1 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from device_sdk.wire import limits
from service.errors import Secret


class KeyKind(StrEnum):
    INDIVIDUAL = "individual"  # a random secret per device, given at registration
    DERIVED = "derived"  # the factory burned HMAC-SHA256(group_secret, serial)
    GROUP = "group"  # the group secret itself is burned; needs reactivation `operator`
    PUBLIC_KEY = "public_key"  # the device holds a private key, the service its public keys


class Reactivation(StrEnum):
    HOLD = "hold"  # ask the old credential first; silence confirms the new one
    OPERATOR = "operator"  # an operator approves each time
    OPEN = "open"  # the new credential takes over at once


@dataclass(frozen=True, slots=True)
class Group:
    group_id: str
    product_id: str
    key_kind: KeyKind = KeyKind.INDIVIDUAL
    secret: Secret | None = None  # kinds derived and group only
    self_registration: bool = False
    default_ou: str | None = None
    default_environment: str | None = None
    pending_expiry_s: int = limits.DEFAULT_PENDING_EXPIRY_S
    reactivation: Reactivation = Reactivation.HOLD
