"""`firstlight stats`: counts by state and every counter."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import context
from service.operations import stats as operation


def stats(
    with_zeros: Annotated[bool, typer.Option("--all", help="Also the causes that never happened.")] = False,
    as_json: context.JsonOption = False,
) -> None:
    """How many devices are in which state, and how often each event and each cause of refusal happened."""
    found = context.run(lambda database: operation.collect(database, with_zeros=with_zeros))

    def text() -> None:
        context.table("Devices", ["state", "count"], _rows(found.devices))
        context.table("Credentials", ["state", "count"], _rows({**found.credentials, "unrevoked": found.unrevoked}))
        context.table("Counters", ["name", "count"], _rows(found.counters))

    context.emit(found, as_json=as_json, text=text)


def _rows(counts: dict[str, int]) -> list[list[str]]:
    return [[name, str(count)] for name, count in counts.items()]
