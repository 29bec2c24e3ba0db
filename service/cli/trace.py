"""`firstlight trace`: every step that a device took, proven ones from the database, others from the running service."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from service.cli import context
from service.http.asking import ask
from service.operations import traces

LOGINS = 16  # the newest credentials of a device that are asked for; they fit one request line


def trace(
    device: Annotated[str, typer.Argument(metavar="GROUP/SERIAL", help="Or a bare serial where it is unique.")],
    as_json: context.JsonOption = False,
) -> None:
    """Every step of a device, and of those that it replaced: time, code, true cause and what to do about it."""
    found = context.run(lambda database: traces.of_device(database, device))
    http = context.settings().http
    logins = list(dict.fromkeys(one.trace.credential_id for one in reversed(found.steps) if one.trace.credential_id))
    asked = {"group": found.name.group_id, "serial": found.name.serial, "credentials": ",".join(logins[:LOGINS])}
    answer = ask(http.host, http.port, f"/unproven?{urlencode(asked)}")
    unproven = traces.unproven(answer)

    def text() -> None:
        for one in found.before:
            print(f"{one.name}, which held the thing before")
            _show(one.steps)
        print(found.name)
        _show(found.steps)
        if unproven:
            print("Refused without a proof, so perhaps not this device, or without asking the database, on its login;")
            print("the service remembers the newest of these while it runs:")
            _show(unproven)
        elif answer is None:
            print("The service does not run here: what came without a valid proof is not known.")
        elif not found.steps:
            print("No step yet.")
        if found.now is not None:
            print(f"It was replaced; the thing goes on as {found.now}.")

    document = {"name": found.name, "steps": found.steps, "unproven": unproven}
    earlier = [{"name": one.name, "steps": one.steps} for one in found.before]
    context.emit({**document, "before": earlier, "now": found.now}, as_json=as_json, text=text)


def _show(steps: list[traces.Step]) -> None:
    day = None
    for one in steps:
        if one.trace.at.date() != day:
            day = one.trace.at.date()
            print(f"{day} UTC")
        print("\n".join(_lines(one)))


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
