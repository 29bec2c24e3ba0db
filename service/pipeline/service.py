"""The pipeline put together: deliver, run, drain.

Owns the tasks and what goes from one stage to the next; each stage stands in its own file. The composition root gives
it adapters and runs it. Source: docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from device_sdk.wire import codes, topics
from service.brokers.gate import BrokerGate
from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.credentials.signing import Signers
from service.domain.changes import Trace
from service.domain.credential import Credential
from service.errors import ServiceError
from service.handlers import hello
from service.handlers.decision import AskHook, Authorise, Grant, Push
from service.images.pages import Files
from service.images.streamer import Permit, Streamer
from service.mqtt.port import SPACES, Inbound, Link, Role, root_of
from service.pipeline.bounds import Bounds
from service.pipeline.calls import Call
from service.pipeline.executor import Executor, Outcome, Settled
from service.pipeline.granter import Done, Granter, Revoker
from service.pipeline.hooks import Ask, HookRunner, no_hooks
from service.pipeline.inbound import Admission
from service.pipeline.jobs import Job
from service.pipeline.outbox import Outbox
from service.pipeline.ports import Store, Upkeep
from service.pipeline.record import Record
from service.pipeline.throttle import BucketTable
from service.pipeline.ticker import Ticker
from service.protocol import encode
from service.protocol.schemas import Fetch, Hello

log = logging.getLogger("firstlight.pipeline")
_HELLOS_A_TURN = 64


def utc_now() -> datetime:
    return datetime.now(UTC)


class Pipeline:
    """Give it links with `attach`, pass `deliver` to them, `run` it in a task, `drain` before the end."""

    def __init__(
        self,
        *,
        store: Store,
        upkeep: Upkeep,
        gates: Mapping[str, BrokerGate],
        images: Files,
        keys: KeyFile,
        authorities: Mapping[str, Authority],
        bounds: Bounds | None = None,
        root: str = topics.ROOT,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
        ask_hook: Ask = no_hooks,
        elsewhere: Collection[str] = (),
    ) -> None:
        self.bounds = bounds or Bounds()
        self.record = Record(self.bounds.unproven_traces)
        self._root = root
        self._clock = clock
        self._monotonic = monotonic
        self._links: dict[tuple[str, Role], Link] = {}
        self._outboxes: dict[int, Outbox] = {}
        self._busy = False
        self._elsewhere = frozenset(elsewhere)  # environments that another process serves and grants in
        self.streamer = self._make_streamer(images)
        self.admission = self._make_admission(keys)
        self.signers = Signers(authorities)
        self.executor = Executor(
            store,
            self.record,
            service_key=keys.service_private_key(),
            signers=self.signers,
            clock=clock,
            random_bytes=random_bytes,
            admit=self._admit_proven,
            told_service_keys=keys.told_service_keys(),
        )
        self.granters = {name: Granter(gate, self.bounds, self.record) for name, gate in gates.items()}
        self.hooks = HookRunner(ask_hook, self.bounds, self.record, monotonic=monotonic, answered=self._answered)
        self.revoker = Revoker(
            upkeep, self.granters, self.bounds, self.record, clock=clock, forget=self.streamer.forget
        )
        self.ticker = Ticker(upkeep, self.bounds, self.record, clock=clock, submit=self.admission.submit)
        self._serials = BucketTable(self.bounds.serial_rate, self.bounds.serial_burst, self.bounds.bucket_table)
        self._groups = BucketTable(self.bounds.group_rate, self.bounds.group_burst, self.bounds.bucket_table)

    def attach(self, link: Link) -> None:
        """Serve this link too; before `run`."""
        self._links[link.environment, link.role] = link
        self._outboxes[id(link)] = Outbox(link, self.bounds.queued_replies, self.record)
        if link.role is Role.OPERATIONAL:
            self.ticker.watch(link)

    def deliver(self, message: Inbound) -> None:
        """Take one message; never blocks. Given to each link as its `deliver`."""
        self.admission.deliver(message)

    async def ask(
        self, verb: str, owner: str, fields: Mapping[str, Any], trace_id: str, *, operational: bool
    ) -> dict[str, Any]:
        """Carry out one request that no broker brought and return its reply's fields; see Call. Raises ServiceError."""
        call = Call(verb, owner, fields, trace_id, operational=operational)
        self.admission.call(call)
        return await call.reply()

    def use_keys(self, keys: KeyFile) -> None:
        """From the next message on; whoever changes them tells devices before what they go by ends."""
        self.admission.nonce_keys = keys.nonce_keys()
        self.executor.use_service_keys(keys.service_private_key(), keys.told_service_keys())

    def link_state(self, environment: str, *, connected: bool) -> None:
        """Whether an environment's operational broker can be reached: what the failover policy goes by."""
        if connected:
            self.executor.down_since.pop(environment, None)
        else:
            self.executor.down_since.setdefault(environment, self._clock())

    def link_connected(self, link: Link) -> None:
        """It was down until now: who was silent meanwhile may have spoken, and what was pushed may be lost."""
        self.executor.listening_since = self._clock()
        if link.role is Role.OPERATIONAL:
            self.ticker.tell_again(link.environment)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve_hellos(), name="hello")
                group.create_task(self._execute_batches(), name="executor")
                group.create_task(self.hooks.run(), name="hooks")
                group.create_task(self.revoker.run(), name="revoker")
                group.create_task(self.ticker.run(), name="ticker")
                group.create_task(self.streamer.read_ahead(), name="image reader")
                for environment, granter in self.granters.items():
                    group.create_task(granter.run(), name=f"granter {environment}")
                for (environment, role), link in self._links.items():
                    group.create_task(self._outboxes[id(link)].run(), name=f"outbox {environment} {role}")
                    if role is Role.OPERATIONAL:
                        group.create_task(self.streamer.run_lane(link), name=f"streamer {environment}")
        finally:
            self.streamer.close()
            await self.signers.close()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, finish what was taken, store the counters. Whether all was done in that time.

        `run` must still be running; cancel it afterwards.
        """
        self.admission.closed = True
        try:
            async with asyncio.timeout(timeout_s):
                while not self.idle:  # noqa: ASYNC110 - many stages, one look each, only at the end
                    await asyncio.sleep(0.01)
                await self.ticker.flush()
        except (TimeoutError, ServiceError):
            return False
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way, downloads excepted."""
        return (
            self.admission.idle
            and not self._busy
            and self.hooks.idle
            and all(granter.idle for granter in self.granters.values())
            and all(outbox.idle for outbox in self._outboxes.values())
        )

    # -- the two loops ------------------------------------------------------------------------------------------------

    async def _serve_hellos(self) -> None:
        admission = self.admission
        while True:
            admission.hello_arrived.clear()
            while jobs := admission.take_hellos(_HELLOS_A_TURN):
                for job in jobs:
                    self._hello(job)
                await asyncio.sleep(0)
            await _wait(admission.hello_arrived, admission.next_hello_s())

    async def _execute_batches(self) -> None:
        admission = self.admission
        while True:
            admission.job_arrived.clear()
            while jobs := admission.take_batch():
                self._busy = True
                try:
                    self._carry_out(await self.executor.execute(jobs))
                finally:
                    self._busy = False
                await asyncio.sleep(0)  # messages that came during the commit are taken in before the next batch
            await _wait(admission.job_arrived, admission.next_batch_s())

    def _hello(self, job: Job) -> None:
        assert job.decoded is not None
        request = job.decoded.request
        assert isinstance(request, Hello)
        fields = hello.fields(request, job.owner, self.admission.nonce_keys[0], self._clock())
        self.record.count("hello")
        self._reply(job, encode.reply(request.id, fields, job.trace_id, job.encoding))
        job.done()

    # -- after the commit ---------------------------------------------------------------------------------------------

    def _carry_out(self, settled: Settled) -> None:
        """Acknowledge, then replies and effects; the dead are forgotten first."""
        if settled.dropped:
            self._forget_dropped(settled.dropped)
        if any(one.put_off and one.job.link is None for one in settled.outcomes):
            self.ticker.tell_again()
        for outcome in settled.outcomes:
            outcome.job.done()
            try:
                self._follow(outcome)
            except Exception:  # what is stored stays; the device asks again for its reply
                self.record.count("internal_fault")
                log.exception("a fault after the commit", extra={"trace_id": outcome.job.trace_id})

    def _follow(self, outcome: Outcome) -> None:
        if outcome.effects:
            self._effects(outcome)
        elif outcome.reply is not None:
            self._reply(outcome.job, outcome.reply)
        elif isinstance(outcome.job.link, Call):
            outcome.job.link.answer(None)

    def _effects(self, outcome: Outcome) -> None:
        job, reply = outcome.job, outcome.reply
        for effect in outcome.effects:
            if isinstance(effect, Grant):
                self._grant(effect, job, reply)
                reply = None
            elif isinstance(effect, Push):
                self._push(effect)
            elif isinstance(effect, AskHook):
                self.hooks.submit(effect.question, job)
            else:
                self._authorise(effect, job)
        if reply is not None:
            self._reply(job, reply)

    def _answered(self, job: Job) -> None:
        """Look at the message again, now with the hook's answer."""
        if not self.admission.submit(job):
            self._refuse(job, ServiceError(codes.THROTTLED, "too many messages", cause="queue_full"))

    def _grant(self, effect: Grant, job: Job, reply: bytes | None) -> None:
        def done(error: ServiceError | None) -> None:
            if error is not None:
                self.record.count(error.cause)
                self._refuse(job, error)
            elif reply is not None:
                self._reply(job, reply)

        self._submit_grant(effect, done)

    def _submit_grant(self, effect: Grant, done: Done) -> None:
        granter = self.granters.get(effect.environment)
        if granter is None and effect.environment in self._elsewhere:
            self.record.count("grant_left_to_others")
            done(None)
        elif granter is None:
            done(ServiceError(codes.UNAVAILABLE, "the broker is not ready", cause="gate_missing"))
        else:
            granter.submit(effect.login, done)

    def _push(self, effect: Push) -> None:
        link = self._links.get((effect.environment, Role.OPERATIONAL))
        if link is not None:
            self._send(link, self._down(topics.OPERATIONAL, effect.credential_id, "desired"), effect.payload)

    def _authorise(self, effect: Authorise, job: Job) -> None:
        if effect.sealed is not None:
            self.streamer.keep(effect.image_id, effect.sealed)
        permit = self.streamer.authorise(effect.credential_id, effect.thing_id, effect.image_id, effect.size)
        self._stream(job, permit)

    def _fetch_at_once(self, job: Job) -> bool:
        """Stream for a credential that holds a permit for this image. Whether it does.

        A permit for another image decides nothing: the target may have changed since, and the rules are asked again.
        """
        permit = self.streamer.permit(job.owner)
        if permit is None or job.link is None or job.decoded is None or permit.prefix != _fetch_of(job).image:
            return False
        self._stream(job, permit)
        return True

    def _stream(self, job: Job, permit: Permit) -> None:
        """Queue the chunks, or answer why not."""
        assert job.link is not None
        topic = self._down(topics.OPERATIONAL, job.owner, "chunk")
        try:
            self.streamer.request(job.link, permit, _fetch_of(job), topic)
        except ServiceError as error:
            self.record.count(error.cause)
            self.record.remember(
                Trace(
                    "", "", self._clock(), job.trace_id, job.verb, "refused", error.code, error.cause, error.detail,
                    job.owner,
                )
            )  # fmt: skip
            self._refuse(job, error)
        job.done()

    def _forget_dropped(self, dropped: Sequence[Credential]) -> None:
        self.streamer.forget([one.credential_id for one in dropped])
        self.revoker.wake()

    # -- sending ------------------------------------------------------------------------------------------------------

    def _reply(self, job: Job, payload: bytes) -> None:
        if job.link is not None:
            role = job.link.role
            topic = topics.down(SPACES[role], job.owner, job.verb, root_of(role, self._root))
            self._send(job.link, topic, payload)

    def _refuse(self, job: Job, error: ServiceError) -> None:
        chance = int.from_bytes(os.urandom(2), "big") / 65536
        self._reply(job, encode.refusal(job.request_id, error, job.trace_id, job.encoding, chance))

    def _send(self, link: Link, topic: str, payload: bytes) -> None:
        if isinstance(link, Call):
            link.answer(payload)
            return
        outbox = self._outboxes.get(id(link))
        if outbox is not None:
            outbox.put(topic, payload)

    def _down(self, space: str, owner: str, verb: str) -> str:
        return topics.down(space, owner, verb, self._root)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _admit_proven(self, group_id: str, serial: str) -> None:
        """Rates of serial and group. Raises ServiceError THROTTLED."""
        now = self._monotonic()
        if not self._serials.take(f"{group_id}/{serial}", now):
            raise ServiceError(codes.THROTTLED, "too many activations", cause="throttled_serial")
        if not self._groups.take(group_id, now):
            raise ServiceError(codes.THROTTLED, "too many activations", cause="throttled_group")

    def _make_admission(self, keys: KeyFile) -> Admission:
        return Admission(
            self.bounds,
            self.record,
            keys.nonce_keys(),
            clock=self._clock,
            monotonic=self._monotonic,
            send=self._send,
            fetch=self._fetch_at_once,
            root=self._root,
        )

    def _make_streamer(self, images: Files) -> Streamer:
        bounds = self.bounds
        return Streamer(
            images,
            bounds.stream(),
            monotonic=self._monotonic,
            per_thing=BucketTable(bounds.thing_bytes_rate, bounds.thing_bytes_burst, bounds.bucket_table),
            overall=BucketTable(bounds.stream_bytes_rate, bounds.stream_bytes_burst, 1),
            count=self.record.count,
        )


def _fetch_of(job: Job) -> Fetch:
    assert job.decoded is not None
    assert isinstance(job.decoded.request, Fetch)
    return job.decoded.request


async def _wait(arrived: asyncio.Event, timeout_s: float | None) -> None:
    """Until something arrives, or the budget lets more through (None: only the first)."""
    if timeout_s is None:
        await arrived.wait()
        return
    try:
        async with asyncio.timeout(max(timeout_s, 0.001)):
            await arrived.wait()
    except TimeoutError:
        return
