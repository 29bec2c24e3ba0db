"""`firstlight device-type`: what a maker sells, and what its units get in the warehouse and at their site."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli import context, warehouse_asking
from service.cli.asking import given
from service.cli.warehouse_asking import AfterOption, FileArgument, LimitOption, LinesOption
from service.operations import warehouse_imports, warehouse_show
from service.operations.accounts import THIS_MACHINE
from service.operations.warehouse_pages import Asked

app = typer.Typer(help="Device types: group, manifest, and which settings belong to which step.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A word such as tablet.")]
_HELP = "A section (features, payment, network) or one value as network.ssid or network.ssid:text; may stand often."
WarehouseOption = Annotated[list[str] | None, typer.Option("--warehouse-setting", help=f"Given with stage. {_HELP}")]
HandshakeOption = Annotated[list[str] | None, typer.Option("--handshake-setting", help=f"Given at its site. {_HELP}")]
_SHOWN = (
    "group",
    "product",
    "description",
    "manifest",
    "manifest_is_static",
    "warehouse_settings",
    "handshake_settings",
)


@app.command()
def create(
    name: Name,
    group: Annotated[str, typer.Option(help="Its units register here.")],
    description: Annotated[str, typer.Option(help="Shown to people.")] = "",
    manifest: Annotated[str | None, typer.Option(help="Of the product, by name; else its static one.")] = None,
    warehouse_setting: WarehouseOption = None,
    handshake_setting: HandshakeOption = None,
    as_json: context.JsonOption = False,
) -> None:
    """Make a device type. Without --handshake-setting every setting of the site belongs to the handshake."""
    one = {
        "name": name,
        "group": group,
        "description": description,
        "manifest": manifest,
        "warehouse_settings": warehouse_setting,
        "handshake_settings": handshake_setting,
    }
    warehouse_asking.ask("create-type", {"types": [given(one)]}, as_json=as_json)


@app.command("set")
def set_(
    name: Name,
    description: Annotated[str | None, typer.Option(help="Shown to people.")] = None,
    manifest: Annotated[str | None, typer.Option(help="Of the product, by name.")] = None,
    static: Annotated[bool, typer.Option("--static", help="The product's static manifest again.")] = False,
    warehouse_setting: WarehouseOption = None,
    handshake_setting: HandshakeOption = None,
    as_json: context.JsonOption = False,
) -> None:
    """Change a device type. A unit that has been staged keeps the manifest that it was given."""
    if static and manifest is not None:
        context.fail("say --manifest or --static")
    arguments: dict[str, Any] = {
        "type": name,
        "description": description,
        "manifest": "" if static else manifest,
        "warehouse_settings": warehouse_setting,
        "handshake_settings": handshake_setting,
    }
    warehouse_asking.ask("set-type", given(arguments), as_json=as_json)


@app.command("list")
def list_(limit: LimitOption = 100, after: AfterOption = "", as_json: context.JsonOption = False) -> None:
    """Device types by name."""
    columns = ("name", "group", "product", "manifest", "units", "description")
    warehouse_asking.show_list("device-types", Asked(after=after, limit=limit), columns, as_json=as_json)


@app.command()
def show(name: Name, as_json: context.JsonOption = False) -> None:
    """One device type, and which manifest its units are given now."""
    found = context.run(lambda database: warehouse_show.device_type(database, THIS_MACHINE, name))
    warehouse_asking.show_one(f"Device type {name}", found, _SHOWN, as_json=as_json)


@app.command("import")
def import_(file: FileArgument, as_json: LinesOption = False) -> None:
    """Make a device type of every row: name, group, description, manifest, warehouse_settings, handshake_settings."""
    warehouse_asking.import_file(warehouse_imports.DEVICE_TYPES, file, as_json=as_json)
