"""One taken file: verified, opened, and remembered by its hash, so that it has its effect once.

Owns the rows of taken_file and the frame that both reading daemons share: whatever is wrong with a file, it goes to
`failed` with a report, and nothing else has changed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography import x509
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.credentials import cms, keyholder
from service.credentials.cms import CmsError, Keyholder
from service.errors import ServiceError
from service.operations.enrolment import folders
from service.operations.enrolment.folders import Taken
from service.operations.enrolment.providers import Adaptor, Provider
from service.operations.enrolment.working import Working
from service.storage.job_tables import taken_file
from service.storage.rows import to_ms

# What a file does, in the transaction that also remembers it: gives what stands in the report.
Effect = Callable[[AsyncConnection], Awaitable[dict[str, Any]]]
# Everything that takes long, such as asking somebody, comes before: the transaction holds up every other writer.
Prepare = Callable[[bytes], Awaitable[Effect]]


class Later(Exception):  # noqa: N818 - no error: the file stays in `work`
    """It cannot be dealt with now; the next run tries again."""


def ours(working: Working) -> Keyholder:
    """Raises ServiceError CONFLICT: there is no key yet, or it cannot be used."""
    try:
        return keyholder.load(working.folder)
    except CmsError as error:
        raise ServiceError("CONFLICT", str(error), cause=error.cause) from error


def signers_of(provider: Provider, us: Keyholder) -> list[x509.Certificate]:
    """Whose signature files of this provider must have: its own, or (what the transformation put down) one of ours."""
    if provider.adaptor is Adaptor.DEP:
        return [one.certificate for one in us.every]
    if provider.signer_pem is None:
        raise CmsError("signer_missing", "there is no certificate that files of this provider could be checked with")
    return [cms.load_certificate(provider.signer_pem)]


async def work_off(
    working: Working, interface: str, source: str, provider: Provider, us: Keyholder, prepare: Prepare
) -> Counter[str]:
    """Every file that lies there for this provider: counts by what came of them."""
    found = await asyncio.to_thread(
        folders.take,
        working.folder, source, interface, provider.provider_id,
        now=working.clock(), settle_s=working.config["enrolment.settle_s"] if source == "inbox" else 0,
    )  # fmt: skip
    counts = Counter(waiting=found.waiting, ignored=found.ignored)
    for taken in found.taken:
        counts[await _one(working, interface, provider, us, prepare, taken)] += 1
    return +counts


async def _one(
    working: Working, interface: str, provider: Provider, us: Keyholder, prepare: Prepare, taken: Taken
) -> str:
    now = working.clock()
    digest = b""
    report: dict[str, Any] = {"file": taken.name, "provider": provider.provider_id, "at": now.isoformat()}
    try:
        envelope, signature, digest = await asyncio.to_thread(taken.read)
        report["sha256"] = digest.hex()
        # 1. Had before? Whatever its name is now.
        if await _known(working, interface, digest):
            await _aside(working, taken, interface, {**report, "outcome": "done", "note": "this file was taken before"})
            return "repeated"
        # 2. Ours to believe, and ours to read.
        signer, *or_by = signers_of(provider, us)
        data = await asyncio.to_thread(cms.open_signed, envelope, signature, signer, us, now, or_by=or_by)
        effect = await prepare(data)
        # 3. Its effect and the memory of it, both or neither.
        async with working.database.write() as transaction:
            said = await effect(transaction.connection)
            report |= {"outcome": "done", **said}
            await _remember(transaction.connection, interface, digest, taken.name, working, "done")
    except Later:
        return "later"
    except (CmsError, ServiceError) as error:
        if isinstance(error, ServiceError) and error.code == "UNAVAILABLE":
            raise
        text = error.public if isinstance(error, ServiceError) else str(error)
        report |= {"outcome": "failed", "cause": error.cause, "reason": text}
        await _fail(working, taken, interface, digest, report)
        return "failed"
    await _aside(working, taken, interface, report)
    return "done"


async def _fail(working: Working, taken: Taken, interface: str, digest: bytes, report: dict[str, Any]) -> None:
    if digest:
        async with working.database.write() as transaction:
            await _remember(transaction.connection, interface, digest, taken.name, working, "failed")
    await asyncio.to_thread(folders.lay_aside, working.folder, taken, done=False, interface=interface, report=report)


async def _aside(working: Working, taken: Taken, interface: str, report: dict[str, Any]) -> None:
    await asyncio.to_thread(folders.lay_aside, working.folder, taken, done=True, interface=interface, report=report)


async def _known(working: Working, interface: str, digest: bytes) -> bool:
    of = taken_file.c
    query = select(of.name).where(of.interface == interface, of.sha256 == digest, of.outcome == "done")
    async with working.database.read() as connection:
        return (await connection.execute(query)).first() is not None


async def _remember(
    connection: AsyncConnection, interface: str, digest: bytes, name: str, working: Working, outcome: str
) -> None:
    """A file that failed may come again, when what was wrong here (a certificate) has been mended."""
    values = {"name": name, "taken_at": to_ms(working.clock()), "outcome": outcome}
    statement = upsert(taken_file).values(interface=interface, sha256=digest, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["interface", "sha256"], set_=values))


async def put(working: Working, target: str, provider: Provider, name: str, data: bytes, us: Keyholder) -> None:
    """Encrypt, sign and put down a file; for providers without files of their own it is for us."""
    recipient = us.certificate
    if provider.adaptor is Adaptor.FILE:
        assert provider.recipient_pem is not None
        recipient = cms.load_certificate(provider.recipient_pem)

    def work() -> None:
        envelope = cms.seal(data, [recipient])
        folders.put(working.folder, target, provider.provider_id, name, envelope, cms.sign(envelope, us))

    await asyncio.to_thread(work)
