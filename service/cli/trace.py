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
        print(found.name)
        day = None
        for one in found.steps:
            if one.trace.at.date() != day:
                day = one.trace.at.date()
                print(f"{day} UTC")
            print("\n".join(_lines(one)))
        if not found.steps:
            print("no step yet: requests without a valid proof stand in the service's log only")

    context.emit(found, as_json=as_json, text=text)


def _lines(step: traces.Step) -> list[str]:
    """One line for the step, and below it why it was refused and what to do."""
    one = step.trace
    at = one.at.strftime("%H:%M:%S.%f")[:-3]
    detail = f" ({one.detail})" if one.detail else ""
    what = f"{one.step} {one.code}" if one.code else one.step + detail
    lines = [f"{at}  {one.verb:<9} {what:<32} trace {one.trace_id}".rstrip()]
    if one.cause:
        lines.append(f"{'':14}cause: {one.cause}{detail}")
    if step.hint:
        lines.append(f"{'':14}hint: {step.hint}")
    return lines
