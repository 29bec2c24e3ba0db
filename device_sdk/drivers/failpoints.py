"""Named points at which a test may kill the process, to see what a power loss there leaves behind.

Owns the environment variable FIRSTLIGHT_FAILPOINT="name:n" (SIGKILL to this process at the n-th passing of `name`) and
nothing else. Unset, `passing` is a function with an empty body. Never set it in production: the process dies.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "FIRSTLIGHT_FAILPOINT"

# Every point that the drivers pass, in the order of the files that hold them. Tests walk this list.
NAMES = (
    "flash.before_write",
    "flash.written",
    "flash.synced",
    "flash.renamed",
    "flash.dir_synced",
    "slots.before_begin",
    "slots.forgotten",
    "slots.begun",
    "slots.before_chunk",
    "slots.chunk_written",
    "slots.before_install",
    "slots.image_synced",
    "slots.installed",
    "slots.before_boot",
    "slots.booted",
    "slots.before_confirm",
    "slots.confirmed",
    "slots.before_revert",
    "slots.reverted",
    "record.before_write",
    "record.written",
    "record.renamed",
    "settings.written",
    "settings.synced",
    "settings.renamed",
    "settings.dir_synced",
    "agent.before_reboot",
)
# Those that only a unit in a warehouse passes.
WAREHOUSE_NAMES = (
    "items.fetched",
    "items.linked",
    "items.written",
    "items.synced",
    "items.renamed",
    "items.dir_synced",
)


def armed(spec: str) -> Callable[[str], None]:
    """A `passing` for "name:n": ValueError for a spec of another form or an unknown name."""
    name, _, number = spec.rpartition(":")
    if name not in NAMES + WAREHOUSE_NAMES or not number.isdigit() or int(number) < 1:
        raise ValueError(f"{VARIABLE} must be name:n with one of the known names, not {spec!r}")
    left = int(number)

    def passing(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return passing


def _unarmed(_point: str) -> None:
    return None


_spec = os.environ.get(VARIABLE)
passing: Callable[[str], None] = armed(_spec) if _spec else _unarmed
