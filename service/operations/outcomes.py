"""What came of a command for one device when its page was done; what failed later: aftermath.py. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from service.domain import replacement
from service.errors import ServiceError


class Result(StrEnum):
    CHANGED = "changed"  # with a dry run: would be changed
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    device_id: str
    group_id: str
    serial: str
    result: Result
    code: str | None = None
    cause: str | None = None
    reason: str | None = None
    state: Mapping[str, Any] | None = field(default=None, hash=False)  # of a CONFLICT: the device as it is now

    @property
    def enos_code(self) -> int | None:
        """What EnOS calls it, for a refused replacement."""
        return ENOS_CODES.get(self.cause or "")


# The cause of a refusal of `replace` and `undo-replace` -> EnOS's error code.
ENOS_CODES = {
    "device_unknown": replacement.NOT_FOUND,
    "replace_not_found": replacement.NOT_FOUND,
    "replace_same_serial": replacement.DUPLICATE_SERIAL,
    "replace_other_key": replacement.DUPLICATE_SERIAL,
    "replace_other_group": replacement.SAME_GROUP,
    "replace_already": replacement.ALREADY_ALLOCATED,
    "replace_replaced": replacement.ALREADY_ALLOCATED,
    "replace_successor": replacement.ALREADY_ALLOCATED,
    "replace_new_has_thing": replacement.ALREADY_ALLOCATED,
    "undo_too_late": replacement.ALREADY_ALLOCATED,
}


def refused(device_id: str, group_id: str, serial: str, error: ServiceError) -> Outcome:
    return Outcome(device_id, group_id, serial, Result.REFUSED, error.code, error.cause, error.public)


def in_order(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """As they are stored and paged through. A device that could not be made is named by its serial."""
    named = (one if one.device_id else replace(one, device_id=f"{one.group_id}/{one.serial}") for one in outcomes)
    return tuple(sorted(named, key=lambda one: one.device_id))
