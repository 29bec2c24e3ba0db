"""What a batch of messages changes: devices before and after, numbers taken, events and the trace of each step. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.device import Device
from service.domain.event import Event


@dataclass(frozen=True, slots=True)
class Trace:
    """One step of one device, as `firstlight trace` shows it. Holds no secret and no payload."""

    group_id: str
    serial: str
    at: datetime
    trace_id: str  # 16 hex; the device has it in its reply
    verb: str
    step: str  # what the rules decided, e.g. "activated", "confirmed", "refused"
    code: str | None = None  # the wire code of a refusal
    cause: str | None = None  # the counter's name
    detail: str = ""
    credential_id: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    devices: tuple[tuple[Device | None, Device], ...] = ()  # (before, after); before is None for a new device
    traces: tuple[Trace, ...] = ()
    events: tuple[Event, ...] = ()  # in the order in which they happened
    self_registered: Mapping[str, int] = field(default_factory=dict)  # group_id -> so many more registered themselves
    numbers: Mapping[str, int] = field(default_factory=dict)  # product_id -> the next free number from now on
    counters: Mapping[str, int] = field(default_factory=dict)  # cause or event name -> increment
