"""The list of certificates that one environment's operational Mosquitto refuses.

Owns the file and how it is kept equal to the database, which is the truth of revoked certificates. One writer at a time,
of whatever process: the service, a rendering before a broker's start, the doctor. A file that is lost or damaged is made
again, and whoever does it is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from service.brokers.gate import GateError
from service.brokers.mosquitto import certificates
from service.brokers.mosquitto.files import alone_soon, write_for

RENEWED = timedelta(days=365)  # before the list runs out; then OpenSSL refuses every certificate
Reload = Callable[[], Awaitable[None]]


class Revoked(Protocol):
    """What the database says of one environment. Every method may raise ServiceError UNAVAILABLE."""

    async def serials(self) -> Collection[int]:
        """Serial numbers of all revoked certificates that have not run out."""
        ...

    async def take_over(self, serials: Collection[int]) -> bool:
        """Once in the life of an environment: remember what a list from before the database did refuses."""
        ...


class RevocationList:
    """The CRL file of one environment: `crl.pem` in the folder of its Mosquitto."""

    def __init__(
        self,
        path: Path,
        issuer: certificates.Issuer,
        revoked: Revoked,
        reload: Reload | None = None,
        *,
        owner: str | None = None,
    ) -> None:
        self._path = path
        self._issuer = issuer
        self._revoked = revoked
        self._reload = reload
        self._owner = owner
        self._told = True  # the broker was told to reload since we last wrote

    async def add(self, serials: Collection[int], now: datetime) -> None:
        """Refuse these certificates from the next reload on, and reload. Raises GateError, ServiceError."""
        await self._settle(now, {*serials})
        await self._tell()

    async def compare(self, now: datetime) -> str:
        """Make the file what the database says, and reload where it was not; returns what was wrong, "" for nothing.

        Entries of certificates that have run out are taken away without a word. Raises GateError, ServiceError.
        """
        changed, problem = await self._settle(now)
        if changed or not self._told:
            await self._tell()
        return problem

    async def settle(self, now: datetime) -> str:
        """As `compare`, before the broker runs: nobody is told to reload."""
        return (await self._settle(now))[1]

    async def _settle(self, now: datetime, also: Collection[int] = ()) -> tuple[bool, str]:
        """(whether the file was written, what was wrong with it). With `also`, nothing is taken from the list."""
        try:
            async with alone_soon(self._path.parent.parent, owner=self._owner):
                # 1. What is there. A list of another CA, or one that soon runs out, is as good as none.
                known, problem = await asyncio.to_thread(self._read, now)
                # 2. What should be there; read now, so that no other writer's entry is lost.
                await self._revoked.take_over(known)
                wanted = {*await self._revoked.serials(), *also}
                if not problem:
                    if known == wanted or (also and known >= wanted):
                        return False, ""
                    lacking = len(wanted - known)
                    problem = f"{self._path}: {lacking} revoked certificates were not in it" if lacking else ""
                # 3. Whole or not at all.
                if also:
                    wanted |= known
                crl = await asyncio.to_thread(certificates.revocation_list, self._issuer, wanted, now)
                await asyncio.to_thread(write_for, self._owner, self._path, crl)
                return True, problem
        except (OSError, TimeoutError) as error:
            raise GateError(f"the revocation list cannot be written: {error}") from error

    def _read(self, now: datetime) -> tuple[set[int], str]:
        """(what it refuses, what is wrong with it)."""
        try:
            known, ends_at = certificates.read_list(self._path.read_bytes(), self._issuer)
        except FileNotFoundError:
            return set(), f"{self._path}: was missing"
        except ValueError as error:
            return set(), f"{self._path}: {error}"
        return known, f"{self._path}: was old" if ends_at - now < RENEWED else ""

    async def _tell(self) -> None:
        if self._reload is not None:
            self._told = False
            await self._reload()
            self._told = True
