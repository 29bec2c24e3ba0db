"""The devices of one batch as they evolve: each handler sees what the one before it decided.

Owns the mapping from messages to devices and the differences to save. Pure; lives as long as one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from service.domain.changes import Changes, Trace
from service.domain.credential import Credential, CredentialState
from service.domain.device import Device
from service.domain.event import Event
from service.handlers.decision import Decision
from service.pipeline.ports import Loaded


class Working:
    def __init__(self, loaded: Loaded) -> None:
        self._before: dict[str, Device | None] = {}
        self._now: dict[str, Device] = {}
        self._by_serial: dict[tuple[str, str], str] = {}
        self._by_credential: dict[str, str] = {}
        for serial, device in loaded.by_serial.items():
            self._by_serial[serial] = device.device_id
            self._now[device.device_id] = device
        for credential_id, device in loaded.by_credential.items():
            self._by_credential[credential_id] = device.device_id
            self._now[device.device_id] = device
        self._now.update(loaded.by_device_id)
        self._incomplete = set(loaded.incomplete)
        self.events: list[Event] = []
        self.next_number: dict[str, int] = dict(loaded.next_numbers)
        self.spki_in_use: set[bytes] = set(loaded.spki_in_use)
        self.self_registered: dict[str, int] = dict(loaded.self_registered)
        self._numbers: dict[str, int] = {}
        self._newcomers: Counter[str] = Counter()
        self.traces: list[Trace] = []
        self.counters: Counter[str] = Counter()
        self.dropped: list[Credential] = []

    def of_serial(self, group_id: str, serial: str) -> Device | None:
        return self._now.get(self._by_serial.get((group_id, serial), ""))

    def of_credential(self, credential_id: str) -> Device | None:
        return self._now.get(self._by_credential.get(credential_id, ""))

    def of_device_id(self, device_id: str) -> Device | None:
        return self._now.get(device_id)

    def is_incomplete(self, device: Device | None) -> bool:
        return device is not None and device.device_id in self._incomplete

    def complete(self, loaded: Loaded) -> None:
        """Take in the rest of devices. One that is incomplete has not been changed: only who is proven changes anything."""
        for device_id, device in loaded.by_device_id.items():
            if device_id in self._incomplete or device_id not in self._now:
                self._now[device_id] = device
                self._by_serial[device.group_id, device.serial] = device_id
                self._by_credential.update({one.credential_id: device_id for one in device.credentials})
        self._incomplete -= set(loaded.by_device_id)

    def partner_of(self, device: Device | None) -> Device | None:
        """The other device of its thing, while a replacement is under way."""
        thing = device.thing if device is not None else None
        if device is None or thing is None or thing.successor_device_id is None:
            return None
        other = thing.holder_device_id if thing.successor_device_id == device.device_id else thing.successor_device_id
        return self._now.get(other)

    def apply(self, before: Device | None, decision: Decision) -> None:
        """Take over what a handler decided."""
        after = decision.device
        self.events += decision.events
        partner = decision.partner
        if partner is None and before is not None and after is not None and after.thing is not before.thing:
            # Both hold the same thing: what changes in it for one has changed for the other.
            other = self.partner_of(after)
            partner = replace(other, thing=after.thing) if other is not None else None
        if partner is not None:
            self._take(self._now[partner.device_id], partner)
        if decision.number_taken is not None:
            taken = self.next_number.get(decision.number_taken, 1) + 1
            self.next_number[decision.number_taken] = self._numbers[decision.number_taken] = taken
        if decision.newcomer_of is not None:
            self.self_registered[decision.newcomer_of] = self.self_registered.get(decision.newcomer_of, 0) + 1
            self._newcomers[decision.newcomer_of] += 1
        if decision.spki is not None:
            self.spki_in_use.add(decision.spki)
        self._take(before, after)

    def _take(self, before: Device | None, after: Device | None) -> None:
        if after is None or after is before:
            return
        self._before.setdefault(after.device_id, before)
        self._now[after.device_id] = after
        if before is None:
            self._by_serial[after.group_id, after.serial] = after.device_id
        if before is None or before.credentials is not after.credentials:
            self._note_credentials(before, after)

    def changes(self, waiting: Mapping[str, int]) -> Changes:
        """What to save; `waiting` are counters from elsewhere that go along."""
        return Changes(
            devices=tuple((before, self._now[device_id]) for device_id, before in self._before.items()),
            traces=tuple(self.traces),
            events=tuple(self.events),
            numbers=self._numbers,
            self_registered=self._newcomers,
            counters=self.counters + Counter(waiting),
        )

    @property
    def has_changes(self) -> bool:
        return bool(self._before or self.traces or self.events)

    def _note_credentials(self, before: Device | None, after: Device) -> None:
        known = {one.credential_id: one for one in before.credentials} if before is not None else {}
        for one in after.credentials:
            was = known.get(one.credential_id)
            if was is None:
                self._by_credential[one.credential_id] = after.device_id
            elif one.state is CredentialState.DROPPED and was.state is not CredentialState.DROPPED:
                self.dropped.append(one)
