"""What a verb is: a pure function over one device, with the role that it needs and the form of its arguments.

Owns the values that every verb shares. One module each beside this one holds NAME, ROLE, Arguments and apply; the
engine (operations/commands.py) runs them over whatever an operator has selected. A verb refuses by raising
ServiceError and changes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from device_sdk.wire import codes
from service.domain import moves
from service.domain.catalogue import Catalogue
from service.domain.credential import CredentialState
from service.domain.device import Device, DeviceState
from service.domain.event import Event
from service.domain.thing import Thing
from service.errors import ServiceError
from service.operations.requests import conflict


class Role(StrEnum):
    """What an account may do; each may do what the ones before it may."""

    VIEWER = "viewer"  # looks
    OPERATOR = "operator"  # changes devices
    ADMIN = "admin"  # also what cannot be taken back, and accounts

    def may(self, needed: Role) -> bool:
        order = tuple(Role)
        return order.index(self) >= order.index(needed)


class Arguments(BaseModel):
    """Strict, nothing unknown. `SECRET` names the fields that are never stored or shown."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)
    SECRET: ClassVar[tuple[str, ...]] = ()

    def document(self) -> dict[str, Any]:
        """As it is stored and shown: without secrets."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(self.SECRET))


@dataclass(frozen=True, slots=True)
class World:
    """What a verb may know beside its device."""

    now: datetime
    catalogue: Catalogue
    account: str
    command_id: str
    scope: str | None  # the account's OU; None: everything
    random_bytes: Callable[[int], bytes]
    others: Mapping[tuple[str, str], Device] = field(default_factory=dict)  # among them those that the arguments name
    devices: Mapping[str, Device] = field(default_factory=dict)  # by device_id: partners of a replacement too
    expires_at: datetime | None = None  # the command's: nothing that waits for a device waits longer


@dataclass(frozen=True, slots=True)
class Told:
    """An event that follows from a verb; where it happened is taken from the device."""

    kind: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a verb decided. The same object as before is no change."""

    device: Device
    told: tuple[Told, ...] = ()
    events: tuple[Event, ...] = ()  # those that the rules made themselves, before what is told
    others: tuple[Device, ...] = ()  # other devices that change along, new ones included
    result: Mapping[str, object] = field(default_factory=dict)  # for the operator's eyes


Apply = Callable[[Device, Any, World], Applied]


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    role: Role
    arguments: type[Arguments]
    apply: Apply
    single: bool = False  # for one device at a time
    named: Callable[[Any], tuple[tuple[str, str], ...]] | None = None  # devices that the arguments name


def verb_of(module: ModuleType) -> Verb:
    """The verb that a module of this folder holds."""
    return Verb(
        module.NAME,
        module.ROLE,
        module.Arguments,
        module.apply,
        getattr(module, "SINGLE", False),
        getattr(module, "named", None),
    )


def thing_of(device: Device) -> Thing:
    """Raises ServiceError CONFLICT: the device has never been activated."""
    if device.thing is None:
        raise conflict("no_thing", "the device has no thing yet: it has never been activated")
    return device.thing


def entered(device: Device, state: DeviceState) -> Device:
    """The device in that state. Raises ServiceError CONFLICT where that is no legal move."""
    try:
        return moves.enter(device, state)
    except moves.IllegalMove as error:
        raise ServiceError(
            codes.CONFLICT,
            f"a device that is {device.state.value} cannot become {state.value}",
            cause="illegal_move",
        ) from error


def without_credentials(device: Device, now: datetime, cause: str) -> Device:
    """The device with every live credential dropped."""
    kept = tuple(
        one if one.state is CredentialState.DROPPED else moves.drop(one, now, cause) for one in device.credentials
    )
    return replace(device, credentials=kept)
