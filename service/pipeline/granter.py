"""Tells brokers which credentials live and which are dead.

Owns the grant before a reply, coalesced outside the batch loop, and the revocation after a drop, which the database
remembers until the broker has confirmed it. Source: docs/protocol.md, 4.4.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from device_sdk.wire import codes
from service.brokers.gate import BrokerGate, GateError, Login
from service.domain.credential import Credential
from service.errors import ServiceError
from service.pipeline.bounds import Bounds
from service.pipeline.ports import Upkeep
from service.pipeline.record import Record

log = logging.getLogger(__name__)

Done = Callable[[ServiceError | None], None]  # None: the login works


class Granter:
    """For one environment: grants what has gathered while the last grant was under way, and revokes.

    One call of the gate at a time, so that a grant that is under way when its credential is dropped cannot come to the
    broker after the revocation.
    """

    def __init__(self, gate: BrokerGate, bounds: Bounds, record: Record) -> None:
        self._gate = gate
        self._bounds = bounds
        self._record = record
        self._waiting: dict[str, tuple[Login, list[Done]]] = {}
        self._arrived = asyncio.Event()
        self._busy = False
        self._calling = asyncio.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._busy

    def submit(self, login: Login, done: Done) -> None:
        """Grant soon; `done` is called once."""
        self._seen[login.credential_id] = None
        if len(self._seen) > self._bounds.bucket_table:
            self._seen.popitem(last=False)
        waiting = self._waiting.get(login.credential_id)
        if waiting is not None:
            waiting[1].append(done)
        elif len(self._waiting) >= self._bounds.grants_waiting:
            done(_not_granted("too many grants wait"))
        else:
            self._waiting[login.credential_id] = (login, [done])
            self._arrived.set()

    def has_seen(self, credential_id: str) -> bool:
        """Whether it was asked for here lately."""
        return credential_id in self._seen

    async def run(self) -> None:
        while True:
            self._arrived.clear()
            while self._waiting:
                taken = [
                    self._waiting.pop(credential_id)
                    for credential_id in list(self._waiting)[: self._bounds.grant_batch]
                ]
                self._busy = True
                try:
                    error = await self._grant([login for login, _ in taken])
                finally:
                    self._busy = False
                for _, dones in taken:
                    for done in dones:
                        done(error)
            await self._arrived.wait()

    async def revoke(self, logins: Sequence[Login]) -> None:
        """Returns when the broker refuses these. Raises GateError, TimeoutError."""
        for login in logins:
            _, dones = self._waiting.pop(login.credential_id, (login, []))
            for done in dones:
                done(_not_granted("dropped before it was granted"))
        async with asyncio.timeout(self._bounds.gate_timeout_s), self._calling:
            await self._gate.revoke(logins)

    async def _grant(self, logins: Sequence[Login]) -> ServiceError | None:
        try:
            async with self._calling, asyncio.timeout(self._bounds.gate_timeout_s):
                await self._gate.grant(logins)
        except (GateError, TimeoutError) as error:
            self._record.count("grant_failed")
            log.warning("%d logins were not granted: %s", len(logins), error or "no answer in time")
            return _not_granted("the broker did not confirm")
        return None


class Revoker:
    """For all environments: what is dropped and not yet revoked, woken at once and looking every second."""

    def __init__(
        self,
        upkeep: Upkeep,
        granters: Mapping[str, Granter],
        bounds: Bounds,
        record: Record,
        *,
        clock: Callable[[], datetime],
        forget: Callable[[Sequence[str]], None],
    ) -> None:
        self._upkeep = upkeep
        self._granters = granters
        self._bounds = bounds
        self._record = record
        self._clock = clock
        self._forget = forget
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            await guarded("revoke", self._record, self.revoke_all)
            try:
                async with asyncio.timeout(self._bounds.tick_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def revoke_all(self) -> None:
        """Revoke everything that is due, page by page; one broker that does not answer does not hold up another."""
        after = ""
        while found := await self._upkeep.unrevoked(after=after):
            after = found[-1].credential_id
            self._forget([one.credential_id for one in found])
            for environment, granter in self._granters.items():
                await self._revoke(granter, [one for one in found if one.environment == environment])

    async def _revoke(self, granter: Granter, dropped: Sequence[Credential]) -> None:
        if not dropped:
            return
        try:
            await granter.revoke([login_of(one) for one in dropped])
        except (GateError, TimeoutError) as error:
            self._record.count("revoke_failed")
            log.warning("%d logins were not revoked: %s", len(dropped), error or "no answer in time")
            return
        await self._upkeep.mark_revoked([one.credential_id for one in dropped], self._clock())


def login_of(credential: Credential) -> Login:
    """What a broker needs to revoke; without the API key, which only a grant needs."""
    return Login(
        credential_id=credential.credential_id,
        kind=credential.kind,
        api_key_sha256=credential.api_key_sha256,
        certificate_serial=credential.certificate_serial,
    )


async def guarded(what: str, record: Record, work: Callable[[], Awaitable[None]]) -> None:
    """Run one round of upkeep; storage that is away now is tried again in the next, a fault is logged and counted."""
    try:
        await work()
    except ServiceError as error:
        record.count(f"{what}_put_off")
        log.warning("%s put off: %s", what, error.detail or error.public)
    except Exception:
        record.count("internal_fault")
        log.exception("%s failed", what)


def _not_granted(detail: str) -> ServiceError:
    return ServiceError(codes.UNAVAILABLE, "the broker is not ready", cause="grant_unavailable", detail=detail)
