"""The commander: takes operators' requests from the brokers, answers them, and works commands off page by page.

Owns the loop over requests (turns.py says whose turn it is) and the loop over running commands. Who asks is the topic's
level, which the broker allows to that account alone; role and scope are checked by operations/commands.py, which does
everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_sdk.wire import codes, topics
from service.errors import ServiceError
from service.fleet import replies
from service.fleet.turns import Turns
from service.mqtt import account_topics
from service.mqtt.port import Inbound, Link, LinkDown
from service.operations import accounts, looking, looks, warehouse_pages, warehouse_show
from service.operations.accounts import Operator
from service.operations.command_rows import Command, CommandState, Status
from service.operations.commands import Commands, Request
from service.operations.looks import Looks
from service.operations.outcomes import Result
from service.operations.requests import field_refused
from service.operations.selectors import Selector
from service.pipeline.throttle import BucketTable
from service.protocol import encode
from service.protocol.decode import RequestError, encoding_of, read_map, readable_id
from service.storage.database import Database

log = logging.getLogger("firstlight.commander")
RATE, BURST = 20.0, 60.0  # requests of one operator
WATCH_S = 0.5  # how soon a command that another process has stored, or that was resumed, is taken up
FAULT_S = 30.0  # a command that met a fault of the service is tried again so much later
PROGRESS_S = 1.0  # at most one push of progress in this time, and one at the end
SEND_TIMEOUT_S = 10.0
STEERING = frozenset({"pause", "resume", "cancel"})  # audited where they are done

Id = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[ -~]+$")]


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)
    id: Id


class Get(_Asked):
    device: str


class List(_Asked):
    selector: Selector = Selector()
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50


class WarehouseList(_Asked):
    what: str
    after: str = ""
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    order: str | None = None
    site: str | None = None
    step: str | None = None
    product: str | None = None


class WarehouseShow(_Asked):
    what: str
    name: str


class StatusOf(_Asked):
    command: str
    after: str = ""
    failed_after: Annotated[int, Field(ge=0)] = 0
    result: Annotated[Result | None, Field(strict=False)] = None


class CommandOf(_Asked):
    command: str


class Commander:
    """Give it messages with `deliver`; `run` it in a task; `closed` lets nothing more in."""

    def __init__(
        self,
        database: Database,
        commands: Commands,
        links: Sequence[Link],
        *,
        root: str = topics.ROOT,
        count: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        noted: Looks | None = None,
    ) -> None:
        self._database = database
        self._commands = commands
        self._links = links  # operational ones: where operators listen
        self._root = root
        self._count = count
        self._monotonic = monotonic
        self.looks = noted or Looks(database, clock=self._now, monotonic=monotonic)  # settled here, whoever notes
        self._waiting = Turns()
        self._arrived = asyncio.Event()
        self._stored = asyncio.Event()  # a command with pages left may be there
        self._buckets = BucketTable(RATE, BURST, 4096)
        self._busy = False
        self._working: dict[str, asyncio.Task[None]] = {}
        self.closed = False

    def _now(self) -> datetime:
        return self._commands.now()

    @property
    def idle(self) -> bool:
        """Whether no request waits. Commands may be half way: they go on after a restart."""
        return not self._waiting and not self._busy

    def is_for_it(self, topic: str) -> bool:
        return topic.startswith(f"{self._root}/{account_topics.OPERATORS}/")

    def deliver(self, message: Inbound) -> None:
        """Take one message; never blocks."""
        if self.closed:
            return
        parsed = account_topics.parse(message.topic, self._root)
        if parsed is None:
            self._count("foreign_topic")
        elif self._buckets.take(parsed[0], self._monotonic()) and self._waiting.offer(parsed[0], message):
            self._arrived.set()
            return
        else:
            self._count("throttled_operator")
        message.acknowledge()  # the operator asks again: a command has an id

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._answer_all(), name="operators' requests")
                group.create_task(self._watch(group), name="running commands")
        finally:
            await self._settle(everything=True)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        while True:
            self._arrived.clear()
            while self._waiting:
                self._busy = True
                try:
                    await self._answer(self._waiting.take())
                finally:
                    self._busy = False
            await self._arrived.wait()

    async def _answer(self, message: Inbound) -> None:
        parsed = account_topics.parse(message.topic, self._root)
        assert parsed is not None
        name, verb = parsed
        trace_id, encoding, request_id = secrets.token_hex(8), encoding_of(message.payload), ""
        try:
            body = read_map(message.payload)
            request_id = readable_id(body)
            payload = await self._do(name, verb, body, request_id, trace_id, encoding)
        except ServiceError as error:
            self._count(error.cause)
            payload = replies.refused(request_id, error, trace_id, encoding)
        except Exception:
            log.exception("a command failed", extra={"trace_id": trace_id, "verb": verb})
            fault = ServiceError(codes.INTERNAL, "a fault of the service", cause="internal_fault")
            payload = replies.refused(request_id, fault, trace_id, encoding)
        if not encode.fits(payload):
            too_large = ServiceError(codes.TOO_LARGE, "the answer is too large: ask for less", cause="reply_too_large")
            payload = replies.refused(request_id, too_large, trace_id, encoding)
        await self._send(message.link, account_topics.down(name, verb, self._root), payload)
        message.acknowledge()

    async def _do(
        self, name: str, verb: str, body: dict[str, Any], request_id: str, trace_id: str, encoding: str
    ) -> bytes:
        operator, asked = await self._before_a_command(name, verb, body, request_id)
        if not isinstance(asked, Request):
            return replies.reply(request_id, asked, trace_id, encoding)
        status = await self._commands.submit(operator, verb, asked)
        if status.command.state is CommandState.RUNNING:
            self._stored.set()
        error = replies.refusal_of(status)
        if error is None:
            return replies.reply(request_id, replies.status_fields(status), trace_id, encoding)
        if error.code == codes.CONFLICT:
            (one,) = status.outcomes
            with contextlib.suppress(ServiceError):  # what is refused need not be a device
                error.state = await looking.get(self._database, operator, f"{one.group_id}/{one.serial}")
        more = {"command": status.command.command_id}
        payload = replies.refused(request_id, error, trace_id, encoding, more)
        if not encode.fits(payload):  # the refusal itself must be told
            error.state = None
            payload = replies.refused(request_id, error, trace_id, encoding, more)
        return payload

    async def _before_a_command(
        self, name: str, verb: str, body: dict[str, Any], request_id: str
    ) -> tuple[Operator, dict[str, Any] | Request]:
        """Who asks, and the answer, or else the command. Audits what looks, and what is refused before it is a command."""
        operator = None
        try:
            async with self._database.read() as connection:
                operator = await accounts.operator(connection, name)
            if not request_id:
                raise RequestError(codes.BAD_REQUEST, "field id is missing or wrong", cause="bad_field")
            look = self._look_warehouse if verb.startswith("warehouse-") else self._look
            looked = await look(operator, verb, body)
            if looked is None:
                return operator, _read(Request, body)
        except ServiceError as error:
            if error.code != codes.UNAVAILABLE:
                await self.looks.note(looks.of(name, verb, body, error), known=operator is not None)
            raise
        if verb not in STEERING:
            await self.looks.note(looks.of(name, verb, body))
        return operator, looked

    async def _look(self, operator: Operator, verb: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to what changes no device; None for every other verb."""
        if verb == "get":
            return replies.device_fields(await looking.get(self._database, operator, _read(Get, body).device))
        if verb == "trace":
            return await looking.trace(self._database, operator, _read(Get, body).device)
        if verb == "list":
            asked = _read(List, body)
            page = await looking.list_page(
                self._database, operator, asked.selector, now=self._commands.now(), after=asked.after, limit=asked.limit
            )
            return replies.page_fields(
                "devices", page.devices, page.after, lambda one: f"{one['group']}/{one['serial']}"
            )
        if verb == "command-status":
            of = _read(StatusOf, body)
            status: Status = await self._commands.status(
                operator, of.command, after=of.after, result=of.result, failed_after=of.failed_after
            )
            return replies.status_fields(status)
        moves = {"pause": self._commands.pause, "resume": self._commands.resume, "cancel": self._commands.cancel}
        if verb in moves:
            moved = await moves[verb](operator, _read(CommandOf, body).command)
            self._stored.set()
            return replies.command_fields(moved)
        return None

    async def _look_warehouse(self, operator: Operator, verb: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if verb == "warehouse-show":
            shown = _read(WarehouseShow, body)
            return {"row": await warehouse_show.show(self._database, operator, shown.what, shown.name)}
        if verb != "warehouse-list":
            return None
        asked = _read(WarehouseList, body)
        narrowed = warehouse_pages.Asked(**asked.model_dump(exclude={"id", "what"}))
        page = await warehouse_pages.page(self._database, operator, asked.what, narrowed)
        return replies.page_fields("rows", page.rows, page.after, lambda one: str(one["name"]))

    # -- working commands off -----------------------------------------------------------------------------------------

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        """One task for each running command, so that a slow one does not hold up a quick one."""
        while True:
            try:
                running = await self._commands.running()
            except ServiceError as error:
                log.warning("running commands were not looked for: %s", error)
                running = []
            for command_id in running:
                if command_id not in self._working:
                    task = group.create_task(self._work(command_id), name=f"command {command_id}")
                    self._working[command_id] = task
                    task.add_done_callback(partial(self._ended, command_id))
            await self._settle()
            self._stored.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._stored.wait()

    async def _settle(self, *, everything: bool = False) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self.looks.settle(everything=everything)
        except (ServiceError, TimeoutError) as error:
            log.warning("the audit of what was looked at again waits: %s", error)

    def _ended(self, command_id: str, _task: asyncio.Task[None]) -> None:
        self._working.pop(command_id, None)

    async def _work(self, command_id: str) -> None:
        said_at = 0.0

        def progress(command: Command) -> None:
            nonlocal said_at
            now = self._monotonic()
            if command.state is not CommandState.RUNNING or now - said_at >= PROGRESS_S:
                said_at = now
                tell(command)

        waiting: set[asyncio.Task[None]] = set()

        def tell(command: Command) -> None:
            task = asyncio.create_task(self.push(command.account, replies.command_fields(command)))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        try:
            await self._commands.run(command_id, progress)
        except ServiceError as error:
            log.warning("command %s waits: %s", command_id, error)  # it is taken up again at the next look
            await asyncio.sleep(WATCH_S)
        except Exception:
            self._count("internal_fault")
            log.exception("command %s is tried again", command_id)
            await asyncio.sleep(FAULT_S)
        finally:
            if waiting:
                await asyncio.wait(waiting)

    # -- sending ------------------------------------------------------------------------------------------------------

    async def push(self, account: str, fields: dict[str, Any]) -> None:
        """Tell an operator of progress, at whichever broker he is."""
        if account == accounts.LOCAL:
            return
        for link in self._links:
            await self._send(link, account_topics.down(account, "progress", self._root), replies.push(fields))

    async def _send(self, link: Link, topic: str, payload: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await link.publish(topic, payload)
        except (LinkDown, TimeoutError):
            self._count("reply_dropped_link_down")


def _read(model: type[Any], body: dict[str, Any]) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise field_refused(error, "field") from None
