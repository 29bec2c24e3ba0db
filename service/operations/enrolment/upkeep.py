"""The job `enrolment-upkeep`: lets go of what has ended, each after its own time, and of nothing that is open.

Owns the deletes, page by page, so that no other writer waits long. Of each order the last transaction that said its whole
list (an order, an override, a void) and that its provider accepted stays, and all since: they say what the provider holds
(books.py). A file's hash goes only when a document of its age
is refused for its age (load.py), so that no file is ever taken twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import Delete, and_, delete, exists, or_, select, tuple_

from service.domain.enrolment import RequestType
from service.operations import jobs
from service.operations.enrolment import folders
from service.operations.enrolment.rows import ACCEPTED
from service.operations.enrolment.working import Working
from service.storage.database import Database
from service.storage.enrolment_tables import enrolment_batch, enrolment_transaction, workflow_event
from service.storage.job_tables import taken_file
from service.storage.rows import to_ms

PAGE = 500  # rows of one database transaction
WHOLE = tuple(one.value for one in (RequestType.ORDER, RequestType.OVERRIDE, RequestType.VOID))
LARGE = 20  # the same of rows that bring much along: devices of a transaction, the document of a batch


async def run(working: Working) -> Counter[str]:
    """Counts of what went."""
    config, now, database = working.config, working.clock(), working.database
    history, hashes, files, runs = (
        now - timedelta(days=config[name])
        for name in (
            "enrolment.history_kept_d",
            "enrolment.hashes_kept_d",
            "enrolment.files_kept_d",
            "jobs.runs_kept_d",
        )
    )
    counts: Counter[str] = Counter()
    counts["transactions"] = await _pages(database, _transactions(history), LARGE)
    counts["batches"] = await _pages(database, _batches(history), LARGE)
    counts["events"] = await _pages(database, _events(history), PAGE)
    counts["hashes"] = await _pages(database, _hashes(hashes), PAGE)
    counts["runs"] = await jobs.prune_runs(database, runs)
    counts["files"] = await asyncio.to_thread(folders.prune, working.folder, files)
    return +counts


async def _pages(database: Database, statement: Delete, page: int) -> int:
    gone = 0
    while True:
        async with database.write() as transaction:
            rows = (await transaction.connection.execute(statement)).rowcount
        gone += rows
        if rows < page:
            return gone


def _transactions(before: datetime) -> Delete:
    of, later = enrolment_transaction.c, enrolment_transaction.alias()
    whole = and_(later.c.state.in_(ACCEPTED), later.c.request_type.in_(WHOLE))
    since = and_(later.c.order_id == of.order_id, whole, later.c.finished_at > of.finished_at)
    old = select(of.transaction_id).where(of.finished_at < to_ms(before), exists().where(since)).limit(LARGE)
    return delete(enrolment_transaction).where(of.transaction_id.in_(old))


def _batches(before: datetime) -> Delete:
    of, asked = enrolment_batch.c, enrolment_transaction.c
    old = select(of.batch_id).where(
        of.state.in_(("done", "failed")), of.changed_at < to_ms(before), ~exists().where(asked.batch_id == of.batch_id)
    )
    return delete(enrolment_batch).where(of.batch_id.in_(old.limit(LARGE)))


def _events(before: datetime) -> Delete:
    of = workflow_event.c
    return delete(workflow_event).where(of.seq.in_(select(of.seq).where(of.at < to_ms(before)).limit(PAGE)))


def _hashes(before: datetime) -> Delete:
    of = taken_file.c
    mine = or_(of.interface == "load", of.interface == "transformation")
    old = select(of.interface, of.sha256).where(mine, of.taken_at < to_ms(before)).limit(PAGE)
    return delete(taken_file).where(tuple_(of.interface, of.sha256).in_(old))
