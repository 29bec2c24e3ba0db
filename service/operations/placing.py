"""Where an event happened, for a device that has no place of its own yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from service.domain.catalogue import Catalogue
from service.domain.event import Event


def placed(events: Iterable[Event], catalogue: Catalogue) -> tuple[Event, ...]:
    """The events of devices without a thing where their group says: who may read them follows from that."""
    found = []
    for one in events:
        group = catalogue.groups.get(one.group_id)
        if group is None or one.thing_id is not None:
            found.append(one)
            continue
        ou, environment = one.ou or group.default_ou, one.environment or group.default_environment
        found.append(replace(one, ou=ou, environment=environment))
    return tuple(found)
