"""What the pipeline needs of storage: one load and one save in one transaction.

Owns the ports only; storage/store.py implements them, a fake in tests/support is held to the same contract suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from service.domain.catalogue import Catalogue
from service.domain.changes import Changes
from service.domain.device import Device


@dataclass(frozen=True, slots=True)
class Loaded:
    by_serial: Mapping[tuple[str, str], Device] = field(default_factory=dict)  # (group_id, serial)
    by_credential: Mapping[str, Device] = field(default_factory=dict)  # the same objects, by any kept credential id
    spki_in_use: frozenset[bytes] = frozenset()  # of the asked SPKI hashes, those that a credential already has
    next_numbers: Mapping[str, int] = field(default_factory=dict)  # product_id -> number of its next thing


class Batch(Protocol):
    @property
    def catalogue(self) -> Catalogue: ...

    async def load(
        self,
        *,
        serials: Collection[tuple[str, str]] = (),
        credential_ids: Collection[str] = (),
        spki: Collection[bytes] = (),
    ) -> Loaded:
        """Everything these messages need, with the same number of queries whatever is found. Raises ServiceError UNAVAILABLE."""
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
