"""Between rows and values of what has happened: events and the steps of traces. Does no query."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.domain.changes import Trace
from service.domain.event import Event
from service.storage.rows import Row, json_of, time_of, to_ms


def event_row(event: Event, at: datetime) -> Row:
    """`at` counts for an event that has no time of its own."""
    return {
        "at": to_ms(event.at or at),
        "kind": event.kind,
        "group_id": event.group_id,
        "serial": event.serial,
        "thing_id": event.thing_id,
        "ou": event.ou,
        "environment": event.environment,
        "command_id": event.command_id,
        "data": json_of(event.data),
    }


def trace_row(step: Trace) -> Row:
    return {
        "group_id": step.group_id,
        "serial": step.serial,
        "at": to_ms(step.at),
        "trace_id": step.trace_id,
        "verb": step.verb,
        "step": step.step,
        "code": step.code,
        "cause": step.cause,
        "detail": step.detail,
        "credential_id": step.credential_id,
    }


def trace_of(row: Sequence[Any]) -> Trace:
    (group_id, serial, at, trace_id, verb, step, code, cause, detail, credential_id) = row
    return Trace(group_id, serial, time_of(at), trace_id, verb, step, code, cause, detail, credential_id)
