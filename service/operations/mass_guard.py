"""What stands between one account's commands and the whole fleet, or everybody else's commands.

Owns the numbers and the refusals; when they are asked for is commands.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations import command_rows
from service.operations.accounts import LOCAL
from service.operations.command_rows import Command
from service.operations.requests import conflict

MAX_RUNNING = 20  # commands of one account with pages left, of the 100 that are worked on at a time


@dataclass(frozen=True, slots=True)
class MassGuard:
    """What stands between a slip of the pen and a whole fleet."""

    devices: int = 1000  # a command for more must say `at_most`
    second_person: bool = False  # and waits, paused, until another account resumes it
    stop_percent: int = 90  # a command of several pages is paused when so much of what is done was refused; 0: never

    def check(self, command: Command, total: int, at_most: int | None) -> None:
        """Raises ServiceError CONFLICT: more devices than the operator meant, or than may be meant in silence."""
        if command.dry_run:
            return
        if at_most is None and total > self.devices:
            raise conflict(
                "mass_unconfirmed", f"{total} devices are selected: try a dry run, then say at_most", total=total
            )
        if at_most is not None and total > at_most:
            raise conflict("more_than_meant", f"{total} devices are selected, more than {at_most}", total=total)

    def awaits_second(self, command: Command) -> bool:
        """Whether nothing was done of it yet, because another account has to resume it first."""
        many = (command.total or 0) > self.devices and not command.dry_run
        return self.second_person and many and command.started_at is None


async def check_running(connection: AsyncConnection, account: str) -> None:
    """Raise ServiceError CONFLICT if so many of this account's commands have pages left that one more would keep others
    from being worked on. This machine's are worked off by whoever types them.
    """
    if account != LOCAL and await command_rows.count_running(connection, account) >= MAX_RUNNING:
        raise conflict("commands_many", f"{MAX_RUNNING} commands of yours are running: wait, or cancel some")
