"""What operators are answered: a status, a refusal, a push, each within what a message may hold. Pure.

Owns the fields. Source: docs/operators.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from device_sdk.wire import limits
from service.errors import ServiceError
from service.operations.command_rows import Command, Status
from service.operations.events import Recorded
from service.operations.outcomes import ENOS_CODES, Outcome, Result
from service.protocol import encode
from service.protocol.decode import JSON
from service.storage.rows import to_ms

ROOM = limits.MAX_PAYLOAD_BYTES - 2048  # for the outcomes; the rest of a reply is small


def command_fields(command: Command) -> dict[str, Any]:
    found = {
        "command": command.command_id,
        "verb": command.verb,
        "dry_run": command.dry_run or None,
        "state": command.state.value,
        "total": command.total,
        "done": command.done,
        "changed": command.changed,
        "unchanged": command.unchanged,
        "refused": command.refused,
        "created_at": to_ms(command.created_at),
        "finished_at": to_ms(command.finished_at),
    }
    return {name: value for name, value in found.items() if value is not None}


def status_fields(status: Status) -> dict[str, Any]:
    """A command with as many outcomes and later failures as fit; `after`, `failed_after` say where the next page begins.

    What is shown this once, as the keys that were made, is never left out: the verb has seen to it that it fits.
    """
    room = ROOM - _size(dict(status.result))
    failed, left = _fitting([failure_fields(one) for one in status.failed], room // 2)
    outcomes, _ = _fitting([outcome_fields(one) for one in status.outcomes], left + room - room // 2)
    after, failed_after = status.after, status.failed_after
    if len(outcomes) < len(status.outcomes):
        after = status.outcomes[len(outcomes) - 1].device_id
    if len(failed) < len(status.failed):
        failed_after = status.failed[len(failed) - 1].seq
    found = {
        **command_fields(status.command),
        "outcomes": outcomes,
        "later": dict(status.later) or None,
        "failed": failed or None,
        "after": after,
        "failed_after": failed_after,
        "result": dict(status.result) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def device_fields(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A device, without its largest maps if it would not fit; `left_out` names them."""
    kept, left_out = dict(shown), list[str]()
    for name in ("attributes", "settings"):
        if _size(kept) > ROOM and name in kept:
            del kept[name]
            left_out.append(name)
    return {"device": kept, **({"left_out": left_out} if left_out else {})}


def page_fields(
    name: str, rows: list[dict[str, Any]], after: str | None, cursor: Callable[[Any], str]
) -> dict[str, Any]:
    """As many rows of a list as fit; `after` says where the next page begins. `cursor`: of the last row shown."""
    shown, _ = _fitting(rows, ROOM)
    shown = shown or rows[:1]  # too large by itself is better said than left out
    if len(shown) < len(rows):
        after = cursor(shown[-1])
    return {name: shown, **({"after": after} if after is not None else {})}


def _fitting(every: list[dict[str, Any]], room: int) -> tuple[list[dict[str, Any]], int]:
    """As many from the front as fit into so many bytes, and what is left of those."""
    for number, fields in enumerate(every):
        size = _size(fields) + 1
        if size > room:
            return every[:number], room
        room -= size
    return every, room


def _size(fields: dict[str, Any]) -> int:
    return len(json.dumps(fields, ensure_ascii=False).encode())


def failure_fields(one: Recorded) -> dict[str, Any]:
    """A device that failed after its page was done."""
    of = one.event
    cause = of.data.get("cause")
    found = {"device": f"{of.group_id}/{of.serial}", "event": of.kind, "cause": cause, "at": to_ms(of.at)}
    return {"seq": one.seq, **{name: value for name, value in found.items() if value is not None}}


def outcome_fields(one: Outcome) -> dict[str, Any]:
    found = {
        "device": f"{one.group_id}/{one.serial}",
        "result": one.result.value,
        "code": one.code,
        "cause": one.cause,
        "reason": one.reason,
        "enos_code": one.enos_code,
        "state": one.state,
    }
    return {name: value for name, value in found.items() if value is not None}


def refusal_of(status: Status) -> ServiceError | None:
    """The refusal of a command for one device, which is answered as such; None for every other command."""
    command = status.command
    if command.dry_run or command.total != 1 or len(status.outcomes) != 1:
        return None
    (one,) = status.outcomes
    if one.result is not Result.REFUSED or one.code is None:
        return None
    return ServiceError(one.code, one.reason or "", cause=one.cause or "", enos_code=one.enos_code)


def reply(request_id: str, fields: Mapping[str, Any], trace_id: str, encoding: str) -> bytes:
    return encode.reply(request_id, fields, trace_id, encoding)


def refused(
    request_id: str, error: ServiceError, trace_id: str, encoding: str, more: Mapping[str, Any] | None = None
) -> bytes:
    """Operators are also told the cause; `more` are further fields, such as the command's id."""
    body: dict[str, Any] = {"id": request_id, "ok": False, "code": error.code, "reason": error.public}
    enos_code = error.enos_code or ENOS_CODES.get(error.cause)
    body |= {"cause": error.cause, **({"enos_code": enos_code} if enos_code is not None else {})}
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    if error.state is not None:
        body["state"] = error.state
    return encode.pack({**body, **(more or {}), "trace": trace_id}, encoding)


def push(fields: Mapping[str, Any]) -> bytes:
    """Pushes to operators and integrators are JSON: nobody has asked for them in another encoding."""
    return encode.pack(fields, JSON)
