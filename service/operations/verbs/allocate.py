"""`allocate`: say where a device belongs before its first activation; afterwards it is moved by `reprovision`."""

from __future__ import annotations

from dataclasses import replace

from service.domain.device import Device
from service.domain.placement import bound_environment, check_bound
from service.errors import ServiceError
from service.operations.requests import bad_request, check_batch, check_placement, conflict, not_found
from service.operations.selectors import is_within, ou_of
from service.operations.verbs.verb import Applied, Role, Told, World
from service.operations.verbs.verb import Arguments as Arguments_

NAME = "allocate"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """At least one; what is left out stays as it is."""

    ou: str | None = None
    environment: str | None = None
    batch: str | None = None


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    if arguments.ou is None and arguments.environment is None and arguments.batch is None:
        raise bad_request("place_missing", "say an OU, an environment or a batch")
    check_place(arguments.ou, arguments.environment, world)
    if arguments.batch is not None:
        check_batch(arguments.batch)
    placed = arguments.ou is not None or arguments.environment is not None
    if placed and device.thing is not None:
        raise conflict("already_activated", "the device has a thing: `reprovision` moves it")
    group = world.catalogue.groups.get(device.group_id)
    left = ou_of(device, group)
    own = arguments.environment or device.environment
    if arguments.environment is not None:
        check_bound(world.catalogue, arguments.ou or left, arguments.environment)
    elif arguments.ou is not None and bound_environment(world.catalogue, arguments.ou) is not None:
        own = None  # the OU says it, as long as it is bound
    changed = replace(device, ou=arguments.ou or device.ou, environment=own, batch=arguments.batch or device.batch)
    if changed == device:
        return Applied(device)
    data = {"ou": changed.ou, "environment": changed.environment, "batch": changed.batch}
    if arguments.ou not in (None, left):
        data["from_ou"] = left
    return Applied(changed, (Told("allocated", data),))


def check_place(ou: str | None, environment: str | None, world: World) -> None:
    """A legal place that exists and that this account may give. Raises ServiceError."""
    check_placement(ou, environment)
    if ou is not None and not is_within(ou, world.scope):
        raise ServiceError("FORBIDDEN", f"{ou} is outside of {world.scope}", cause="out_of_scope")
    if environment is not None and environment not in world.catalogue.environments:
        raise not_found("environment_unknown", f"no environment {environment}")
