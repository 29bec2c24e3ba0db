"""`onboard`: a scanned label puts its device to work where the operator stands."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.credentials import labels as texts
from service.domain import event, onboarding
from service.domain.device import Device
from service.domain.group import Group, KeyKind
from service.domain.onboarding import Label, LabelReusedError, Onboarded, Site
from service.domain.placement import bound_environment, environment_of
from service.domain.thing import Scalar
from service.errors import Secret, ServiceError
from service.operations import labels, registration
from service.operations.outcomes import Outcome, Result, refused
from service.operations.registration import Registration
from service.operations.requests import bad_request, check_placement, conflict, not_found
from service.operations.selectors import is_within, ou_of
from service.operations.verbs import set_attributes
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.storage.store import SqlBatch

NAME = "onboard"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """`scan` is what the scanner read. `site` is the attribute of that name. `device_key` in base64, where it is
    individual and neither registered nor made with the label.
    """

    SECRET: ClassVar[tuple[str, ...]] = ("scan", "device_key")

    scan: str = Field(min_length=1, max_length=1000)
    ou: str = Field(min_length=1, max_length=255)
    environment: str | None = None
    site: str | None = None
    attributes: dict[set_attributes.Key, Scalar] = Field(default_factory=dict)
    device_key: str | None = None


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    """One device. A label that someone else has used changes nothing and leaves an alarm."""
    # 1. The text: shape, installation, signature.
    text = texts.decode(arguments.scan, *batch.sealer.label_keys)
    # 2. What this account may do: the OU that it asks for.
    check_placement(arguments.ou, arguments.environment)
    if not is_within(arguments.ou, world.scope):
        raise _out_of_scope(f"{arguments.ou} is outside of {world.scope}")
    # 3. The label's row: first use and expiry.
    label = await labels.find(connection, batch.sealer, text.label_id)
    name = (label.group_id, label.serial)
    before = (await batch.load(serials=[name])).by_serial.get(name)
    try:
        users = await labels.users(connection, *name)
        onboarding.check_label(label, users, before, world.account, world.now)
    except LabelReusedError as reused:
        device_id = before.device_id if before is not None else ""
        return Made((refused(device_id, *name, reused),), events=(reused.alarm,))
    # 4. The device: registered if need be, placed and described.
    done, registered = _decide(before, label, arguments, world)
    device = done.device
    if device is before and label.used_at is not None:
        return Made((Outcome(device.device_id, *name, Result.UNCHANGED),))

    async def write(within: AsyncConnection) -> None:
        await labels.mark_used(within, label, world.account, world.now, command_id=world.command_id)

    news = (event.of(device, "registered", world.now, command_id=world.command_id),) if registered else ()
    return Made(
        (Outcome(device.device_id, *name, Result.CHANGED),),
        () if device is before else ((before, device),),
        (*news, *done.events),
        {"group": name[0], "serial": name[1], "ou": arguments.ou, "batch": device.batch, "registered": registered},
        write,
    )


def _decide(before: Device | None, label: Label, arguments: Arguments, world: World) -> tuple[Onboarded, bool]:
    group = world.catalogue.groups.get(label.group_id)
    if group is None:
        raise not_found("group_unknown", f"no group {label.group_id}")
    if before is not None and before.thing is not None and not is_within(ou_of(before, group), world.scope):
        raise _out_of_scope(f"the device is outside of {world.scope}")
    device = before or _registered(label, group, arguments, world)
    present = device.thing.environment if device.thing else device.environment or group.default_environment or ""
    if arguments.environment is None and not present and bound_environment(world.catalogue, arguments.ou) is None:
        raise bad_request("environment_missing", f"say an environment: neither group nor {arguments.ou} has one")
    environment = environment_of(world.catalogue, arguments.ou, arguments.environment, present).name
    own = environment if arguments.environment is not None or environment != present else None
    attributes = dict(arguments.attributes)
    if arguments.site is not None:
        attributes["site"] = arguments.site
    set_attributes.merged(device.thing.attributes if device.thing else device.attributes, attributes)
    site = Site(arguments.ou, own, attributes)
    left = ou_of(before, group) if before is not None else None
    return onboarding.onboard(device, label, site, world.now, left=left, command_id=world.command_id), before is None


def _registered(label: Label, group: Group, arguments: Arguments, world: World) -> Device:
    key: Secret | None = None
    if group.key_kind is KeyKind.INDIVIDUAL:
        given = None if arguments.device_key is None else registration.parse_key(arguments.device_key)
        key = label.key or given
        if key is None:
            raise conflict("device_key_missing", "this device is not registered and its group needs its device key")
    asked = Registration(label.group_id, label.serial, key=key)
    known: dict[tuple[str, str], Device] = {}
    (outcome,), made = registration.decide(world.catalogue, [asked], known, world.now, world.random_bytes)
    if outcome.result is registration.Result.ERROR:
        raise bad_request(outcome.cause or "", outcome.reason or "")
    return replace(made[0], batch=label.batch)


def _out_of_scope(words: str) -> ServiceError:
    return ServiceError("FORBIDDEN", words, cause="out_of_scope")
