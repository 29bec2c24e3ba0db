"""A thing: the logical asset that survives a replacement. Values only. Source: docs/protocol.md, words and section 7."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.group import MoveMethod

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Move:
    """A reprovision to another environment that is under way. The thing's own place is the old one until it is done."""

    ou: str
    environment: str
    method: MoveMethod
    started_at: datetime
    deadline_at: datetime  # lapses only while nothing is confirmed at the new place
    command_id: str | None = None
    announced: bool = False  # the device said on its old credential that it sets out, or a failover found that closed


@dataclass(frozen=True, slots=True)
class Thing:
    thing_id: str
    group_id: str
    product_id: str
    name: str
    ou: str
    environment: str
    holder_device_id: str
    created_at: datetime
    successor_device_id: str | None = None
    installed_version_id: str | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=dict, hash=False)
    settings: Mapping[str, object] = field(default_factory=dict, hash=False)  # JSON values
    settings_rev: int = 0  # rises with every change of the settings; 0: none were ever set
    settings_reported_rev: int = 0  # which revision the device last spoke of
    settings_state: str | None = None  # what it said, e.g. "applied", "failed"
    rev: int = 0  # rises with every operator's change; what expected_rev is compared with
    target_version_id: str | None = None  # this thing's own target, before OU, group and product
    move: Move | None = None
    successor_deadline_at: datetime | None = None  # a successor that has not confirmed by then is let go
    successor_command_id: str | None = None
    home_environment: str | None = None  # where a failover took it away from
    home_ou: str | None = None  # and where it belonged there
    number: int = 0  # of its product's things; it is named by it. 0: unknown
    failover_at: datetime | None = None
