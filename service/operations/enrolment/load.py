"""The daemon `load`: collects files from the inbox, decrypts them and stores their documents as batches."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations.enrolment import files, generic, providers, rows
from service.operations.enrolment.files import Effect
from service.operations.enrolment.generic import Response
from service.operations.enrolment.providers import Adaptor, Provider
from service.operations.enrolment.working import Working
from service.operations.requests import bad_request, conflict

INTERFACE = "load"
CLOCKS = timedelta(days=1)  # that the other side's clock may be ahead


async def run(working: Working) -> Counter[str]:
    """Counts of files by what came of them."""
    counts: Counter[str] = Counter()
    live = await providers.live(working.database)
    us = files.ours(working) if live else None
    for provider in live.values():
        assert us is not None
        prepare = partial(_prepare, working, provider)
        counts += await files.work_off(working, INTERFACE, "inbox", provider, us, prepare)
    return counts


async def _prepare(working: Working, provider: Provider, data: bytes) -> Effect:
    response = await asyncio.to_thread(generic.read_response, data)
    if response.provider_id != provider.provider_id:
        raise bad_request("provider_foreign", "the document is of another provider")
    _check_age(response.batch_time, working)
    return partial(_store, working, provider, response, data)


def _check_age(batch_time: datetime, working: Working) -> None:
    """Refuse a document whose file may have been forgotten.

    A file is taken at most `CLOCKS` before the time that it bears, and known for `hashes_kept_d` from then on.
    """
    age = working.clock() - batch_time
    if age > timedelta(days=working.config["enrolment.hashes_kept_d"]) - CLOCKS:
        raise bad_request("document_age", "the document is older than files are remembered for")
    if age < -CLOCKS:
        raise bad_request("document_age", "the document is of a time to come")


async def _store(
    working: Working, provider: Provider, response: Response, data: bytes, connection: AsyncConnection
) -> dict[str, Any]:
    known = await rows.batch(connection, response.identifier)
    if known is not None and provider.adaptor is Adaptor.DEP:
        return {"batch": response.identifier, "note": "this answer was loaded before"}  # the transformation was cut off
    if known is not None:
        raise conflict("batch_exists", "a batch of this identifier was loaded before")
    await rows.add_batch(
        connection, working.database.sealer, batch_id=response.identifier, direction="response",
        provider_id=response.provider_id, state="loaded", record_count=response.record_count, document=data,
        file_name=None, now=working.clock(),
    )  # fmt: skip
    return {"batch": response.identifier, "orders": response.record_count}
