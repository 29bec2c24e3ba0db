"""What became of a command's devices after its last page: how many events of each kind, and who failed and why.

Owns the statements over events by command. A device that refuses its settings says so without a word about a command:
the revision that it names leads to the one that made it. Reads only.
"""

from __future__ import annotations

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.events import Recorded, recorded
from service.storage.operator_tables import event

FAILURES = frozenset({"move_failed", "replacement_failed", "settings_failed", "transfer_failed"})
MAX_PAGE = 100
_made = event.alias("made")  # the event of the command that changed the settings
_OF_SETTINGS = and_(
    _made.c.kind == "settings_changed",
    _made.c.group_id == event.c.group_id,
    _made.c.serial == event.c.serial,
    _made.c.seq < event.c.seq,
    func.json_extract(event.c.data, "$.site").is_(None),  # the settings of a unit's site have revisions of their own
    func.json_extract(_made.c.data, "$.settings_rev") == func.json_extract(event.c.data, "$.rev"),
)


async def counts(connection: AsyncConnection, command_id: str) -> dict[str, int]:
    """How many events of each kind a command has led to, also long after its last page."""
    query = select(event.c.kind, func.count()).where(event.c.command_id == command_id).group_by(event.c.kind)
    found = {row[0]: int(row[1]) for row in await connection.execute(query)}
    if "settings_changed" in found:
        of_settings = select(func.count()).select_from(_settings_failed(command_id).subquery())
        refused = int((await connection.execute(of_settings)).scalar_one())
        found |= {"settings_failed": refused} if refused else {}
    return found


async def failures(
    connection: AsyncConnection, command_id: str, *, after: int = 0, limit: int = MAX_PAGE
) -> list[Recorded]:
    """The next devices that failed, by the number of the event that says so."""
    query = (
        select(event)
        .where(
            event.c.seq > after,
            or_(
                and_(event.c.command_id == command_id, event.c.kind.in_(FAILURES)),
                event.c.seq.in_(_settings_failed(command_id)),
            ),
        )
        .order_by(event.c.seq)
        .limit(min(limit, MAX_PAGE))
    )
    return [recorded(row) for row in await connection.execute(query)]


async def command_of(connection: AsyncConnection, one: Recorded) -> str | None:
    """The id of the command that an event followed from; None where it was nobody's."""
    if one.event.command_id is not None or one.event.kind != "settings_failed":
        return one.event.command_id
    query = select(_made.c.command_id).join_from(event, _made, _OF_SETTINGS).where(event.c.seq == one.seq)
    return (await connection.execute(query.order_by(_made.c.seq.desc()).limit(1))).scalar()


def _settings_failed(command_id: str) -> Select[tuple[int]]:
    return (
        select(event.c.seq)
        .join_from(_made, event, _OF_SETTINGS)
        .where(_made.c.command_id == command_id, event.c.kind == "settings_failed")
    )
