"""`firstlight version`: add signed firmware versions and choose the target."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.errors import ServiceError
from service.images.files import ImageFiles
from service.operations import releases, versions

app = typer.Typer(help="Firmware versions of a product, and its target.", no_args_is_help=True)

Product = Annotated[str, typer.Argument(metavar="PRODUCT")]


@app.command()
def add(
    product: Product,
    name: Annotated[str, typer.Argument(help="The version's name, as signed.")],
    image: Path,
    signature: Annotated[Path, typer.Option(help="The file that `firstlight release sign` has written.")],
    description: Annotated[str, typer.Option(help="Shown to people.")] = "",
    target: Annotated[bool, typer.Option("--target", help="Make it the product's target at once.")] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Add a version: its signature and its image's bytes are checked."""
    try:
        signed = releases.read_signature(signature)
    except ServiceError as error:
        context.fail(error.public)
    images = ImageFiles(context.settings().images_dir)
    added = context.run(
        lambda database: versions.add(
            database,
            images,
            product_id=product,
            name=name,
            image_path=image,
            signature=signed,
            description=description,
            target=target,
            now=datetime.now(UTC),
        )
    )
    said = f"version {name} of {product} added" + (", now the target" if added.is_target else "")
    context.emit(added, as_json=as_json, text=lambda: print(said))


@app.command("list")
def list_(product: Product, as_json: context.JsonOption = False) -> None:
    """A product's versions, the newest first."""
    found = context.run(lambda database: versions.list_all(database, product))
    rows = [
        [
            one.version.name,
            "target" if one.is_target else "",
            str(one.version.seq),
            str(one.version.size),
            one.version.image_id[:16],
            one.version.description,
        ]
        for one in found
    ]
    columns = ["version", "", "seq", "bytes", "image", "description"]
    context.emit(found, as_json=as_json, text=lambda: context.table(f"Versions of {product}", columns, rows))


@app.command()
def target(
    product: Product,
    name: Annotated[str | None, typer.Argument(help="The version's name.")] = None,
    none: Annotated[bool, typer.Option("--none", help="No target: devices keep what they run.")] = False,
    as_json: context.JsonOption = False,
) -> None:
    """Set the product's target; devices that are online hear of it within a second."""
    if (name is None) != none:
        raise typer.BadParameter("give a version's name, or --none")
    found = context.run(lambda database: versions.set_target(database, product, name))
    said = f"the target of {product} is {found.name}" if found else f"{product} has no target"
    context.emit(found, as_json=as_json, text=lambda: print(said))
