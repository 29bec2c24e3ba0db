"""A link, a gate, an upkeep and clocks in memory, for tests of the pipeline without brokers."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta

from service.brokers.gate import AccountLogin, GateError, Login
from service.domain import desired, moves, updates
from service.domain.credential import CredentialKind, CredentialState
from service.domain.event import TOUCHING
from service.mqtt.port import Inbound, LinkDown, Role

START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeClock:
    """Wall and monotonic time that move only when told."""

    def __init__(self, start: datetime = START) -> None:
        self.now = start
        self.seconds = 1000.0

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds


class FakeLink:
    """Keeps what is published; `send` delivers a message and counts its acknowledgements."""

    def __init__(self, role: Role, environment: str = "prod") -> None:
        self.environment = environment
        self.role = role
        self.published: deque[tuple[str, bytes]] = deque()
        self.acknowledged = 0
        self.down = False
        self.deliver = None
        self.arrived = asyncio.Event()
        self.blocked: asyncio.Event | None = None
        self.faults: list[Exception] = []  # each is raised once

    @property
    def up(self) -> bool:
        return not self.down

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.down:
            raise LinkDown
        if self.faults:
            raise self.faults.pop()
        if self.blocked is not None:
            await self.blocked.wait()
        self.published.append((topic, payload))
        self.arrived.set()
        await asyncio.sleep(0)

    def send(self, topic: str, payload: bytes) -> None:
        self.deliver(Inbound(self, topic, payload, self._acknowledge))

    async def next(self, topic: str) -> bytes:
        """The next message published on this topic; others stay."""
        async with asyncio.timeout(30):
            while True:
                for item in self.published:
                    if item[0] == topic:
                        self.published.remove(item)
                        return item[1]
                self.arrived.clear()
                await self.arrived.wait()

    def _acknowledge(self) -> None:
        self.acknowledged += 1


class FakeGate:
    """Lets in what was granted; `fail` makes every call raise."""

    def __init__(self) -> None:
        self.logins: dict[str, Login] = {}
        self.accounts: dict[str, AccountLogin] = {}
        self.calls: list[tuple[str, int]] = []
        self.fail = False

    async def grant(self, logins) -> None:
        self._called("grant", logins)
        if any(one.kind is CredentialKind.API_KEY and not (one.api_key or one.api_key_sha256) for one in logins):
            raise GateError("no key")
        self.logins.update({one.credential_id: one for one in logins})

    async def revoke(self, logins) -> None:
        self._called("revoke", logins)
        for one in logins:
            self.logins.pop(one.credential_id, None)

    async def set_accounts(self, wanted) -> tuple[int, int]:
        before, self.accounts = self.accounts, {one.name: one for one in wanted}
        granted = sum(before.get(name) != one for name, one in self.accounts.items())
        return granted, sum(self.accounts.get(name) != one for name, one in before.items())

    async def snapshot(self) -> frozenset[str]:
        return frozenset(name for name, one in self.logins.items() if one.kind is CredentialKind.API_KEY)

    def _called(self, what: str, logins) -> None:
        self.calls.append((what, len(logins)))
        if self.fail:
            raise GateError("not now")


class FakeUpkeep:
    """The ticker's view of a fake store."""

    def __init__(self, store) -> None:
        self._store = store
        self.revoked: list[str] = []
        self.counters: dict[str, int] = {}
        self.refreshed: dict[str, int] = {}
        self.tended: dict[str, int] = {}

    async def due(self, now, *, limit: int = 1000):
        return [one.device_id for one in self._store.devices.values() if _is_due(one, now)][:limit]

    async def renewable(self, environment, after, until):
        catalogue = self._store.catalogue
        return [
            device.device_id
            for device in self._store.devices.values()
            if (one := moves.confirmed_of(device.credentials)) is not None
            and one.environment == environment
            and desired.is_renewal_due(one, until, catalogue.groups[device.group_id].credential_life_s)
            and not desired.is_renewal_due(one, after, catalogue.groups[device.group_id].credential_life_s)
        ]

    async def tended_to(self, environment) -> int:
        return self.tended.get(environment, 0)

    async def touched(self, environment, after: int, *, limit: int = 1000):
        found = []
        for number, one in enumerate(self._store.events, start=1):
            device = self._store.device(one.group_id, one.serial)
            confirmed = moves.confirmed_of(device.credentials)
            is_here = confirmed is None or confirmed.environment == environment
            if number > after and one.kind in TOUCHING and is_here:
                found.append((number, device.device_id))
        return found[:limit]

    async def set_tended_to(self, environment, number: int) -> None:
        self.tended[environment] = number

    async def refreshed_rev(self, environment) -> int:
        return self.refreshed.get(environment, 0)

    async def set_refreshed_rev(self, environment, rev: int) -> None:
        self.refreshed[environment] = rev

    async def confirmed(self, environment, *, after: str = "", limit: int = 1000):
        found = [
            one.credential_id
            for device in self._store.devices.values()
            for one in device.credentials
            if one.state is CredentialState.CONFIRMED and one.environment == environment and one.credential_id > after
        ]
        return sorted(found)[:limit]

    async def catalogue_rev(self) -> int:
        return self._store.catalogue.rev

    async def unrevoked(self, *, after: str = "", limit: int = 1000):
        found = [
            one
            for device in self._store.devices.values()
            for one in device.credentials
            if one.state is CredentialState.DROPPED
            and one.credential_id not in self.revoked
            and one.credential_id > after
        ]
        return sorted(found, key=lambda one: one.credential_id)[:limit]

    async def mark_revoked(self, credential_ids, at) -> None:
        self.revoked += credential_ids

    async def pending_expired(self, now, *, limit: int = 1000):
        return [
            one.credential_id
            for device in self._store.devices.values()
            for one in device.credentials
            if one.state is CredentialState.PENDING and one.expires_at <= now
        ][:limit]

    async def outlived(self, now, *, limit: int = 1000):
        lives = {name: one.credential_life_s for name, one in self._store.catalogue.groups.items()}
        return [
            moves.confirmed_of(device.credentials).credential_id
            for device in self._store.devices.values()
            if moves.drop_outlived(device, lives[device.group_id], now) is not device
        ][:limit]

    async def delete_dropped(self, dropped_before, *, limit: int = 1000) -> int:
        return 0

    async def prune_revoked(self, now) -> int:
        return 0

    async def add_counters(self, increments) -> None:
        for name, value in increments.items():
            self.counters[name] = self.counters.get(name, 0) + value

    async def prune_history(self, *, events_before, commands_before, audit_before) -> int:
        self.history_kept_from = (events_before, commands_before, audit_before)
        return 0

    async def prune_traces(self) -> int:
        return 0


def _is_due(device, now) -> bool:
    if updates.is_due(device.firmware, now):
        return True
    if any(at is not None and at <= now for at in (device.retire_deadline_at, device.rekey_deadline_at)):
        return True
    thing = device.thing
    if thing is None or thing.holder_device_id != device.device_id:
        return False
    deadlines = (thing.move.deadline_at if thing.move else None, thing.successor_deadline_at)
    return any(at is not None and at <= now for at in deadlines)
