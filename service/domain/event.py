"""An event: what integrators and operators are told of a change, written in the change's own transaction. Values only.

Holds no secret and no payload. Kinds are listed in KINDS; storage numbers events in the order of their commits.
Source: docs/protocol.md, section 2 (`pv1/e/{integrator}/{event}`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.device import Device

KINDS = frozenset(
    {
        "registered",
        "onboarded",
        "allocated",
        "activated",
        "confirmed",
        "renewed",
        "move_started",
        "moved",
        "move_failed",
        "replacement_started",
        "replacement_undone",
        "replacement_failed",
        "replaced",
        "blocked",
        "unblocked",
        "retired",
        "retirement_unheard",
        "clone_suspected",
        "frozen",
        "unfrozen",
        "operator_needed",
        "firmware_confirmed",
        "firmware_failed",
        "firmware_rolled_back",
        "firmware_held_back",
        "firmware_timed_out",
        "version_released",
        "target_changed",
        "attributes_changed",
        "settings_changed",
        "settings_failed",
        "renamed",
        "label_reused",
        "quarantined",
        "hook_denied",
        "failed_over",
        "rekeyed",
        "transfer_opened",
        "transfer_failed",
        "staged",
        "item_failed",
        "out_of_box",
        "at_site",
        # A unit on its way through the warehouse
        "received",
        "handed_over",
        "shipped",
        "restaged",
    }
)


# After these a device's desired document may be another: the service looks at it, whoever made the change.
TOUCHING = frozenset(
    {
        "move_started",
        "moved",
        "move_failed",
        "retired",
        "settings_changed",
        "target_changed",
        "version_released",
        "transfer_opened",
        "transfer_failed",
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    group_id: str
    serial: str
    thing_id: str | None = None
    ou: str | None = None  # where the thing is after the change; who may read the event follows from it
    environment: str | None = None
    command_id: str | None = None  # of the command that asked for it
    data: Mapping[str, object] = field(default_factory=dict, hash=False)  # JSON values, no secrets
    at: datetime | None = None  # None: the time of the batch that saves it


def of(device: Device, kind: str, at: datetime, *, command_id: str | None = None, **data: object) -> Event:
    """An event about this device as it is after the change."""
    thing = device.thing
    return Event(
        kind=kind,
        group_id=device.group_id,
        serial=device.serial,
        thing_id=thing.thing_id if thing else None,
        ou=thing.ou if thing else device.ou,
        environment=thing.environment if thing else device.environment,
        command_id=command_id,
        data=data,
        at=at,
    )
