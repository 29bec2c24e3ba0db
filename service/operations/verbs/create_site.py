"""`create-site`: sites, each with the OU where the things of its units belong, and perhaps its first settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import Site
from service.operations.requests import check_placement, check_text, conflict
from service.operations.site_settings import merged
from service.operations.verbs.making import Made
from service.operations.verbs.set_settings import same
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import MAX_ROWS, check_scope, check_word, decide
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Settings

NAME = "create-site"
ROLE = Role.OPERATOR


class One(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    ou: str
    title: str = ""
    settings: dict[str, JsonValue] | None = None  # secret: payment and network


class Arguments(Arguments_):
    sites: Annotated[tuple[One, ...], Field(strict=False, min_length=1, max_length=MAX_ROWS)]

    def document(self) -> dict[str, Any]:
        """Without the settings."""
        return {"sites": [one.model_dump(exclude_none=True, exclude={"settings"}) for one in self.sites]}


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    known = await queries.sites(connection, [one.name for one in arguments.sites])
    in_force = {name: await queries.settings_of(connection, batch.sealer, one) for name, one in known.items()}
    next_rev = await queries.next_settings_rev(connection)
    new: dict[str, tuple[Site, Settings]] = {}

    def take(one: One) -> bool:
        check_word("a site", one.name)
        check_text("a title", one.title, empty=True)
        check_placement(one.ou, None)
        check_scope(one.ou, world)
        settings = merged({}, one.settings or {})
        before = known.get(one.name)
        if before is not None:
            as_it_is = (one.ou, one.title) == (before.ou, before.title)
            if not as_it_is or (one.settings is not None and not same(settings, in_force[one.name])):
                raise conflict("site_exists", f"there is a site {one.name}; `set-site` changes it")
            return False
        rev = next_rev + sum(1 for made, _ in new.values() if made.settings_rev)
        made = Site(one.name, one.ou, one.title, rev if settings else 0)
        known[one.name], in_force[one.name] = made, settings
        new[one.name] = (made, settings)
        return True

    outcomes = decide(arguments.sites, lambda one: ("site", one.name[:64]), take)

    async def write(within: AsyncConnection) -> None:
        await writes.put_sites(within, [one for one, _ in new.values()], world.now)
        for one, settings in new.values():
            if one.settings_rev:
                await writes.add_settings(within, batch.sealer, one, settings, world.now, world.account)

    return Made(outcomes, write=write)
