"""Verbs that name what they make or change in their arguments: `register`, `onboard`, and those of the warehouse.

Owns the values that they share. One module each holds NAME, ROLE, Arguments and `make`, which runs in the command's
one transaction: it may read, but leaves every write to the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.device import Device
from service.domain.event import Event
from service.operations.outcomes import Outcome
from service.operations.verbs.verb import Arguments, Role, World
from service.storage.store import SqlBatch


@dataclass(frozen=True, slots=True)
class Made:
    """What a making verb decided: one outcome for each device that was asked for."""

    outcomes: tuple[Outcome, ...]
    devices: tuple[tuple[Device | None, Device], ...] = ()  # (before, after)
    events: tuple[Event, ...] = ()  # also where every outcome is a refusal: an alarm
    result: Mapping[str, object] = field(default_factory=dict)  # shown once, never stored: may hold a new key
    write: Callable[[AsyncConnection], Awaitable[None]] | None = None  # rows of its own, in the same transaction


Make = Callable[[SqlBatch, AsyncConnection, Any, World], Awaitable[Made]]


@dataclass(frozen=True, slots=True)
class Making:
    name: str
    role: Role
    arguments: type[Arguments]
    make: Make


def making_of(module: ModuleType) -> Making:
    return Making(module.NAME, module.ROLE, module.Arguments, module.make)
