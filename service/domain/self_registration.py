"""A serial that nobody registered and that proves its group's key: may it register itself, and where does it go? Pure.

Owns quota, pattern and quarantine of a group. A refusal is NOT_ALLOCATED, which the device takes as "ask again later":
an operator may raise the quota or register the serial meanwhile. Source: docs/onboarding.md.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from device_sdk.wire import codes
from service.domain.group import Group
from service.errors import ServiceError

MAX_PATTERN_CHARS = 200
MAX_QUOTA = 10_000_000


def matches(pattern: str, serial: str) -> bool:
    """Whether a serial fits one of the shell patterns in `pattern`, which are separated by blanks.

    Shell patterns and no regular expressions: none of them takes long, whatever the serial.
    """
    return any(fnmatchcase(serial, one) for one in pattern.split())


def quarantine_of(group: Group, serial: str, registered: int) -> str | None:
    """The OU that this serial has to wait in; None when it goes where the group's devices go.

    `registered`: how many of the group registered themselves so far, those in quarantine included. Raises ServiceError
    NOT_ALLOCATED: the quota is used up, or a serial that does not fit where there is no quarantine.
    """
    if group.self_quota is not None and registered >= group.self_quota:
        raise _refused("self_quota_used", f"{registered} devices of {group.group_id} registered themselves")
    if group.serial_pattern is None or matches(group.serial_pattern, serial):
        return None
    if group.quarantine_ou is None:
        raise _refused("serial_not_allowed", f"the serial does not fit the pattern of {group.group_id}")
    return group.quarantine_ou


def _refused(cause: str, detail: str) -> ServiceError:
    return ServiceError(codes.NOT_ALLOCATED, "no place is allocated yet", cause=cause, detail=detail)
