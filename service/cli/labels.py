"""`firstlight labels`: printable labels for a batch of devices."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.operations import labels as operation
from service.operations import sheets
from service.operations.labels import Order
from service.operations.sheets import PrintedLabel


def labels(
    batch: Annotated[str, typer.Option(help="The batch's tag, such as B42; devices are monitored by it.")],
    out: Annotated[Path, typer.Option(help="*.pdf, *.svg, *.png (one file a page) or *.csv.")],
    group: Annotated[
        str | None, typer.Option(help="The registration group of the devices; needed where serials are named.")
    ] = None,
    serials: Annotated[Path | None, typer.Option(help="A file with one serial a line.")] = None,
    serial: Annotated[list[str] | None, typer.Option(help="A serial; may be repeated.")] = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="How long a label may be scanned.")] = 365,
    register: Annotated[bool, typer.Option(help="Register the devices now, not when their label is scanned.")] = False,
    keys: Annotated[
        Path | None,
        typer.Option(help="A *.csv for the device keys that are made (key kind individual): for the factory."),
    ] = None,
    sheet: Annotated[str, typer.Option(help=f"Size of a label in mm on A4: {', '.join(sheets.LAYOUTS)}.")] = "70x37",
    as_json: context.JsonOption = False,
) -> None:
    """Make labels with signed, expiring codes of 96 random bits, each to be scanned once by `firstlight onboard`.

    Without serials: for every registered device with this batch tag, all of one group. A new label ends an unused one of
    the same serial. A label is no key: the device still proves itself when it activates.
    """
    layout = _layout(sheet, out, keys)
    now = datetime.now(UTC)
    order = Order(
        group_id=group,
        batch=batch,
        expires_at=now + timedelta(days=valid_days),
        serials=(*_lines(serials), *(serial or ())),
        register=register,
        may_make_keys=keys is not None,
    )
    made = context.run(lambda database: operation.issue(database, order, now=now, random_bytes=os.urandom))
    files = context.guarded(lambda: _write(made, layout, out, keys))
    found = {"labels": len(made), "batch": batch, "expires_at": order.expires_at, "files": files}
    said = f"{len(made)} labels of batch {batch}, valid until {order.expires_at:%Y-%m-%d}: {', '.join(map(str, files))}"
    context.emit(found, as_json=as_json, text=lambda: print(said))


def _layout(sheet: str, out: Path, keys: Path | None) -> sheets.Layout:
    """Of that name. Ends the command also for what would fail when the labels are made already and are to be written."""
    layout = sheets.LAYOUTS.get(sheet)
    if layout is None:
        context.fail(f"--sheet: one of {', '.join(sheets.LAYOUTS)}")
    if out.suffix.lower().removeprefix(".") not in sheets.FORMATS or not out.parent.is_dir():
        context.fail("--out: *.pdf, *.svg, *.png or *.csv in a folder that exists")
    if keys is not None and (keys.suffix.lower() != ".csv" or not keys.parent.is_dir()):
        context.fail("--keys: a *.csv in a folder that exists")
    return layout


async def _write(made: list[PrintedLabel], layout: sheets.Layout, out: Path, keys: Path | None) -> list[Path]:
    """The keys are in no file but the one for them."""
    files = [] if keys is None else sheets.write(made, keys, layout)
    public = [one.without_key() for one in made]
    return [*files, *sheets.write(public, out, layout)]


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        context.fail(f"cannot read {path}: {error}")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
