"""`firstlight trace`: every step that a device took."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import context
from service.operations import traces


def trace(
    device: Annotated[str, typer.Argument(metavar="GROUP/SERIAL", help="Or a bare serial where it is unique.")],
    as_json: context.JsonOption = False,
) -> None:
    """Every step of a device: time, code, true cause and what to do about it."""
    found = context.run(lambda database: traces.of_device(database, device))

    def text() -> None:
        rows = [
            [
                one.trace.at.isoformat(timespec="milliseconds"),
                one.trace.verb,
                one.trace.step,
                one.trace.code or "",
                " ".join(filter(None, (one.trace.cause, one.trace.detail and f"({one.trace.detail})"))),
                one.trace.trace_id,
                one.hint,
            ]
            for one in found.steps
        ]
        context.table(str(found.name), ["time", "verb", "step", "code", "cause", "trace", "hint"], rows)
        if not rows:
            print("no step yet: requests without a valid proof stand in the service's log only")

    context.emit(found, as_json=as_json, text=text)
