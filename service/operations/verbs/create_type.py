"""`create-type`: device types, each with its group, its manifest and the settings of its two steps."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import KINDS, SECTIONS, DeviceType, setting_name
from service.operations.requests import bad_request, check_text, conflict, not_found
from service.operations.verbs.making import Made
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, check_scope, check_word, decide
from service.storage import manifest_queries
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch

NAME = "create-type"
ROLE = Role.ADMIN  # it says what is installed in a warehouse
MAX_SETTING_CHARS = 64
Names = Annotated[tuple[str, ...], Field(strict=False, max_length=64)]


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    group: str
    description: str = ""
    manifest: str | None = None  # by name; left out: the product's static one
    warehouse_settings: Names = ()
    handshake_settings: Names = SECTIONS


class Arguments(Arguments_):
    types: Annotated[tuple[One, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]


async def make(_batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    known = await queries.device_types(connection, [one.name for one in arguments.types])
    manifests = await Manifests.load(connection, [one.manifest for one in arguments.types if one.manifest])
    new: list[DeviceType] = []

    def take(one: One) -> bool:
        check_word("a device type", one.name)
        check_text("a description", one.description, empty=True)
        group = world.catalogue.groups.get(one.group)
        if group is None:
            raise not_found("group_unknown", f"no group {one.group[:64]!r}")
        check_scope(group.default_ou, world)
        wanted = DeviceType(
            one.name,
            one.group,
            one.description,
            None if one.manifest is None else manifests.of(group.product_id, one.manifest),
            one.warehouse_settings,
            one.handshake_settings,
        )
        check_settings(wanted)
        if one.name in known:
            if known[one.name] != wanted:
                raise conflict("type_exists", f"there is a device type {one.name}; `set-type` changes it")
            return False
        known[one.name] = wanted
        new.append(wanted)
        return True

    outcomes = decide(arguments.types, lambda one: ("device-type", one.name[:64]), take)

    async def write(within: AsyncConnection) -> None:
        await writes.put_device_types(within, new, world.now)

    return Made(outcomes, write=write)


@dataclass(frozen=True, slots=True)
class Manifests:
    """The manifests that are named, and those of them that a release key has signed which was retired."""

    ids: Mapping[tuple[str, str], str]  # (product, name) -> id
    retired: frozenset[str]

    @classmethod
    async def load(cls, connection: AsyncConnection, names: Collection[str]) -> Manifests:
        found = await manifest_queries.ids_by_name(connection, names)
        return cls(found, await manifest_queries.with_retired_keys(connection, list(found.values())))

    def of(self, product_id: str, name: str) -> str:
        """The id of a product's manifest by its name. Raises ServiceError NOT_FOUND, CONFLICT: not trusted any more."""
        found = self.ids.get((product_id, name))
        if found is None:
            raise not_found("manifest_unknown", f"product {product_id} has no manifest {name[:64]!r}")
        if found in self.retired:
            raise conflict("release_key_retired", f"a release key that signed {name} was retired; build it anew")
        return found


def check_settings(of: DeviceType) -> None:
    """Each name is a section or a value of one, and belongs to one step. Raises ServiceError BAD_REQUEST."""
    of_steps = [[setting_name(one) for one in names] for names in (of.warehouse_settings, of.handshake_settings)]
    for entry, name in zip((*of.warehouse_settings, *of.handshake_settings), itertools.chain(*of_steps), strict=True):
        section, dot, value = name.partition(".")
        if section not in SECTIONS or (dot and not value) or len(name) > MAX_SETTING_CHARS:
            raise bad_request("setting_name_illegal", f"a setting is named {' or '.join(SECTIONS)}, or SECTION.VALUE")
        if entry != name and not dot:
            raise bad_request(
                "setting_name_illegal", f"{section} is a section; only its values are {' or '.join(KINDS)}"
            )
    both = sorted(set(of_steps[0]) & set(of_steps[1]))
    if both:
        raise bad_request("setting_twice", f"{both[0]} belongs to one step, the warehouse's or the handshake's")
