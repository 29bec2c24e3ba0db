"""One batch: one load, the pure handlers in order, one save, one commit, and only then replies.

Owns the life of a batch and what becomes of each message in it. A batch that cannot be stored answers UNAVAILABLE to
each; one whose handler fails answers INTERNAL to that message alone. Knows neither broker nor MQTT library.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.wire import codes
from service.credentials.authority import CsrError, read_csr
from service.credentials.item_seals import ItemSeals
from service.credentials.signing import Signers
from service.domain import moves
from service.domain.catalogue import Catalogue
from service.domain.changes import Trace
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device
from service.errors import ServiceError
from service.handlers import (
    activate,
    fetch,
    handshake,
    http_activate,
    internal,
    item,
    online,
    report,
    simple,
    stage,
    staged,
    tend,
)
from service.handlers.decision import Context, Decision, Effect, Incomplete, Unsigned, World
from service.pipeline.jobs import Job
from service.pipeline.ports import Batch, Store
from service.pipeline.record import Record
from service.pipeline.working import Working
from service.protocol import encode
from service.protocol.schemas import Claim

log = logging.getLogger(__name__)

EXPIRE = "expire"
REFRESH = "refresh"
TEND = "tend"  # the job's owner is a device id

_ACTIVATING: dict[str, Callable[[Device | None, Job, Claim, Context], Decision]] = {
    "activate": lambda device, job, claim, context: activate.handle(device, _request(job), claim, context),
    "stage": lambda device, job, claim, context: stage.handle(device, _request(job), claim, context),
    "http-activate": lambda device, job, claim, context: http_activate.handle(device, _request(job), claim, context),
}
_OPERATIONAL: dict[str, Callable[[Device, Job, Context], Decision]] = {
    "online": lambda device, job, context: online.handle(device, _request(job), context),
    "report": lambda device, job, context: report.handle(device, _request(job), context),
    "fetch": lambda device, job, context: fetch.handle(device, _request(job), context),
    "http-fetch": lambda device, job, context: fetch.version(device, _request(job), context),
    "item": lambda device, job, context: item.handle(device, _request(job), context),
    "staged": lambda device, job, context: staged.handle(device, _request(job), context),
    "handshake": lambda device, job, context: handshake.handle(device, _request(job), context),
    "target": lambda device, job, context: simple.target(device, _request(job), context),
    "current": lambda device, job, context: simple.current(device, _request(job), context),
    "installed": lambda device, job, context: simple.installed(device, _request(job), context),
    "rename": lambda device, job, context: simple.rename(device, _request(job), context),
    EXPIRE: lambda device, _job, context: internal.expire(device, context),
    REFRESH: lambda device, _job, context: internal.refresh(device, context),
}


@dataclass(slots=True)
class Outcome:
    """What is to be done for one message after the commit."""

    job: Job
    reply: bytes | None = None
    effects: tuple[Effect, ...] = ()
    put_off: bool = False  # nothing was decided, storage being away


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch that is done: what follows for each message, and which credentials are dead from now on."""

    outcomes: Sequence[Outcome]
    dropped: Sequence[Credential] = ()


class Executor:
    def __init__(
        self,
        store: Store,
        record: Record,
        *,
        service_key: Ed25519PrivateKey,
        signers: Signers,
        clock: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
        admit: Callable[[str, str], None],
        told_service_keys: tuple[bytes, ...] = (),
    ) -> None:
        self._told_service_keys = told_service_keys
        self._store = store
        self._record = record
        self._service_key = service_key
        self._signers = signers
        self._clock = clock
        self._random_bytes = random_bytes
        self._admit = admit
        self._seals = ItemSeals()
        self.listening_since = clock()
        self.down_since: dict[str, datetime] = {}

    def use_service_keys(self, key: Ed25519PrivateKey, told: tuple[bytes, ...]) -> None:
        """From the next batch on: the one that proves, and those that devices are told of."""
        self._service_key, self._told_service_keys = key, told

    async def execute(self, jobs: Sequence[Job]) -> Settled:
        """Commit what these messages ask for and say what to answer. Raises nothing of its own."""
        try:
            return await self._commit(jobs)
        except ServiceError as error:
            if error.code == codes.UNAVAILABLE or len(jobs) == 1:
                log.warning("a batch of %d was not stored: %s", len(jobs), error.detail or error.public)
                return Settled([self._refused(job, error) for job in jobs])
        except Exception:
            if len(jobs) == 1:
                log.exception("message refused by a fault", extra={"trace_id": jobs[0].trace_id, "verb": jobs[0].verb})
                return Settled([self._refused(jobs[0], _internal())])
        # One of them is poison: each alone, so that the others get through.
        settled = [await self.execute([job]) for job in jobs]
        return Settled(
            [outcome for one in settled for outcome in one.outcomes], [gone for one in settled for gone in one.dropped]
        )

    async def _commit(self, jobs: Sequence[Job]) -> Settled:
        waiting: dict[str, int] = {}
        try:
            async with self._store.batch() as batch:
                working = await self._load(batch, jobs)
                world = self._world(batch.catalogue)
                outcomes = await self._outcomes(jobs, batch, working, world)
                if working.has_changes:
                    waiting = self._record.take_counters()
                    await batch.save(working.changes(waiting))
        except BaseException:
            self._record.give_back(waiting)  # and what these messages would have counted is not counted
            raise
        if not working.has_changes:
            self._record.give_back(working.counters)
        self._record.log_steps(working.traces)
        return Settled(outcomes, working.dropped)

    def _world(self, catalogue: Catalogue) -> World:
        now = self._clock()  # nothing is reckoned from a time to come: the clock may have been set back
        self.listening_since = min(self.listening_since, now)
        self.down_since = {environment: min(since, now) for environment, since in self.down_since.items()}
        return World(
            catalogue=catalogue,
            service_key=self._service_key,
            issuers=self._signers.environments,
            random_bytes=self._random_bytes,
            admit=self._admit,
            listening_since=self.listening_since,
            seals=self._seals,
            told_service_keys=self._told_service_keys,
            down_since=self.down_since,
        )

    async def _load(self, batch: Batch, jobs: Sequence[Job]) -> Working:
        serials: set[tuple[str, str]] = set()
        credential_ids: set[str] = set()
        spki: set[bytes] = set()
        device_ids: set[str] = set()
        for job in jobs:
            if job.verb == TEND:
                device_ids.add(job.owner)
                continue
            claim = job.decoded.claim if job.decoded is not None else None
            if claim is None:
                credential_ids.add(job.owner)
                continue
            serials.add((claim.group_id, claim.serial))
            if claim.csr is not None:
                with suppress(CsrError):  # the handler refuses it, after the proof
                    job.csr = read_csr(claim.csr)
                    spki.add(job.csr.spki_sha256)
        return Working(
            await batch.load(claimed=serials, credential_ids=credential_ids, spki=spki, device_ids=device_ids)
        )

    async def _outcomes(self, jobs: Sequence[Job], batch: Batch, working: Working, world: World) -> list[Outcome]:
        """Handle every message; those that get certificates once more, when these are signed."""
        outcomes: dict[Job, Outcome] = {}
        open_jobs, signed = jobs, None
        while open_jobs:
            signing = self._signers.begin()
            ordered: list[Job] = []
            for job in open_jobs:
                if signed is not None:
                    job.signed = await signed.next()
                try:
                    outcomes[job] = await self._complete(job, batch, working, world)
                except Unsigned as unsigned:
                    job.proven = unsigned.proven
                    ordered.append(job)
                    await signing.order(unsigned.order)
            open_jobs, signed = ordered, signing
        return [outcomes[job] for job in jobs]

    async def _complete(self, job: Job, batch: Batch, working: Working, world: World) -> Outcome:
        """Handle one message; when it is proven and there is more to know of its device, load that and handle it again."""
        try:
            return self._handle(job, working, world)
        except Incomplete as more:
            working.complete(await batch.load(device_ids=[str(more)]))
            return self._handle(job, working, world)

    def _handle(self, job: Job, working: Working, world: World) -> Outcome:
        try:
            if job.verb == TEND:
                return self._tend(job, working, world)
            if job.verb in _ACTIVATING:
                return self._activate(job, working, world)
            return self._operate(job, working, world)
        except ServiceError as error:
            return self._refused(job, error)
        except (Incomplete, Unsigned):
            raise
        except Exception:
            log.exception("a handler failed", extra={"trace_id": job.trace_id, "verb": job.verb})
            return self._refused(job, _internal())

    def _context(self, job: Job, device: Device | None, working: Working, world: World) -> Context:
        return Context(
            world,
            self._clock(),
            job.owner,
            job.operational,
            job.trace_id,
            job.encoding,
            working.next_number,
            working.spki_in_use,
            partner=working.partner_of(device),
            csr=job.csr,
            self_registered=working.self_registered,
            answer=job.answer,
            signed=job.signed,
            proven=job.proven,
            asked_in=(job.link.environment or None) if job.link is not None else None,
            incomplete=working.is_incomplete(device),
        )

    def _activate(self, job: Job, working: Working, world: World) -> Outcome:
        decoded = job.decoded
        assert decoded is not None
        assert decoded.claim is not None
        device = working.of_serial(decoded.claim.group_id, decoded.claim.serial)
        context = self._context(job, device, working, world)
        decision = _ACTIVATING[job.verb](device, job, decoded.claim, context)
        return self._settle(job, device, decision, working, context, decoded.claim.group_id, decoded.claim.serial)

    def _operate(self, job: Job, working: Working, world: World) -> Outcome:
        device = working.of_credential(job.owner)
        credential = moves.find(device, job.owner) if device is not None else None
        # A message of a credential that is dropped, or was never ours, is ignored even if the broker let it in.
        if device is None or credential is None or credential.state is CredentialState.DROPPED:
            working.counters["credential_unknown" if credential is None else "credential_dropped"] += 1
            return Outcome(job)
        context = self._context(job, device, working, world)
        try:
            decision = _OPERATIONAL[job.verb](device, job, context)
        except ServiceError as error:
            decision = Decision(refusal=error)
        return self._settle(job, device, decision, working, context, device.group_id, device.serial)

    def _tend(self, job: Job, working: Working, world: World) -> Outcome:
        """What the clock or an operator's change asks of a device, whatever credentials it has."""
        device = working.of_device_id(job.owner)
        if device is None:
            return Outcome(job)
        context = self._context(job, device, working, world)
        decision = tend.handle(device, context)
        confirmed = moves.confirmed_of(device.credentials)
        decision = replace(decision, credential_id=confirmed.credential_id if confirmed else "")
        return self._settle(job, device, decision, working, context, device.group_id, device.serial)

    def _settle(
        self,
        job: Job,
        before: Device | None,
        decision: Decision,
        working: Working,
        context: Context,
        group_id: str,
        serial: str,
    ) -> Outcome:
        """Take a proven decision over: device, counters, trace, reply."""
        working.apply(before, decision)
        working.counters.update(decision.counters)
        credential_id = decision.credential_id or job.owner
        for step in decision.steps:
            if decision.refusal is not None and step.step == "refused":
                continue
            working.traces.append(
                Trace(
                    group_id, serial, context.now, job.trace_id, job.verb, step.step,
                    detail=step.detail, credential_id=credential_id,
                )
            )  # fmt: skip
        if decision.refusal is None:
            return Outcome(job, decision.reply, decision.effects)
        error = decision.refusal
        working.counters[error.cause] += 1
        working.traces.append(
            Trace(
                group_id, serial, context.now, job.trace_id, job.verb, "refused",
                error.code, error.cause, error.detail, credential_id,
            )
        )  # fmt: skip
        return Outcome(job, self._refusal(job, error), decision.effects)

    def _refused(self, job: Job, error: ServiceError) -> Outcome:
        """Refuse someone who has proved nothing, or everyone for a reason that is ours."""
        self._record.count(error.cause)
        claim = job.decoded.claim if job.decoded is not None else None
        self._record.remember(
            Trace(
                claim.group_id if claim else "", claim.serial if claim else "", self._clock(), job.trace_id,
                job.verb, "refused", error.code, error.cause, error.detail,
                job.owner if job.operational else None,
            )
        )  # fmt: skip
        return Outcome(job, self._refusal(job, error), put_off=error.code == codes.UNAVAILABLE)

    def _refusal(self, job: Job, error: ServiceError) -> bytes | None:
        if job.link is None:
            return None
        return encode.refusal(job.request_id, error, job.trace_id, job.encoding, random.random())  # noqa: S311


def _request(job: Job) -> Any:
    """The request; decoding made it with the model of its verb."""
    assert job.decoded is not None
    return job.decoded.request


def _internal() -> ServiceError:
    return ServiceError(codes.INTERNAL, "a fault of the service", cause="internal_fault")
