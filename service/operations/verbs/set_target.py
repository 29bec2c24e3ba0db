"""`set-target`: a firmware target of a thing's own, before those of its OU, group and product; or none again."""

from __future__ import annotations

from dataclasses import replace

from service.domain.catalogue import Catalogue
from service.domain.device import Device
from service.domain.product import Version
from service.operations.requests import not_found
from service.operations.verbs.verb import Applied, Role, Told, World, thing_of
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.versions import check_not_below, check_trusted

NAME = "set-target"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """`version`: a name or a version id of the thing's product; null takes the thing's own target away."""

    version: str | None


def apply(device: Device, arguments: Arguments, world: World) -> Applied:
    thing = thing_of(device)
    wanted = None
    if arguments.version is not None:
        version = version_of(world.catalogue, thing.product_id, arguments.version)
        check_trusted(version.name, version.key_id, world.catalogue.retired_keys)
        check_not_below(version, device.firmware.confirmed_seq)
        wanted = version.version_id
    if thing.target_version_id == wanted:
        return Applied(device)
    changed = replace(device, thing=replace(thing, target_version_id=wanted))
    return Applied(changed, (Told("target_changed", {"version_id": wanted}),))


def version_of(catalogue: Catalogue, product_id: str, text: str) -> Version:
    """By name or id. Raises ServiceError NOT_FOUND."""
    for version in catalogue.versions.values():
        if version.product_id == product_id and text in (version.version_id, version.name):
            return version
    raise not_found("version_unknown", f"product {product_id} has no version {text[:64]!r}")
