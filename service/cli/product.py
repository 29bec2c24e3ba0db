"""`firstlight product`: make, list and show products."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import context
from service.operations import products

app = typer.Typer(help="Products: what a thing is, and its firmware's target.", no_args_is_help=True)

ProductId = Annotated[str, typer.Argument(help="A word such as thermometer.")]


@app.command()
def create(
    product_id: ProductId,
    name: Annotated[str, typer.Option(help="What people read; things are named after it.")],
    hardware: Annotated[str, typer.Option(help="The hardware that its firmware runs on; signed into each version.")],
    as_json: context.JsonOption = False,
) -> None:
    """Make a product."""
    made = context.run(lambda database: products.create(database, product_id, name, hardware))
    context.emit(made, as_json=as_json, text=lambda: print(f"product {made.product_id} made"))


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """All products."""
    found = context.run(products.list_all)
    context.emit(found, as_json=as_json, text=lambda: _show(found))


@app.command()
def show(product_id: ProductId, as_json: context.JsonOption = False) -> None:
    """One product."""
    found = context.run(lambda database: products.show(database, product_id))
    context.emit(found, as_json=as_json, text=lambda: _show([found]))


def _show(found: list[products.ProductView]) -> None:
    context.table(
        "Products",
        ["product", "name", "hardware", "target", "versions", "things"],
        [
            [one.product_id, one.name, one.hardware, one.target or "-", str(one.versions), str(one.things)]
            for one in found
        ],
    )
