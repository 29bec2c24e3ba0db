"""What came of a command for one device. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.errors import ServiceError


class Result(StrEnum):
    CHANGED = "changed"  # with a dry run: would be changed
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    MOVED = "moved"  # later: it has arrived
    FAILED = "failed"  # later: it stayed where it was, and why


@dataclass(frozen=True, slots=True)
class Outcome:
    device_id: str
    group_id: str
    serial: str
    result: Result
    code: str | None = None
    cause: str | None = None
    reason: str | None = None


def refused(device_id: str, group_id: str, serial: str, error: ServiceError) -> Outcome:
    return Outcome(device_id, group_id, serial, Result.REFUSED, error.code, error.cause, error.public)
