"""Where an activated device belongs, what it is called and which kind of credential it gets. Pure.

Owns the rules of state, place, kind and name; proofs are checked before, rows are made after.
Source: docs/protocol.md, sections 4.2 and 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from device_sdk.wire import codes
from service.domain.catalogue import Catalogue, Environment
from service.domain.credential import CredentialKind
from service.domain.device import Device, DeviceState
from service.domain.group import Group, KeyKind
from service.domain.placement import bound_environment
from service.domain.product import Product, name_of
from service.domain.thing import Thing
from service.errors import ServiceError

_STATE_REFUSALS = {
    DeviceState.BLOCKED: (codes.BLOCKED, "this device is blocked", "blocked"),
    DeviceState.REPLACED: (codes.REPLACED, "another device has taken its place", "replaced"),
    DeviceState.RETIRED: (codes.RETIRED, "this device is retired", "retired"),
}


@dataclass(frozen=True, slots=True)
class Place:
    ou: str
    environment: Environment


def check_state(device: Device) -> None:
    """Refuse a proven device that may not come in. Raises ServiceError BLOCKED (also frozen), REPLACED or RETIRED."""
    found = _STATE_REFUSALS.get(device.state)
    if found is not None:
        code, public, cause = found
        raise ServiceError(code, public, cause=cause)
    if device.frozen:
        raise frozen()


def frozen() -> ServiceError:
    return ServiceError(codes.BLOCKED, "two devices use this serial; an operator must look", cause="frozen")


def place_of(device: Device, group: Group, catalogue: Catalogue, *, operational: bool = False) -> Place:
    """The thing's place, else the device's own allocation, else the group's default. Raises ServiceError NOT_ALLOCATED.

    The environment that an OU is bound to comes before the group's default one, not before the device's own. A thing that is being moved belongs where it is going, except to those who ask from where it is (`operational`).
    """
    thing = device.thing
    ou = thing.ou if thing else device.ou or group.default_ou
    name = thing.environment if thing else device.environment
    if thing is not None and thing.move is not None and not operational:
        ou, name = thing.move.ou, thing.move.environment
    elif thing is None and name is None:
        name = (bound_environment(catalogue, ou) if ou is not None else None) or group.default_environment
    environment = catalogue.environments.get(name) if name else None
    if not ou or environment is None or not environment.endpoints:
        raise ServiceError(
            codes.NOT_ALLOCATED,
            "no place is allocated yet",
            cause="not_allocated",
            detail=f"ou {ou or 'none'}, environment {name or 'none'}"
            + ("" if environment else " (not one of this service)"),
        )
    return Place(ou, environment)


def kind_of(group: Group, place: Place, *, has_csr: bool) -> CredentialKind:
    """Which kind of credential this claim gets there. Raises ServiceError BAD_REQUEST when it cannot have one."""
    offered = place.environment.endpoints
    if has_csr and CredentialKind.X509 in offered:
        return CredentialKind.X509
    if group.key_kind is not KeyKind.PUBLIC_KEY and CredentialKind.API_KEY in offered:
        return CredentialKind.API_KEY
    raise ServiceError(codes.BAD_REQUEST, "a CSR is needed here", cause="csr_missing")


def new_thing(
    thing_id: str,
    device: Device,
    product: Product,
    number: int,
    place: Place,
    now: datetime,
    template_settings: Mapping[str, object] | None = None,
) -> Thing:
    """`template_settings`: the group's; the device's own attributes become the thing's."""
    template_settings = template_settings or {}
    return Thing(
        thing_id=thing_id,
        group_id=device.group_id,
        product_id=product.product_id,
        name=name_of(product, number),
        number=number,
        ou=place.ou,
        environment=place.environment.name,
        attributes=device.attributes,
        settings=template_settings,
        settings_rev=1 if template_settings else 0,
        holder_device_id=device.device_id,
        created_at=now,
    )
