"""One page of a command: load its devices, apply the verb to each, save everything in one transaction.

Owns what happens to a device under a command: scope, expected revision, the verb, its events, trace, outcome and
audit. A page is done once: its cursor is saved with it, so a crash before the commit leaves nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from device_sdk.wire import codes
from service.domain import event
from service.domain.changes import Changes, Trace
from service.domain.device import Device
from service.domain.event import Event
from service.domain.thing import Thing
from service.errors import ServiceError
from service.operations import command_rows, selectors
from service.operations.accounts import Operator
from service.operations.command_rows import Command, CommandState, ended
from service.operations.outcomes import Outcome, Result, refused
from service.operations.placing import placed
from service.operations.selectors import Selection, Selector
from service.operations.verbs.verb import Applied, Arguments, Verb, World
from service.storage.database import Transaction
from service.storage.store import SqlBatch

PAGE = 256  # devices in one transaction
RAMP = 10  # devices in the first page of a command that does not fit one; the next ones double what is done
RAMP_S = 1.0  # between these pages, so that somebody can pause
LOOKED_AT = (10, 100, 1000, 10_000)  # devices done, after which a command that is mostly refused is paused


def page_size(command: Command) -> int:
    """At most a second's worth at the command's rate, and less while a large command begins."""
    full = _full(command)
    return full if command.dry_run or command.total <= full else min(full, max(RAMP, command.done))


def _full(command: Command) -> int:
    return PAGE if command.rate is None else min(PAGE, command.rate)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a page is worked off with."""

    verb: Verb
    arguments: Arguments
    operator: Operator
    now: datetime
    random_bytes: Callable[[int], bytes]
    stop_percent: int = 0  # of what is done: as many refused pause a command of several pages; 0: none do


@dataclass(frozen=True, slots=True)
class PageDone:
    command: Command  # as it is saved now
    outcomes: tuple[Outcome, ...]
    result: Mapping[str, object] = field(default_factory=dict)  # shown once to whoever asked, never stored


class _Page:
    """The devices of one page as they evolve."""

    def __init__(self, command: Command, setting: Setting, world: World, devices: Mapping[str, Device]) -> None:
        self._command = command
        self._setting = setting
        self._world = world
        self._now = dict(devices)
        self._before: dict[str, Device | None] = {}
        self.outcomes: list[Outcome] = []
        self._events: list[Event] = []
        self._traces: list[Trace] = []
        self.result: dict[str, object] = {}

    def take(self, device_id: str) -> None:
        device = self._now[device_id]
        name = (device_id, device.group_id, device.serial)
        try:
            applied = self._apply(device)
        except ServiceError as error:
            self.outcomes.append(refused(*name, error))
            return
        if applied.device is device and not applied.others:
            self.outcomes.append(Outcome(*name, Result.UNCHANGED))
            return
        self._keep(device, applied)
        self.result |= applied.result
        self.outcomes.append(Outcome(*name, Result.CHANGED))

    def changed(self) -> list[tuple[Device | None, Device]]:
        return [(before, self._now[device_id]) for device_id, before in self._before.items()]

    def changes(self) -> Changes:
        counters = Counter(f"command_{self._command.verb.replace('-', '_')}" for _ in self._traces)
        return Changes(
            devices=tuple(self.changed()),
            events=placed(self._events, self._world.catalogue),
            traces=tuple(self._traces),
            counters=counters,
        )

    def _apply(self, device: Device) -> Applied:
        # 1. Is it the operator's? What moved out of the scope since the selection was made is not.
        group = self._world.catalogue.groups.get(device.group_id)
        if not self._setting.operator.may_see(selectors.ou_of(device, group)):
            raise ServiceError(codes.FORBIDDEN, "outside of your OU", cause="out_of_scope")
        # 2. Is it still what the operator saw?
        rev = device.thing.rev if device.thing is not None else 0
        if self._command.expected_rev not in (None, rev):
            raise ServiceError(codes.CONFLICT, f"the revision is {rev}", cause="rev_stale")
        # 3. The verb's own rules.
        return self._setting.verb.apply(device, self._setting.arguments, self._world)

    def _keep(self, before: Device, applied: Applied) -> None:
        after = applied.device
        thing = after.thing
        if thing is not None and before.thing is not None and thing.rev == before.thing.rev:
            thing = replace(thing, rev=thing.rev + 1)
            after = replace(after, thing=thing)
        for one in (after, *applied.others):
            if thing is not None and one.thing is not None and one.thing.thing_id == thing.thing_id:
                one = replace(one, thing=thing)  # noqa: PLW2901 - both devices of a thing have the same one
            self._before.setdefault(one.device_id, self._now.get(one.device_id))
            self._now[one.device_id] = one
        if thing is not None:
            self._share(thing)
        command = self._command
        self._events.extend(applied.events)
        for told in applied.told:
            self._events.append(event.of(after, told.kind, self._world.now, command_id=command.command_id, **told.data))
        self._traces.append(
            Trace(
                after.group_id, after.serial, self._world.now, command.command_id[:16], "operator", command.verb,
                detail=f"by {command.account}",
            )
        )  # fmt: skip

    def _share(self, thing: Thing) -> None:
        """The other device of a thing that changes hands may come later in this page: it has the thing as it is now."""
        for device_id in (thing.holder_device_id, thing.successor_device_id):
            other = self._now.get(device_id) if device_id is not None else None
            if other is not None and other.thing is not None and other.thing.thing_id == thing.thing_id:
                self._now[other.device_id] = replace(other, thing=thing)


async def work(transaction: Transaction, batch: SqlBatch, command: Command, setting: Setting) -> PageDone:
    """Do the next page of a running command within this transaction. Raises ServiceError UNAVAILABLE only."""
    connection, now = transaction.connection, setting.now
    if command.expires_at is not None and command.expires_at <= now:
        after = ended(command, CommandState.EXPIRED, now)
        await command_rows.put(connection, command, after)
        await command_rows.add_audit(connection, after, now, "stopped", "command_expired")
        return PageDone(after, ())
    ids = await selectors.page(
        connection, selection_of(command, setting.operator), after=command.cursor, limit=page_size(command)
    )
    named = setting.verb.named(setting.arguments) if setting.verb.named is not None else ()  # may refuse a first page
    loaded = await batch.load(device_ids=ids, serials=named)
    world = World(
        now, batch.catalogue, command.account, command.command_id, setting.operator.scope, setting.random_bytes,
        others={**loaded.by_serial},
        devices=loaded.by_device_id,
        expires_at=command.expires_at,
    )  # fmt: skip
    page = _Page(command, setting, world, loaded.by_device_id)
    for device_id in ids:
        page.take(device_id)
    after = _advanced(command, page.outcomes, ids, now)
    if _is_mostly_refused(command, after, setting.stop_percent):
        after = replace(after, state=CommandState.PAUSED, lease_owner=None, lease_expires_at=None)
        await command_rows.add_audit(connection, after, now, "paused", "many_refused")
    if not command.dry_run:
        await batch.save(page.changes())
        bad = [one for one in page.outcomes if one.result is Result.REFUSED]
        await command_rows.add_audits(connection, command, now, page.changed(), bad)
    await command_rows.add_outcomes(connection, command, page.outcomes, now)
    await command_rows.put(connection, command, after)
    return PageDone(after, tuple(page.outcomes), {} if command.dry_run else page.result)


def selection_of(command: Command, operator: Operator) -> Selection:
    """A device that is registered while the command runs is not in it."""
    return Selection(Selector.model_validate(command.selector), operator.scope, command.created_at)


def _advanced(command: Command, outcomes: list[Outcome], ids: list[str], now: datetime) -> Command:
    count = Counter(one.result for one in outcomes)
    after = replace(
        command,
        started_at=command.started_at or now,
        cursor=ids[-1] if ids else command.cursor,
        done=command.done + len(ids),
        changed=command.changed + count[Result.CHANGED],
        unchanged=command.unchanged + count[Result.UNCHANGED],
        refused=command.refused + count[Result.REFUSED],
    )
    # What was counted in this very transaction is all there is; later, devices may have come into the selection.
    is_all = now == command.created_at and len(ids) == command.total
    return ended(after, CommandState.DONE, now) if is_all or len(ids) < page_size(command) else after


def _is_mostly_refused(before: Command, after: Command, percent: int) -> bool:
    """Whether this page ended at a mark and what is done shows that the command is not what was meant."""
    if after.state is not CommandState.RUNNING or after.dry_run or not percent:
        return False
    looked_at = any(before.done < mark <= after.done for mark in LOOKED_AT)
    return looked_at and after.refused * 100 >= percent * after.done


def pause_s(command: Command, devices: int) -> float:
    """How long to wait after a page of so many devices, to keep to the command's rate and to begin slowly."""
    by_rate = 0.0 if command.rate is None else timedelta(seconds=devices / command.rate).total_seconds()
    begins = not command.dry_run and devices < min(_full(command), command.total)
    return max(by_rate, RAMP_S) if begins else by_rate


def arguments_of(verb: Verb, stored: Mapping[str, Any]) -> Arguments:
    """The arguments as they were stored; they were checked when they came."""
    return verb.arguments.model_validate(dict(stored))
