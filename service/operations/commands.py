"""The one way in for operators' commands, whether by MQTT, on the command line or from a program.

Owns a command's life: asked, worked off page by page, paused, resumed, cancelled, done. `Commands.submit` does the
first page in the transaction that stores the command, so what fits one page is done or not done as a whole; `work`
does the next page of a larger one, from whatever process. Rights are checked here and again at every page.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import codes, ids
from device_sdk.wire.canon import canon
from service.domain.changes import Changes
from service.errors import ServiceError
from service.operations import (
    accounts,
    aftermath,
    asked,
    command_page,
    command_rows,
    looking,
    looks,
    made_keys,
    selectors,
)
from service.operations.accounts import Operator
from service.operations.command_page import PageDone, Setting
from service.operations.command_rows import OPEN, Command, CommandState, Status, ended
from service.operations.looks import Look, Looks
from service.operations.mass_guard import MassGuard, check_running
from service.operations.outcomes import Outcome, Result, in_order
from service.operations.placing import placed
from service.operations.requests import bad_request, conflict, not_found
from service.operations.selectors import Selector
from service.operations.verbs.making import Made, Making
from service.operations.verbs.table import FLEET
from service.operations.verbs.verb import Arguments, Role, Verb, World
from service.storage.database import Database, Transaction
from service.storage.store import Environments, SqlStore

WATCH_S = 0.5
LEASE = timedelta(seconds=10)  # a page takes far less
SHOWN = 100  # outcomes in one answer
MAX_RATE = 100_000
Clock = Callable[[], datetime]


class Request(BaseModel):
    """What an operator asks. Unknown fields are refused: a misspelt `dry_run` must not be a real run."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    id: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[ -~]+$")]
    selector: Selector | None = None
    arguments: dict[str, JsonValue] = {}
    dry_run: bool = False
    expected_rev: Annotated[int, Field(ge=0)] | None = None
    expires_at: Annotated[int, Field(ge=0, le=253402300799)] | None = None  # unix seconds
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = None  # devices a second
    at_most: Annotated[int, Field(ge=1, le=2**53 - 1)] | None = None  # devices; more selected is a mistake


class Commands:
    """Commands on one database. `environments` are those that a device may be sent to."""

    def __init__(
        self,
        database: Database,
        environments: Environments,
        *,
        random_bytes: Callable[[int], bytes],
        clock: Clock = lambda: datetime.now(UTC),
        guard: MassGuard | None = None,
    ) -> None:
        self._database = database
        self._guard = guard or MassGuard()
        self._store = SqlStore(database, environments)
        self._random_bytes = random_bytes
        self._clock = clock
        self._worker = random_bytes(8).hex()
        self.looks = Looks(database, clock=clock)

    def now(self) -> datetime:
        return self._clock()

    async def submit(self, operator: Operator, verb: str, request: Request) -> Status:
        """Store a command and do its first page. A repeated id is answered with what became of the first.

        Raises ServiceError with a documented code; then nothing was changed.
        """
        digest = hashlib.sha256(_canonical(verb, request)).digest()
        try:
            return await self._with_states(operator, await self._submit(operator, verb, request, digest))
        except ServiceError as error:
            if error.code != codes.UNAVAILABLE:
                await self._note_refused(operator, verb, request, error)
            raise

    async def _submit(self, operator: Operator, name: str, request: Request, digest: bytes) -> Status:
        now = self._clock()
        async with self._database.write(audit=False) as transaction:
            connection = transaction.connection
            # 1. Asked before?
            before = await command_rows.find(connection, _command_id(operator.name, request.id))
            if before is not None:
                if before.digest != digest or before.account != operator.name:  # of an account that was removed
                    raise conflict("command_id_taken", "another command of yours has this id")
                transaction.abandon()
                outcomes = await command_rows.outcomes_page(connection, before.command_id, after="", limit=SHOWN)
                return Status(before, tuple(outcomes), result=await self._keys_again(transaction, before, request))
            # 2. May this account do that at all, and is there still time?
            verb = asked.verb_of(name)
            asked.check_role(operator, verb)
            expires_at = None if request.expires_at is None else datetime.fromtimestamp(request.expires_at, UTC)
            if expires_at is not None and expires_at <= now:
                raise ServiceError(codes.CONFLICT, "the command came after its time", cause="command_expired")
            # 3. Form of the arguments.
            arguments = asked.arguments_of(verb.arguments, request.arguments)
            command = Command(
                command_id=_command_id(operator.name, request.id),
                account=operator.name,
                request_id=request.id,
                digest=digest,
                verb=name,
                selector=request.selector.document() if request.selector is not None else {},
                arguments=arguments.document(),
                dry_run=request.dry_run,
                state=CommandState.RUNNING,
                created_at=now,
                expected_rev=request.expected_rev,
                rate=request.rate,
                expires_at=expires_at,
            )
            if isinstance(verb, Making):
                return await self._make(transaction, verb, command, arguments, operator)
            return await self._begin(transaction, verb, command, arguments, operator, request)

    async def _keys_again(self, transaction: Transaction, command: Command, request: Request) -> dict[str, object]:
        if command.verb not in made_keys.VERBS:
            return {}
        arguments = asked.arguments_of(asked.verb_of(command.verb).arguments, request.arguments)
        return await made_keys.again(await self._store.within(transaction), command, arguments, self._clock())

    async def _begin(
        self,
        transaction: Transaction,
        verb: Verb,
        command: Command,
        arguments: Arguments,
        operator: Operator,
        request: Request,
    ) -> Status:
        connection = transaction.connection
        if request.selector is None:
            raise bad_request("selector_empty", "say which devices: nothing selects nothing")
        total = await selectors.resolve(connection, command_page.selection_of(command, operator))
        if verb.single and total > 1:
            raise bad_request("one_device_only", f"{verb.name} is for one device, and {total} are selected")
        self._guard.check(command, total, request.at_most)
        command = replace(command, total=total)
        if self._guard.awaits_second(command):
            command = replace(command, state=CommandState.PAUSED)
        elif total > command_page.page_size(command):
            await check_running(connection, command.account)
        await command_rows.add(connection, command)
        await command_rows.add_audit(connection, command, command.created_at, "accepted")
        if command.state is CommandState.PAUSED:
            return Status(command)
        batch = await self._store.within(transaction)
        setting = Setting(verb, arguments, operator, command.created_at, self._random_bytes, self._guard.stop_percent)
        done = await command_page.work(transaction, batch, command, setting)
        return Status(done.command, _shown(done.outcomes), result=done.result)

    async def _make(
        self, transaction: Transaction, verb: Making, command: Command, arguments: Arguments, operator: Operator
    ) -> Status:
        connection, now = transaction.connection, command.created_at
        if command.selector or command.expected_rev is not None:
            raise bad_request("selector_needless", f"{verb.name} names its devices in its arguments")
        batch = await self._store.within(transaction)
        world = World(now, batch.catalogue, operator.name, command.command_id, operator.scope, self._random_bytes)
        made: Made = await verb.make(batch, connection, arguments, world)
        outcomes = in_order(made.outcomes)
        counted = [one.result for one in outcomes]
        command = replace(
            ended(command, CommandState.DONE, now),
            started_at=now,
            total=len(counted),
            done=len(counted),
            changed=counted.count(Result.CHANGED),
            unchanged=counted.count(Result.UNCHANGED),
            refused=counted.count(Result.REFUSED),
        )
        await command_rows.add(connection, command)
        await command_rows.add_audit(connection, command, now, "accepted")
        if not command.dry_run:
            counters = {f"command_{verb.name.replace('-', '_')}": command.changed}
            await batch.save(
                Changes(devices=made.devices, events=placed(made.events, batch.catalogue), counters=counters)
            )
            if made.write is not None:
                await made.write(connection)
            bad = [one for one in outcomes if one.result is Result.REFUSED]
            await command_rows.add_audits(connection, command, now, made.devices, bad)
        await command_rows.add_outcomes(connection, command, outcomes, now)
        return Status(command, _shown(outcomes), result={} if command.dry_run else made.result)

    async def work(self, command_id: str) -> PageDone | None:
        """Do the next page of a command; None when it is not running. Raises ServiceError UNAVAILABLE."""
        async with self._database.write(audit=False) as transaction:
            connection, now = transaction.connection, self._clock()
            command = await command_rows.find(connection, command_id)
            if command is None or command.state is not CommandState.RUNNING or self._is_taken(command, now):
                transaction.abandon()
                return None
            command = await self._lease(connection, command, now)
            try:
                operator = await accounts.operator_of_command(connection, command.account)
                verb = FLEET[command.verb]
                asked.check_role(operator, verb)
                arguments = command_page.arguments_of(verb, command.arguments)
            except (ServiceError, KeyError, ValidationError):
                failed = ended(command, CommandState.FAILED, now)
                await command_rows.put(connection, command, failed)
                await command_rows.add_audit(connection, failed, now, "stopped", "account_unknown")
                return PageDone(failed, ())
            batch = await self._store.within(transaction)
            setting = Setting(verb, arguments, operator, now, self._random_bytes, self._guard.stop_percent)
            return await command_page.work(transaction, batch, command, setting)

    async def run(self, command_id: str, progress: Callable[[Command], None] = lambda _: None) -> None:
        """Work a command off to its end at its rate. Others may do the same: each page is done once."""
        while True:
            done = await self.work(command_id)
            async with self._database.read() as connection:
                command = done.command if done is not None else await command_rows.find(connection, command_id)
            if command is None:
                return
            progress(command)
            if command.state is not CommandState.RUNNING:
                return
            # Somebody else works on it, or the rate says when the next page may be done.
            await asyncio.sleep(WATCH_S if done is None else command_page.pause_s(command, len(done.outcomes)))

    async def running(self) -> list[str]:
        """Ids of the commands that have pages left, the oldest first."""
        async with self._database.read() as connection:
            return [
                one.command_id for one in await command_rows.listed(connection, account=None, limit=100, running=True)
            ]

    async def status(
        self,
        operator: Operator,
        command_id: str,
        *,
        after: str = "",
        limit: int = SHOWN,
        result: Result | None = None,
        failed_after: int = 0,
    ) -> Status:
        """A command with a page of its outcomes and one of what failed later.

        `command_id`: its own id, or the id of the operator's request. Raises ServiceError NOT_FOUND: none, or somebody
        else's.
        """
        async with self._database.read() as connection:
            command = await self._theirs(connection, operator, command_id)
            outcomes = await command_rows.outcomes_page(
                connection, command.command_id, after=after, limit=limit, result=result
            )
            later = await aftermath.counts(connection, command.command_id)
            failed = await aftermath.failures(connection, command.command_id, after=failed_after)
        more = outcomes[-1].device_id if len(outcomes) == limit else None
        more_failed = failed[-1].seq if len(failed) == aftermath.MAX_PAGE else None
        found = Status(command, tuple(outcomes), later, more, tuple(failed), more_failed)
        return await self._with_states(operator, found)

    async def _with_states(self, operator: Operator, status: Status) -> Status:
        """With each device that a CONFLICT is about, as it is now."""
        names = {(one.group_id, one.serial) for one in status.outcomes if one.code == codes.CONFLICT}
        if not names:
            return status
        now = await looking.states(self._database, operator, sorted(names))
        shown = (
            replace(one, state=now.get(f"{one.group_id}/{one.serial}")) if one.code == codes.CONFLICT else one
            for one in status.outcomes
        )
        return replace(status, outcomes=tuple(shown))

    async def newest(self, operator: Operator, *, limit: int = 20) -> list[Command]:
        """The newest commands of this operator; an admin without a scope sees everybody's."""
        everybody = operator.role is Role.ADMIN and operator.scope is None
        async with self._database.read() as connection:
            return await command_rows.listed(connection, account=None if everybody else operator.name, limit=limit)

    async def pause(self, operator: Operator, command_id: str) -> Command:
        """Raises ServiceError NOT_FOUND, CONFLICT: it is not running."""
        return await self._move(operator, command_id, (CommandState.RUNNING,), CommandState.PAUSED)

    async def resume(self, operator: Operator, command_id: str) -> Command:
        """Raises ServiceError NOT_FOUND, CONFLICT (it is not paused), FORBIDDEN (another account has to)."""
        return await self._move(operator, command_id, (CommandState.PAUSED,), CommandState.RUNNING)

    async def cancel(self, operator: Operator, command_id: str) -> Command:
        """What was done stays done. Raises ServiceError NOT_FOUND, CONFLICT: it has ended."""
        return await self._move(operator, command_id, OPEN, CommandState.CANCELLED)

    def _is_taken(self, command: Command, now: datetime) -> bool:
        until = command.lease_expires_at
        return command.lease_owner not in (None, self._worker) and until is not None and until > now

    async def _lease(self, connection: AsyncConnection, command: Command, now: datetime) -> Command:
        leased = replace(command, lease_owner=self._worker, lease_expires_at=now + LEASE)
        await command_rows.put(connection, command, leased)
        return leased

    async def _move(
        self, operator: Operator, command_id: str, from_: tuple[CommandState, ...], to: CommandState
    ) -> Command:
        now = self._clock()
        async with self._database.write(audit=False) as transaction:
            connection = transaction.connection
            before = await self._theirs(connection, operator, command_id)
            if not operator.role.may(Role.OPERATOR):
                raise ServiceError(codes.FORBIDDEN, "this needs the role operator", cause="role_too_low")
            if before.state is to:
                await command_rows.add_steered(connection, operator.name, before, before, now)
                return before
            if before.state not in from_:
                raise conflict(
                    "command_state", f"the command is {before.state.value}", state_of_command=before.state.value
                )
            if to is CommandState.RUNNING and self._guard.awaits_second(before) and operator.name == before.account:
                raise ServiceError(
                    codes.FORBIDDEN, "somebody else has to resume a command for so many", cause="second_person_needed"
                )
            if to is CommandState.RUNNING:
                await check_running(connection, before.account)
            after = replace(before, state=to) if to in OPEN else ended(before, to, now)
            await command_rows.put(connection, before, after)
            await command_rows.add_steered(connection, operator.name, before, after, now)
            return after

    @staticmethod
    async def _theirs(connection: AsyncConnection, operator: Operator, command_id: str) -> Command:
        found = await command_rows.find(connection, account=operator.name, request_id=command_id)
        if found is None and ids.is_hex_id(command_id):
            found = await command_rows.find(connection, command_id)
        everybody = operator.role is Role.ADMIN and operator.scope is None
        if found is None or (found.account != operator.name and not everybody):
            raise not_found("command_unknown", f"no command {command_id[:32]!r} of yours")
        return found

    async def _note_refused(self, operator: Operator, verb: str, request: Request, error: ServiceError) -> None:
        """A command that was refused as a whole leaves its trace, without its arguments: they may be anything."""
        command_id = _command_id(operator.name, request.id) if error.cause != "command_id_taken" else None
        outcome = "dry run, refused" if request.dry_run else "refused"
        asked_for = looks.short(request.selector)
        await self.looks.note(
            Look(operator.name, verb[:32], asked_for, {}, outcome=outcome, cause=error.cause, command_id=command_id)
        )


def _shown(outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    return outcomes[:SHOWN]


def _canonical(verb: str, request: Request) -> bytes:
    return json.dumps([verb, request.model_dump(mode="json", exclude={"id"})], sort_keys=True).encode()


def _command_id(account: str, request_id: str) -> str:
    return ids.digest_id(canon("pv1 command", account, request_id))
