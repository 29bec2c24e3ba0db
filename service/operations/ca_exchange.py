"""Exchange of an environment's certificate authority, which brokers and devices with certificates are known by.

Owns the order of steps and the folder of the authority. `ca.pem` is what is trusted: the one that signs, then the other.
`announce` makes the next one (in `next/`) and adds it there, so that brokers take its certificates and documents name it;
`use_next` lets it sign, once the devices have heard, and keeps the one before in `previous/`, whose certificates go on;
`forget` ends that one when nobody needs it any more. Each needs the service stopped. What a crash cut short is done by
the same command again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy import exists, func, literal

from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.domain.desired import certificates_of
from service.domain.device import DeviceState
from service.operations import audits, selectors
from service.operations.backups import take_over
from service.operations.requests import conflict, raise_catalogue_rev
from service.operations.selectors import Selection, Selector
from service.storage.database import Database
from service.storage.rows import to_ms
from service.storage.tables import credential, device
from service.whole_files import write_whole

KEY, CERTIFICATE = "ca.key", "ca.pem"
EXCHANGED = "exchanged"  # a file that says so, for good
_OUT_OF_USE = (DeviceState.REPLACED.value, DeviceState.RETIRED.value)


@dataclass(frozen=True, slots=True)
class Place:
    """One environment's authority: its folder, and the installation's key file and database."""

    environment: str
    directory: Path
    key_file: Path
    database: Path

    @property
    def next(self) -> Path:
        return self.directory / "next"

    @property
    def previous(self) -> Path:
        return self.directory / "previous"


@dataclass(frozen=True, slots=True)
class Authorities:
    """SHA-256 fingerprints in hex. `waiting`: devices that have still to hear of the next one, or to leave the previous.

    Beside them those that cannot be told, because they have no credential: `blocked`, and `not_activated`, which were
    registered before the step that is waited for. Which authority they know is not known here.
    """

    current: str
    next: str | None
    previous: str | None
    waiting: int
    blocked: int = 0
    not_activated: int = 0


async def announce(
    place: Place, *, now: datetime | None = None, random_bytes: Callable[[int], bytes] = os.urandom
) -> Authorities:
    """Make the next authority and have it trusted beside the present one, which goes on signing.

    Raises AuthorityError; ServiceError CONFLICT: the one before the present is still kept, one is announced already, or
    the database is in use. UNAVAILABLE.
    """
    await asyncio.to_thread(take_over, place.database)
    if place.previous.exists():
        raise conflict("ca_previous_kept", "the authority before the present one is still kept")
    current = Authority.load(place.directory)
    if place.next.exists():
        if Authority.load(place.next).ca_pem in _trusted(place):
            raise conflict("ca_announced", "a next authority is announced already; use it, or wait")
    else:
        # A name of its own: OpenSSL looks for authorities and their lists by name.
        made = place.directory / f".next.{secrets.token_hex(4)}"
        Authority.create(made, f"{place.environment[:32]} {random_bytes(4).hex()}", now or datetime.now(UTC))
        made.rename(place.next)
    _write(place.directory / CERTIFICATE, current.ca_pem + Authority.load(place.next).ca_pem)
    return await _told(place, "announced")


async def use_next(place: Place, *, at_most: int = 0) -> Authorities:
    """Let the announced authority sign. The one before goes on being trusted, for the certificates that it has given.

    Devices without a credential do not count: nothing can be told to them, however long one waits.

    Raises AuthorityError; ServiceError CONFLICT: none is announced, the database is in use, or more than `at_most` devices
    in service could not verify their brokers any more. UNAVAILABLE.
    """
    await asyncio.to_thread(take_over, place.database)
    if not place.next.exists():
        raise conflict("ca_not_announced", "no next authority is announced: rotate it first")
    following = Authority.load(place.next)
    if not place.previous.exists():
        untold = (await status(place)).waiting
        if untold > at_most:
            raise conflict(
                "ca_untold", f"{untold} devices have not said that they know the next authority", devices=untold
            )
        kept = place.directory / f".previous.{secrets.token_hex(4)}"
        kept.mkdir(mode=0o700)
        _write(kept / CERTIFICATE, Authority.load(place.directory).ca_pem)
        _write(kept / KEY, (place.directory / KEY).read_text("ascii"))
        kept.rename(place.previous)
    _write(place.directory / CERTIFICATE, following.ca_pem + Authority.load(place.previous).ca_pem)
    _write(place.directory / KEY, (place.next / KEY).read_text("ascii"))
    _write(place.directory / EXCHANGED, "devices from before know an older authority\n")
    shutil.rmtree(place.next)
    return await _told(place, "used")


async def forget(place: Place, *, at_most: int = 0) -> Authorities:
    """End the authority before the present one, and with it the certificates that it has given.

    Devices go on being told of the present one: it is not what their factory gave them.

    Raises AuthorityError; ServiceError CONFLICT: there is none, the database is in use, or more than `at_most` devices
    still use a credential from before the exchange. UNAVAILABLE.
    """
    await asyncio.to_thread(take_over, place.database)
    if not place.previous.exists() or place.next.exists():
        raise conflict("ca_not_exchanged", "there is no authority before the present one")
    left = (await status(place)).waiting
    if left > at_most:
        raise conflict(
            "ca_previous_needed", f"{left} devices still use a credential from before the exchange", devices=left
        )
    _write(place.directory / CERTIFICATE, Authority.load(place.directory).ca_pem)
    shutil.rmtree(place.previous)
    return await _told(place, "previous forgotten")


async def status(place: Place) -> Authorities:
    """Raises AuthorityError; ServiceError UNAVAILABLE."""
    following = Authority.load(place.next).ca_pem if place.next.exists() else None
    before = Authority.load(place.previous).ca_pem if place.previous.exists() else None
    current = Authority.load(place.directory)
    counts = (0, 0, 0)
    if following is not None or before is not None:
        since = _made_at(place.next if following is not None else place.directory)
        condition = _heard(following) if following is not None else _renewed(since)
        database = await Database.open(place.database, KeyFile.load(place.key_file).sealer(), check=False)
        try:
            counts = await _without(database, place.environment, condition, since)
        finally:
            await database.close()
    return Authorities(_fingerprint(current.ca_pem), _shown(following), _shown(before), *counts)


def _shown(certificate: str | None) -> str | None:
    return None if certificate is None else _fingerprint(certificate)


def _made_at(directory: Path) -> datetime:
    return datetime.fromtimestamp((directory / KEY).stat().st_mtime, UTC)


async def _without(database: Database, environment: str, condition: Any, since: datetime) -> tuple[int, int, int]:
    """Devices in use there: whose confirmed credential does not meet the condition; blocked; in stock since before."""
    of, state = credential.c, device.c.state
    in_service = exists().where(of.device_id == device.c.device_id, of.state == "confirmed")
    is_blocked = state == DeviceState.BLOCKED.value
    in_stock = ~in_service & ~is_blocked & (device.c.registered_at < to_ms(since))
    counts = [func.count().filter(one) for one in (in_service & ~in_service.where(condition), is_blocked, in_stock)]
    query = selectors.statement(Selection(Selector(environment=environment), None, None), *counts)
    async with database.read() as connection:
        found = (await connection.execute(query.where(state.not_in(_OUT_OF_USE)))).one()
    return int(found[0]), int(found[1]), int(found[2])


def _heard(certificate: str) -> Any:
    """A document that names this authority was heard. A line of its signature stands in either encoding as it is."""
    line = certificate.strip().splitlines()[-3].encode("ascii")
    return (credential.c.heard_rev == credential.c.desired_rev) & (
        func.instr(credential.c.desired_doc, literal(line)) > 0
    )


def _renewed(since: datetime) -> Any:
    return credential.c.created_at >= (to_ms(since) or 0)


async def _told(place: Place, what: str) -> Authorities:
    """A new revision of the catalogue has every document compared when the service starts."""
    found = await status(place)
    database = await Database.open(place.database, KeyFile.load(place.key_file).sealer(), check=False)
    try:
        async with database.write() as transaction:
            await raise_catalogue_rev(transaction.connection)
        after = {"authority": what, "current": found.current, "next": found.next, "previous": found.previous}
        await audits.note(database, {"environment": place.environment}, after=after)
    finally:
        await database.close()
    return found


def _trusted(place: Place) -> tuple[str, ...]:
    return certificates_of((place.directory / CERTIFICATE).read_text("ascii"))


def _fingerprint(certificate: str) -> str:
    return x509.load_pem_x509_certificate(certificate.encode("ascii")).fingerprint(hashes.SHA256()).hex()


def _write(path: Path, text: str) -> None:
    """Everything but certificates is for nobody else to read."""
    write_whole(path, text.encode("ascii"), mode=0o644 if path.name == CERTIFICATE else 0o600)
