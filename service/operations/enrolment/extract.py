"""The daemon `extract`: prepared batches become encrypted and signed files in the generic form."""

from __future__ import annotations

from collections import Counter

from service.operations.enrolment import files, providers, rows
from service.operations.enrolment.folders import SUFFIX
from service.operations.enrolment.working import Working


async def run(working: Working) -> Counter[str]:
    """A file that was put down before the batch said so is put down again: the same content under the same name."""
    counts: Counter[str] = Counter()
    live = await providers.live(working.database)
    async with working.database.read() as connection:
        found = await rows.batches(connection, "request", "prepared")
    us = files.ours(working) if found else None
    for row in found:
        provider = live.get(row.provider_id)
        if provider is None or us is None:
            counts["waiting"] += 1
            continue
        name = row.batch_id + SUFFIX
        await files.put(working, "outbox", provider, name, rows.document_of(row, working.database.sealer), us)
        async with working.database.write() as transaction:
            await rows.set_batch(
                transaction.connection, row.batch_id, working.clock(), state="extracted", file_name=name
            )
        counts["files"] += 1
    return counts
