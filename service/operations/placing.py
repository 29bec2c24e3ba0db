"""Where an event happened, for a device that has no place of its own yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from service.domain.catalogue import Catalogue
from service.domain.device import Device
from service.domain.event import Event
from service.domain.group import Group


def placed(events: Iterable[Event], catalogue: Catalogue) -> tuple[Event, ...]:
    """The events of devices without a thing where their group says: who may read them follows from that."""
    found = []
    for one in events:
        group = catalogue.groups.get(one.group_id)
        if group is None or one.thing_id is not None:
            found.append(one)
            continue
        ou, environment = place(one.ou, one.environment, group)
        found.append(replace(one, ou=ou, environment=environment))
    return tuple(found)


def registered(new: Iterable[Device], catalogue: Catalogue, at: datetime) -> tuple[Event, ...]:
    """One event for each device that is new."""
    found = []
    for one in new:
        ou, environment = place(one.ou, one.environment, catalogue.groups[one.group_id])
        found.append(Event("registered", one.group_id, one.serial, ou=ou, environment=environment, at=at))
    return tuple(found)


def place(ou: str | None, environment: str | None, group: Group) -> tuple[str | None, str | None]:
    return ou or group.default_ou, environment or group.default_environment
