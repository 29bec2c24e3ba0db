"""A unit on its way from the warehouse to its site: steps, what may follow what, and which settings belong to which step.

Owns the steps as one table of moves; pure values and rules. A unit is named by group and serial: it may be known to an
order before there is a device. Source: docs/partners/warehouse.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

SECTIONS = ("features", "payment", "network")  # of a site's settings


# What a device type may ask a value to be. A truth value is no number.
KINDS: Mapping[str, type] = {"text": str, "number": int, "flag": bool, "list": list, "map": dict}


class Step(StrEnum):
    RECEIVED = "received"  # in the warehouse; once handed over it is the device's turn: `stage`
    STAGED = "staged"  # the device's turn: fetch, install and report every item of its manifest
    OUT_OF_BOX = "out_of_box"  # all items work, the device has shut down; the warehouse's turn: ship it
    SHIPPED = "shipped"  # the customer's turn: unpack and power up
    AT_SITE = "at_site"  # it has shaken hands from there


# Back to `received` is `restage`, or a unit that was returned.
TRANSITIONS: Mapping[Step, frozenset[Step]] = {
    Step.RECEIVED: frozenset({Step.STAGED}),
    Step.STAGED: frozenset({Step.OUT_OF_BOX, Step.RECEIVED}),
    # Somebody may forget to enter the shipment: the handshake shows where the unit is.
    Step.OUT_OF_BOX: frozenset({Step.SHIPPED, Step.AT_SITE, Step.RECEIVED}),
    Step.SHIPPED: frozenset({Step.AT_SITE, Step.RECEIVED}),
    Step.AT_SITE: frozenset({Step.SHIPPED, Step.RECEIVED}),
}
GONE = frozenset({Step.SHIPPED, Step.AT_SITE})  # from the warehouse: what it has belongs to the site where it went


class IllegalStepError(Exception):
    """No such move stands in TRANSITIONS."""

    def __init__(self, before: Step, after: Step) -> None:
        super().__init__(f"a unit that is {before.value} cannot become {after.value}")
        self.before, self.after = before, after


@dataclass(frozen=True, slots=True)
class DeviceType:
    """What a maker sells. The two lists name settings: a section such as `network`, or one value as `network.ssid`,
    perhaps with what it must be: `network.ssid:text`.
    """

    name: str
    group_id: str  # its units register here
    description: str = ""
    manifest_id: str | None = None  # what `stage` gives; None: the product's static manifest
    warehouse_settings: tuple[str, ...] = ()
    handshake_settings: tuple[str, ...] = SECTIONS


@dataclass(frozen=True, slots=True)
class Site:
    name: str
    ou: str  # where the things of its units belong
    title: str = ""
    settings_rev: int = 0  # 0: it has none yet


class OrderState(StrEnum):
    OPEN = "open"  # units may be assigned
    DISPATCHED = "dispatched"
    CLOSED = "closed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str  # the number that the business system gave it
    site: str | None = None
    state: OrderState = OrderState.OPEN


@dataclass(frozen=True, slots=True)
class Line:
    order_id: str
    line: int  # from 1
    device_type: str
    quantity: int  # 0: as many as are assigned


@dataclass(frozen=True, slots=True)
class Binding:
    """A serial number on a line of an order. A unit is bound to one order at a time."""

    order_id: str
    line: int
    group_id: str
    serial: str
    bound_at: datetime


@dataclass(frozen=True, slots=True)
class Equipment:
    """One unit as it is now."""

    group_id: str
    serial: str
    device_type: str
    step: Step
    step_at: datetime
    device_id: str | None = None  # None: not handed over for provisioning yet
    site: str | None = None
    manifest_id: str | None = None  # what the last `stage` gave it
    staged_at: datetime | None = None  # the last `stage`; None: it may call
    stage_credential_id: str | None = None
    cause: str | None = None  # why it stands still


@dataclass(frozen=True, slots=True)
class Visit:
    """One line of where a unit has been."""

    group_id: str
    serial: str
    step: str  # a step, or what was done with it: handed_over, restaged
    at: datetime
    order_id: str | None = None
    site: str | None = None
    account: str | None = None  # None: the device itself
    note: str = ""


def enter(unit: Equipment, step: Step, now: datetime) -> Equipment:
    """The unit in that step. Raises IllegalStepError for a move that is not listed."""
    if step not in TRANSITIONS[unit.step]:
        raise IllegalStepError(unit.step, step)
    return replace(unit, step=step, step_at=now, cause=None)


def restage(unit: Equipment, now: datetime) -> Equipment:
    """The unit may call `stage` once more. Raises IllegalStepError for one that is not in the warehouse."""
    if unit.step in (Step.SHIPPED, Step.AT_SITE):
        raise IllegalStepError(unit.step, Step.RECEIVED)
    step_at = unit.step_at if unit.step is Step.RECEIVED else now
    return replace(
        unit,
        step=Step.RECEIVED,
        step_at=step_at,
        manifest_id=None,
        staged_at=None,
        stage_credential_id=None,
        cause=None,
    )


def setting_name(entry: str) -> str:
    """The setting that an entry of a device type's lists names, without what it must be."""
    name, _, kind = entry.rpartition(":")
    return name if kind in KINDS else entry


def misfit(settings: Mapping[str, Mapping[str, object]], of: DeviceType) -> str | None:
    """The first value that is not what the device type says it must be, in words; None: all fit."""
    for entry in (*of.warehouse_settings, *of.handshake_settings):
        name, _, kind = entry.rpartition(":")
        section, _, value_name = name.partition(".")
        value = settings.get(section, {}).get(value_name)
        if kind in KINDS and value is not None and type(value) is not KINDS[kind]:
            return f"{name} is {kind} for {of.name}"
    return None


def values_named(settings: Mapping[str, Mapping[str, object]], names: Iterable[str]) -> dict[str, dict[str, object]]:
    """The values of a site's settings that these names mean; sections without any are left out."""
    wanted = {setting_name(one) for one in names}
    found: dict[str, dict[str, object]] = {}
    for section, values in settings.items():
        kept = {name: one for name, one in values.items() if section in wanted or f"{section}.{name}" in wanted}
        if kept:
            found[section] = kept
    return found
