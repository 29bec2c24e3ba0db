"""What the pipeline needs of storage: one load and one save in one transaction, and what the clock asks.

Owns the ports only; storage/store.py and upkeep.py implement them, a fake in tests/support is held to the same contract suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.credential import Credential
from service.domain.device import Device


@dataclass(frozen=True, slots=True)
class Loaded:
    by_serial: Mapping[tuple[str, str], Device] = field(default_factory=dict)  # (group_id, serial)
    by_credential: Mapping[str, Device] = field(default_factory=dict)  # the same objects, by any kept credential id
    spki_in_use: frozenset[bytes] = frozenset()  # of the asked SPKI hashes, those that a certificate has or had
    by_device_id: Mapping[str, Device] = field(default_factory=dict)  # every loaded device, partners too
    next_numbers: Mapping[str, int] = field(default_factory=dict)  # product_id -> number of its next thing
    self_registered: Mapping[str, int] = field(default_factory=dict)  # group_id -> how many; groups with a quota only
    incomplete: frozenset[str] = frozenset()  # ids of claimed devices with more to load, once the claim is proven


class Batch(Protocol):
    @property
    def catalogue(self) -> Catalogue: ...

    async def load(
        self,
        *,
        serials: Collection[tuple[str, str]] = (),
        credential_ids: Collection[str] = (),
        spki: Collection[bytes] = (),
        device_ids: Collection[str] = (),
        claimed: Collection[tuple[str, str]] = (),
    ) -> Loaded:
        """Everything these messages need. Raises ServiceError UNAVAILABLE.

        A device whose thing has another holder, or a successor, comes with that device: its partner; a unit comes with
        what the warehouse knows of it. Not so for serials that are only `claimed`, by somebody who has proved nothing:
        for them the number of queries is the same whatever is found, and what more there is stands in `incomplete`.
        """
        ...

    async def save(self, changes: Changes) -> None:
        """Write the differences with set-based statements. Raises ServiceError UNAVAILABLE; nothing is half written."""
        ...


class Store(Protocol):
    def batch(self) -> AbstractAsyncContextManager[Batch]:
        """One immediate transaction: committed durably at a clean exit if anything was saved, else rolled back.

        Entering and leaving raise ServiceError UNAVAILABLE when the database is locked, full, read-only or gone.
        """
        ...


class Upkeep(Protocol):
    """The ticker's and the revoker's view. Every method may raise ServiceError UNAVAILABLE."""

    async def catalogue_rev(self) -> int:
        """Rises with every change of the catalogue, by whatever process."""
        ...

    async def refreshed_rev(self, environment: str) -> int:
        """The catalogue's revision that every device's document there has been compared with; 0: none yet."""
        ...

    async def set_refreshed_rev(self, environment: str, rev: int) -> None: ...

    async def confirmed(self, environment: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Ids of its confirmed credentials, by id."""
        ...

    async def unrevoked(self, *, after: str = "", limit: int = 1000) -> Sequence[Credential]:
        """Dropped credentials of which a broker has not confirmed yet that they are dead, by credential id."""
        ...

    async def mark_revoked(self, credential_ids: Collection[str], at: datetime) -> None: ...

    async def pending_expired(self, now: datetime, *, limit: int = 1000) -> Sequence[str]:
        """Ids of pending credentials whose time is over."""
        ...

    async def outlived(self, now: datetime, *, limit: int = 1000) -> Sequence[str]:
        """Ids of confirmed API keys that have come to the end of the life that their group gives."""
        ...

    async def due(self, now: datetime, *, limit: int = 1000) -> Sequence[str]:
        """Ids of devices of which some deadline is over: a move, a successor, a firmware state."""
        ...

    async def renewable(self, environment: str, after: datetime, until: datetime) -> Sequence[str]:
        """Ids of its devices whose confirmed credential came to two thirds of its life in that time."""
        ...

    async def tended_to(self, environment: str) -> int:
        """The number of the last event whose device has been looked at for a changed document."""
        ...

    async def touched(self, environment: str, after: int, *, limit: int = 1000) -> Sequence[tuple[int, str]]:
        """(number, device id) of events after that one which change what a device is to do, by number.

        Without devices whose confirmed credential is of another environment.
        """
        ...

    async def set_tended_to(self, environment: str, number: int) -> None: ...

    async def delete_dropped(self, dropped_before: datetime, *, limit: int = 1000) -> int:
        """Delete rows dropped before then and revoked; returns how many."""
        ...

    async def prune_revoked(self, now: datetime) -> int:
        """Delete what is kept of revoked certificates that have run out, a bounded number; returns how many."""
        ...

    async def add_counters(self, increments: Mapping[str, int]) -> None: ...

    async def prune_traces(self) -> int: ...

    async def prune_history(self, *, events_before: datetime, commands_before: datetime, audit_before: datetime) -> int:
        """Delete events, finished commands and audit rows that are older, a bounded number; returns how many."""
        ...
