"""A store in memory, held to the same contract suite as the real one (tests/contract/test_store.py).

Owns no rules: what a batch saves is there at its clean exit, and gone at an error. `fail_with` makes the next entering,
load, save or leaving raise.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device
from service.errors import ServiceError
from service.pipeline.ports import Loaded
from service.storage import queries


class FakeStore:
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.devices: dict[str, Device] = {}
        self.numbers: dict[str, int] = dict.fromkeys(catalogue.products, 1)
        self.self_registered: Counter[str] = Counter()
        self.traces: list = []
        self.events: list = []
        self.counters: Counter[str] = Counter()
        self.commits = 0
        self.revoked: set[bytes] = set()  # keys of certificates whose credential was dropped
        self.fail_with: dict[str, ServiceError] = {}  # "enter", "load", "save" or "commit" -> raised once
        self._lock = asyncio.Lock()

    def add(self, device: Device) -> None:
        self.devices[device.device_id] = device

    def device(self, group_id: str, serial: str) -> Device:
        (found,) = [one for one in self.devices.values() if (one.group_id, one.serial) == (group_id, serial)]
        return found

    @asynccontextmanager
    async def batch(self):
        async with self._lock:
            self.fail("enter")
            batch = FakeBatch(self)
            yield batch
            if batch.saved:
                self.fail("commit")
                self.devices, self.numbers = batch.devices, batch.numbers
                self.revoked |= batch.revoked
                self.self_registered += batch.self_registered
                self.traces += batch.traces
                self.events += batch.events
                self.counters += batch.counters
                self.commits += 1

    def fail(self, where: str) -> None:
        error = self.fail_with.pop(where, None)
        if error is not None:
            raise error


class FakeBatch:
    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.devices = dict(store.devices)
        self.numbers = dict(store.numbers)
        self.self_registered: Counter[str] = Counter()
        self.traces: list = []
        self.events: list = []
        self.counters: Counter[str] = Counter()
        self.revoked: set[bytes] = set()
        self.saved = False

    @property
    def catalogue(self) -> Catalogue:
        return self._store.catalogue

    async def load(self, *, serials=(), credential_ids=(), spki=(), device_ids=(), claimed=()) -> Loaded:
        self._store.fail("load")
        wanted, ids = set(serials), set(credential_ids)
        found = [
            one
            for one in self.devices.values()
            if (one.group_id, one.serial) in wanted
            or one.device_id in device_ids
            or ids & {kept.credential_id for kept in one.credentials}
        ]
        found += [self.devices[one] for one in queries.partners_missing(found) if one in self.devices]
        rest = [one for one in self.devices.values() if (one.group_id, one.serial) in claimed and one not in found]
        found += rest
        in_use = {kept.spki_sha256 for one in self.devices.values() for kept in one.credentials} | self._store.revoked
        return Loaded(
            by_serial={(one.group_id, one.serial): one for one in found},
            by_credential={kept.credential_id: one for one in found for kept in one.credentials},
            by_device_id={one.device_id: one for one in found},
            spki_in_use=frozenset(set(spki) & in_use),
            next_numbers=dict(self.numbers),
            self_registered=dict(self._store.self_registered) if self._has_quota() else {},
            incomplete=frozenset(
                one.device_id for one in rest if one.thing is not None and one.thing.successor_device_id
            ),
        )

    async def save(self, changes: Changes) -> None:
        self._store.fail("save")
        for before, after in changes.devices:
            if before is None and after.device_id in self.devices:
                raise ValueError("this device is there already")
            if before is not None and (before.device_id, before.public_keys) != (after.device_id, after.public_keys):
                raise ValueError("a saved device keeps its id and its public keys")
            kept = {one.credential_id for one in after.credentials}
            if before is not None and not kept >= {one.credential_id for one in before.credentials}:
                raise ValueError("a credential's row is dropped, not left out")
            self.devices[after.device_id] = replace(
                after, credentials=tuple(sorted(after.credentials, key=lambda one: one.created_at))
            )
        self._check()
        self.revoked |= {
            one.spki_sha256 for _, after in changes.devices for one in after.credentials if _is_revoked(one)
        }
        self.traces += changes.traces
        self.events += changes.events
        self.numbers.update(changes.numbers)
        self.self_registered.update(changes.self_registered)
        self.counters.update(changes.counters)
        self.saved = True

    def _has_quota(self) -> bool:
        return any(one.self_quota is not None for one in self.catalogue.groups.values())

    def _check(self) -> None:
        """What the database's unique indexes refuse."""
        kept = [one for device in self.devices.values() for one in device.credentials]
        confirmed = [one.device_id for one in kept if one.state is CredentialState.CONFIRMED]
        spki = [one.spki_sha256 for one in kept if one.spki_sha256 is not None]
        names = [(one.group_id, one.serial) for one in self.devices.values()]
        for unique in (confirmed, spki, names, [one.credential_id for one in kept]):
            if len(set(unique)) != len(unique):
                raise ValueError("a unique value is there twice")


def _is_revoked(one: Credential) -> bool:
    return one.state is CredentialState.DROPPED and None not in (one.certificate_serial, one.spki_sha256)
