"""`set-site`: change a site's title, its settings or its OU; changed settings have a new revision and go to its devices.

Its OU changes once the devices of its units are in the new one: a site whose units belong elsewhere would be nobody's.
So whoever moves an occupied site moves its devices first, by the verbs that move devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.warehouse import Site
from service.operations.requests import (
    bad_request,
    check_placement,
    check_text,
    conflict,
    not_found,
    raise_catalogue_rev,
)
from service.operations.site_settings import check_kinds, merged
from service.operations.verbs.making import Made
from service.operations.verbs.set_settings import same
from service.operations.verbs.verb import Arguments as Arguments_
from service.operations.verbs.verb import Role, World
from service.operations.verbs.warehouse_rows import check_scope, decide
from service.storage import warehouse_queries as queries
from service.storage import warehouse_writes as writes
from service.storage.store import SqlBatch
from service.storage.warehouse_queries import Settings

NAME = "set-site"
ROLE = Role.OPERATOR


class Arguments(Arguments_):
    """`settings` are set beside those that are there; with `replace` they take the place of all."""

    site: Annotated[str, Field(max_length=64)]
    title: str | None = None
    ou: str | None = None
    settings: dict[str, JsonValue] | None = None
    replace: bool = False
    settings_rev: Annotated[int, Field(ge=0)] | None = None  # only where the site has this revision

    def document(self) -> dict[str, Any]:
        """Of the settings the names only."""
        names = sorted(
            f"{section}.{name}" if isinstance(values, dict) else section
            for section, values in (self.settings or {}).items()
            for name in (values if isinstance(values, dict) else (section,))
        )
        found = self.model_dump(exclude_none=True, exclude={"settings"})
        return found if self.settings is None else {**found, "settings": names}


async def make(batch: SqlBatch, connection: AsyncConnection, arguments: Arguments, world: World) -> Made:
    known = (await queries.sites(connection, [arguments.site])).get(arguments.site)
    in_force: Settings = {} if known is None else await queries.settings_of(connection, batch.sealer, known)
    next_rev = await queries.next_settings_rev(connection)
    outside = await queries.units_outside(connection, arguments.site, arguments.ou or "")
    types = await queries.device_types(connection, await queries.types_at(connection, arguments.site))
    changed: list[tuple[Site, Settings | None]] = []

    def take(asked: Arguments) -> bool:
        if known is None:
            raise not_found("site_unknown", f"no site {asked.site!r}")
        check_scope(known.ou, world)
        if asked.ou is not None and asked.ou != known.ou:
            _check_ou(asked.ou, outside, world)
        after, settings = _changed(known, in_force, asked, next_rev)
        check_kinds(settings or {}, types.values())
        if after != known:
            changed.append((after, settings))
        return after != known

    outcomes = decide([arguments], lambda one: ("site", one.site), take)

    async def write(within: AsyncConnection) -> None:
        for after, settings in changed:
            await writes.put_sites(within, [after], world.now)
            if settings is not None:
                await writes.add_settings(within, batch.sealer, after, settings, world.now, world.account)
                await raise_catalogue_rev(within)  # the service compares what its devices have

    result = {"settings_rev": changed[0][0].settings_rev} if changed else {}
    return Made(outcomes, result=result, write=write)


def _check_ou(ou: str, outside: tuple[int, tuple[str, ...]], world: World) -> None:
    check_placement(ou, None)
    check_scope(ou, world)
    count, names = outside
    if count:
        more = f" and {count - len(names)} more" if count > len(names) else ""
        raise conflict(
            "site_occupied", f"not in {ou} yet, so reprovision or allocate them first: {', '.join(names)}{more}"
        )


def _changed(before: Site, in_force: Settings, asked: Arguments, next_rev: int) -> tuple[Site, Settings | None]:
    """The site afterwards, and its new settings where they are others. Raises ServiceError."""
    if asked.settings_rev not in (None, before.settings_rev):
        raise conflict("rev_stale", f"the settings have revision {before.settings_rev}")
    if asked.title is None and asked.settings is None and asked.ou is None:
        raise bad_request("site_change_illegal", "say what changes: the title, the OU or the settings")
    after = before if asked.ou is None else replace(before, ou=asked.ou)
    if asked.title is not None:
        check_text("a title", asked.title, empty=True)
        after = replace(after, title=asked.title)
    if asked.settings is None:
        return after, None
    settings = merged({} if asked.replace else in_force, asked.settings)
    if same(settings, in_force):
        return after, None
    return replace(after, settings_rev=next_rev), settings
