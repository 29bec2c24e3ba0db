"""`set-type`: change a device type's description, manifest or the settings of its two steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import DeviceType
from service.operations.requests import bad_request, check_text, not_found
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


async def make(_batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
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

    return Made(outcomes, write=write)
