"""`firstlight site`: where units go, and the settings that they get there."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from service.cli import context, warehouse_asking
from service.cli.asking import given
from service.cli.warehouse_asking import AfterOption, FileArgument, LimitOption, LinesOption
from service.operations import warehouse_imports, warehouse_show
from service.operations.accounts import THIS_MACHINE
from service.operations.warehouse_pages import Asked

app = typer.Typer(help="Sites: the OU of their units, and their settings under a revision.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A word such as hall-1.")]
SettingsOption = Annotated[
    str | None,
    typer.Option(
        envvar="FIRSTLIGHT_SITE_SETTINGS",
        metavar="JSON",
        help='A map of features, payment and network, such as {"network": {"ssid": "hall"}}; or @FILE.',
    ),
]


@app.command()
def create(
    name: Name,
    ou: Annotated[str, typer.Option(help="Where the things of its units belong.")],
    title: Annotated[str, typer.Option(help="Shown to people.")] = "",
    settings: SettingsOption = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make a site."""
    one: dict[str, Any] = {"name": name, "ou": ou, "title": title}
    if settings is not None:
        one["settings"] = warehouse_asking.read_json(settings, "--settings")
    warehouse_asking.ask("create-site", {"sites": [one]}, as_json=as_json)


@app.command("set")
def set_(
    name: Name,
    title: Annotated[str | None, typer.Option(help="Shown to people.")] = None,
    ou: Annotated[str | None, typer.Option(help="Another OU, once the devices of its units are in it.")] = None,
    settings: SettingsOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Instead of all settings that are there.")] = False,
    settings_rev: Annotated[int | None, typer.Option(help="Only where this revision is in force.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Change a site. Changed settings have a new revision, and its devices hear of them; null takes one away."""
    arguments = {
        "site": name,
        "title": title,
        "ou": ou,
        "settings": None if settings is None else warehouse_asking.read_json(settings, "--settings"),
        "replace": replace or None,
        "settings_rev": settings_rev,
    }
    warehouse_asking.ask("set-site", given(arguments), as_json=as_json)


@app.command("list")
def list_(limit: LimitOption = 100, after: AfterOption = "", as_json: context.JsonOption = False) -> None:
    """Sites by name, with their units by step."""
    columns = ("name", "ou", "title", "settings_rev", "steps")
    warehouse_asking.show_list("sites", Asked(after=after, limit=limit), columns, as_json=as_json)


@app.command()
def show(
    name: Name,
    reveal: Annotated[bool, typer.Option("--reveal", help="The settings' values too; they may be secret.")] = False,
    as_json: context.JsonOption = False,
) -> None:
    """One site, and which settings it has."""
    found = context.run(lambda database: warehouse_show.site(database, THIS_MACHINE, name, reveal=reveal))
    shown = dict(found)
    if reveal and not as_json:
        shown["settings"] = json.dumps(found["settings"], ensure_ascii=False)
    names = ("ou", "title", "settings_rev", "settings")
    warehouse_asking.show_one(f"Site {name}", shown, names, as_json=as_json)


@app.command("import")
def import_(file: FileArgument, as_json: LinesOption = False) -> None:
    """Make a site of every row: name, ou, title, settings (in CSV as JSON)."""
    warehouse_asking.import_file(warehouse_imports.SITES, file, as_json=as_json)
