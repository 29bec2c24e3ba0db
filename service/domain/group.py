"""A registration group: which kind of key its devices hold and how they may come in.

Values only; never changes when a device moves. Source: docs/protocol.md, sections 1 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from device_sdk.wire import limits
from service.errors import Secret


class KeyKind(StrEnum):
    INDIVIDUAL = "individual"  # a random secret per device, given at registration
    DERIVED = "derived"  # the factory burned HMAC-SHA256(group_secret, serial)
    GROUP = "group"  # the group secret itself is burned; needs reactivation `operator`
    PUBLIC_KEY = "public_key"  # the device holds a private key, the service its public keys


class MoveMethod(StrEnum):
    """How a reprovision to another place treats what the thing has."""

    MIGRATE = "migrate"  # settings, name and firmware target are kept
    INITIALISE = "initialise"  # they are reset to the group's template
    NEVER = "never"  # refused


class ClonePolicy(StrEnum):
    REPORT = "report"  # event clone_suspected, nothing else
    FREEZE = "freeze"  # and the serial is frozen until an operator unfreezes it


class Reactivation(StrEnum):
    HOLD = "hold"  # ask the old credential first; silence confirms the new one
    OPERATOR = "operator"  # an operator approves each time
    OPEN = "open"  # the new credential takes over at once


@dataclass(frozen=True, slots=True)
class OldSecret:
    """A secret that another one has followed; what it is still good for: group_secrets.py."""

    generation: int
    secret: Secret
    superseded_at: datetime
    grace_until: datetime  # until then it is as good as the newest
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Group:
    group_id: str
    product_id: str
    key_kind: KeyKind = KeyKind.INDIVIDUAL
    secret: Secret | None = None  # kinds derived and group only; the newest
    self_registration: bool = False
    default_ou: str | None = None
    default_environment: str | None = None
    pending_expiry_s: int = limits.DEFAULT_PENDING_EXPIRY_S
    reactivation: Reactivation = Reactivation.HOLD
    target_version_id: str | None = None  # before the product's target
    move_method: MoveMethod = MoveMethod.MIGRATE
    clone_policy: ClonePolicy = ClonePolicy.REPORT
    template_settings: Mapping[str, object] = field(default_factory=dict, hash=False)  # of new and initialised things
    credential_life_s: int | None = None  # of API keys; renewed at two thirds, dropped at its end. None: no end
    serial_pattern: str | None = None  # of self-registered serials: shell patterns, separated by blanks
    quarantine_ou: str | None = None  # where a self-registered serial that does not match goes
    self_quota: int | None = None  # how many may register themselves
    hook: str | None = None  # the activation hook's name or URL
    failover_environment: str | None = None
    failover_ou: str | None = None
    failover_after_s: int | None = None
    secret_generation: int = 1  # of `secret`
    old_secrets: tuple[OldSecret, ...] = ()  # by generation
