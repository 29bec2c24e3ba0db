"""Tells brokers which credentials live and which are dead.

Owns the grant before a reply, coalesced outside the batch loop, the revocation after a drop, which the database
remembers until the broker has confirmed it, and the comparison of a broker's whole list with the database.
Source: docs/protocol.md, 4.4.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from device_sdk.wire import codes
from service.brokers.gate import CANARY_PREFIX, BrokerGate, GateError, Login
from service.domain.credential import Credential, CredentialKind
from service.errors import ServiceError
from service.pipeline.bounds import Bounds
from service.pipeline.ports import Upkeep
from service.pipeline.record import Record

log = logging.getLogger(__name__)
COMPARED_AT_ONCE = 50  # logins of a comparison in one turn; a revocation waits for one turn at most

Done = Callable[[ServiceError | None], None]  # None: the login works


class Granter:
    """For one environment: grants what has gathered while the last grant was under way, and revokes.

    One call of the gate at a time, so that a grant that is under way when its credential is dropped cannot come to the
    broker after the revocation. That holds for the grants of a comparison too.
    """

    def __init__(self, gate: BrokerGate, bounds: Bounds, record: Record) -> None:
        self._gate = gate
        self._bounds = bounds
        self._record = record
        self._waiting: dict[str, tuple[Login, list[Done]]] = {}
        self._arrived = asyncio.Event()
        self._busy = False
        self._calling = asyncio.Lock()
        self._comparing = asyncio.Lock()
        self._asked: set[str] = set()  # granted or revoked since the comparison under way, or the last one, began
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._busy

    def submit(self, login: Login, done: Done) -> None:
        """Grant soon; `done` is called once."""
        self._touch(login.credential_id)
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
            self._touch(login.credential_id)
            _, dones = self._waiting.pop(login.credential_id, (login, []))
            for done in dones:
                done(_not_granted("dropped before it was granted"))
        async with asyncio.timeout(self._bounds.gate_timeout_s), self._calling:
            await self._gate.revoke(logins)

    async def reconcile(self, expected: AsyncIterable[Login]) -> tuple[int, int]:
        """Make the broker's list of API keys equal to `expected`; returns (granted, revoked). Raises GateError.

        `expected` is read once, after the broker was asked, so a credential granted meanwhile is not taken for an extra
        one. Grants and revocations go on between the pages; who was asked for since the beginning is left alone,
        because what was asked is newer than both lists: a credential that was live when it was read and is revoked
        before its page comes is not let in again.
        """
        async with self._comparing:
            self._asked.clear()
            return await self._compare(expected)

    async def _compare(self, expected: AsyncIterable[Login]) -> tuple[int, int]:
        have = await self._gate.snapshot()
        if have is None:
            return 0, 0
        known: set[str] = set()
        missing: list[Login] = []
        granted = revoked = 0
        async for login in expected:
            if login.kind is CredentialKind.API_KEY:
                known.add(login.credential_id)
                if login.credential_id not in have:
                    missing.append(login)
            if len(missing) >= COMPARED_AT_ONCE:
                granted += await self._apart(self._gate.grant, missing)
                missing = []
        granted += await self._apart(self._gate.grant, missing)
        extra = [
            Login(one, CredentialKind.API_KEY) for one in sorted(have - known) if not one.startswith(CANARY_PREFIX)
        ]
        for start in range(0, len(extra), COMPARED_AT_ONCE):
            revoked += await self._apart(self._gate.revoke, extra[start : start + COMPARED_AT_ONCE])
        return granted, revoked

    async def _apart(self, call: Callable[[Sequence[Login]], Awaitable[None]], logins: Sequence[Login]) -> int:
        """One page of a comparison, in its turn; how many it was done for."""
        async with self._calling:
            left = [login for login in logins if login.credential_id not in self._asked]
            if left:
                await call(left)
        return len(left)

    def _touch(self, credential_id: str) -> None:
        if self._comparing.locked():
            self._asked.add(credential_id)

    async def _grant(self, logins: Sequence[Login]) -> ServiceError | None:
        try:
            async with self._calling, asyncio.timeout(self._bounds.gate_timeout_s):
                await self._gate.grant(logins)
        except (GateError, TimeoutError) as error:
            self._record.count("grant_failed")
            log.warning("%d logins were not granted: %s", len(logins), error or "no answer in time")
            return _not_granted("the broker did not confirm")
        except Exception:
            self._record.count("internal_fault")
            log.exception("%d logins were not granted", len(logins))
            return _not_granted("a fault of the service")
        return None


class Revoker:
    """For all environments: what is dropped and not yet revoked, woken at once and looking every second.

    A broker that does not answer keeps its own call open, and no other environment waits for it.
    """

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
        self._calls: dict[str, asyncio.Task[None]] = {}  # by environment

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        try:
            while True:
                self._woken.clear()
                await guarded("revoke", self._record, partial(self.revoke_all, self._bounds.tick_s))
                try:
                    async with asyncio.timeout(self._bounds.tick_s):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            for call in self._calls.values():
                call.cancel()
            await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def revoke_all(self, wait_s: float | None = None) -> None:
        """Revoke everything that is due, page by page; `wait_s` is how long one page waits for its brokers."""
        after = ""
        while found := await self._upkeep.unrevoked(after=after):
            after = found[-1].credential_id
            self._forget([one.credential_id for one in found])
            begun = []
            for environment, granter in self._granters.items():
                dropped = [one for one in found if one.environment == environment]
                if dropped and environment not in self._calls:
                    begun.append(self._begin(environment, granter, dropped))
            if begun:
                await asyncio.wait(begun, timeout=wait_s)

    def _begin(self, environment: str, granter: Granter, dropped: Sequence[Credential]) -> asyncio.Task[None]:
        work = guarded("revoke", self._record, partial(self._revoke, granter, dropped))
        call = self._calls[environment] = asyncio.create_task(work, name=f"revoke {environment}")
        call.add_done_callback(lambda _: self._calls.pop(environment, None))
        return call

    async def _revoke(self, granter: Granter, dropped: Sequence[Credential]) -> None:
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
