"""`firstlight manifest`: what units get installed in the warehouse, made of files that are signed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context, release, warehouse_asking
from service.domain.manifest import Item
from service.errors import ServiceError
from service.images.files import ImageFiles
from service.operations import builds, manifests, products
from service.operations.manifests import ManifestView
from service.operations.warehouse_pages import Asked, Document
from service.storage.database import Database

app = typer.Typer(help="Manifests: software, content, certificates and secrets of a build.", no_args_is_help=True)
Product = Annotated[str, typer.Argument(metavar="PRODUCT")]
Name = Annotated[str, typer.Argument(help="The build's, such as 2030-07; it stands for this manifest for ever.")]
Description = Annotated[Path, typer.Argument(metavar="BUILD", help="A TOML file with an [[item]] for each file.")]
KeyOption = Annotated[Path | None, typer.Option(help="The private release key, where it is at hand.")]


@app.command()
def build(
    product: Product,
    name: Name,
    description: Description,
    key: KeyOption = None,
    signatures: Annotated[
        Path | None, typer.Option(help="What `firstlight manifest sign` has written, where the key is elsewhere.")
    ] = None,
    static: Annotated[bool, typer.Option("--static", help="For device types that have none of their own.")] = False,
    passphrase: release.AskPassphrase = False,
    as_json: context.JsonOption = False,
) -> None:
    """Make a manifest: files are signed, checked and stored, secrets sealed. The same build again changes nothing."""
    if (key is None) == (signatures is None):
        context.fail("say --key or --signatures")
    secret = release.ask_passphrase(wanted=passphrase and key is not None)
    images = ImageFiles(context.settings().images_dir)
    parts = _parts(description)

    async def make(database: Database) -> ManifestView:
        if key is not None:
            product_name = (await products.show(database, product)).name
            signed = builds.sign(parts, key, product=product_name, passphrase=secret)
        else:
            assert signatures is not None
            signed = builds.read_signatures(signatures)
        return await manifests.build(
            database, images, product_id=product, name=name, parts=parts, signatures=signed, static=static,
            now=datetime.now(UTC),
        )  # fmt: skip

    made = context.run(make)
    said = f"manifest {name} of {product} made: {made.head.items} items, {made.head.size} bytes"
    context.emit(
        _document(made), as_json=as_json, text=lambda: print(said + (", now the static one" if static else ""))
    )


@app.command()
def sign(
    description: Description,
    key: Annotated[Path, typer.Option(help="The private release key.")],
    product: Annotated[str, typer.Option(help="The product's name, such as Tablet.")],
    out: Annotated[Path | None, typer.Option(help="The signature file; default: BUILD.sig.json")] = None,
    passphrase: release.AskPassphrase = False,
    as_json: context.JsonOption = False,
) -> None:
    """Sign every file of a build. Needs no service and no database: do it where the release key is."""
    secret = release.ask_passphrase(wanted=passphrase)
    target = out or description.with_name(description.stem + ".sig.json")
    parts = _parts(description)
    try:
        text = builds.signatures_text(builds.sign(parts, key, product=product, passphrase=secret))
        target.write_text(text, "utf-8")
    except ServiceError as error:
        context.fail(error.public)
    except OSError as error:
        context.fail(f"cannot write {target}: {error.strerror}")
    context.emit(json.loads(text), as_json=as_json, text=lambda: print(f"signed {len(parts)} items: {target}"))


@app.command("list")
def list_(
    product: Annotated[str | None, typer.Option(help="Only this product's.")] = None,
    limit: warehouse_asking.LimitOption = 100,
    after: warehouse_asking.AfterOption = "",
    as_json: context.JsonOption = False,
) -> None:
    """Manifests by product and name."""
    columns = ("name", "static", "items", "size", "created_at", "manifest_id")
    warehouse_asking.show_list("manifests", Asked(after=after, limit=limit, product=product), columns, as_json=as_json)


@app.command()
def show(product: Product, name: Name, as_json: context.JsonOption = False) -> None:
    """One manifest with its items in the order of installation. Secrets are never shown."""
    found = context.run(lambda database: manifests.show(database, product, name))

    def text() -> None:
        columns = ["name", "kind", "version", "size", "needs", "bytes", "sha256"]
        rows = [[warehouse_asking.cell(_item(one), column) for column in columns] for one in found.items]
        context.table(f"Manifest {found.head.name} of {product} {found.head.manifest_id[:16]}", columns, rows)

    context.emit(_document(found), as_json=as_json, text=text)


def _parts(description: Path) -> tuple[builds.Part, ...]:
    try:
        return builds.read(description)
    except ServiceError as error:
        context.fail(error.public)


def _document(of: ManifestView) -> Document:
    return {**context.plain(of.head), "items": [_item(one) for one in of.items]}


def _place(one: Item) -> str:
    if one.is_sealed_image:
        return "sealed image"
    return "image" if one.image_id else "sealed" if one.secret else "inline"


def _item(one: Item) -> Document:
    return {
        "name": one.name,
        "kind": one.kind.value,
        "version": one.version,
        "size": one.size,
        "needs": [str(need) for need in one.needs],
        "bytes": _place(one),
        "sha256": one.sha256,
        "key_id": one.key_id,
    }
