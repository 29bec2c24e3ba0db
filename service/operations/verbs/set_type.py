"""`set-type`: change a device type's description, manifest or the settings of its two steps.

Where its units take other settings than before, those of their sites get a new revision with the same values: it is how
units hear that there is something else for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import DeviceType, setting_name
from service.operations.requests import bad_request, check_text, not_found, raise_catalogue_rev
from service.operations.verbs.create_type import ROLE as ROLE_
from service.operations.verbs.create_type import Manifests, Names, check_settings
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import World
from service.operations.verbs.warehouse_rows import check_scope, decide
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch

NAME = "set-type"
ROLE = ROLE_
STATIC = ""  # as a manifest's name: the product's static one again


class Arguments(Arguments_):
    """What is left out stays. A unit that is staged keeps the manifest that it was given."""

    type: Annotated[str, Field(max_length=64)]
    description: str | None = None
    manifest: str | None = None
    warehouse_settings: Names | None = None
    handshake_settings: Names | None = None


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    known = await queries.device_types(connection, [arguments.type])
    manifests = await Manifests.load(connection, [arguments.manifest] if arguments.manifest else [])
    changed: list[DeviceType] = []

    def take(asked: Arguments) -> bool:
        before = known.get(asked.type)
        if before is None:
            raise not_found("type_unknown", f"no device type {asked.type!r}")
        group = world.catalogue.groups[before.group_id]
        check_scope(group.default_ou, world)
        given = asked.model_dump(exclude_none=True, exclude={"type", "manifest"})
        if asked.manifest == STATIC:
            given["manifest_id"] = None
        elif asked.manifest is not None:
            given["manifest_id"] = manifests.of(group.product_id, asked.manifest)
        if not given:
            raise bad_request("type_change_illegal", "say what changes")
        after = replace(before, **given)
        check_text("a description", after.description, empty=True)
        check_settings(after)
        if after != before:
            changed.append(after)
        return after != before

    outcomes = decide([arguments], lambda one: ("device-type", one.type), take)

    async def write(within: AsyncConnection) -> None:
        await writes.put_device_types(within, changed, world.now)
        if any(_takes(one) != _takes(known[one.name]) for one in changed):
            await _renew(within, batch, arguments.type, world)

    return Made(outcomes, write=write)


def _takes(of: DeviceType) -> set[str]:
    """What a handshake gives: the settings of both steps."""
    return {setting_name(one) for one in (*of.warehouse_settings, *of.handshake_settings)}


async def _renew(connection: AsyncConnection, batch: SqlBatch, name: str, world: World) -> None:
    told = await queries.sites(connection, await queries.sites_told(connection, [name]))
    sites = [one for one in told.values() if one.settings_rev]
    rev = await queries.next_settings_rev(connection)
    for renewed, before in ((replace(one, settings_rev=rev + number), one) for number, one in enumerate(sites)):
        settings = await queries.settings_of(connection, batch.sealer, before)
        await writes.put_sites(connection, [renewed], world.now)
        await writes.add_settings(connection, batch.sealer, renewed, settings, world.now, world.account)
    if sites:
        await raise_catalogue_rev(connection)  # the service compares what its devices have
