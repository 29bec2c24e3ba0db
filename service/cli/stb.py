"""`firstlight stb`: set-top boxes of a partner service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from service.cli import context
from service.operations import row_files
from service.operations.partners import boxes, services
from service.operations.partners.boxes import Imported, RowResult
from service.storage.database import Database

app = typer.Typer(help="Set-top boxes: the factory's list, and whose they are.", no_args_is_help=True)
PAGE_ROWS = 500
ServiceOption = Annotated[str, typer.Option(help="The partner service.")]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="*.csv with a header line, or JSON lines.")],
    service: ServiceOption,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line instead of text.")] = False,
) -> None:
    """Take the factory's list; one line of result for each box.

    Columns: serial_no, public_keys (1 to 8 in the order of their index, joined by ;), chipset_id, mac. The same list
    again changes nothing. The exit code is 1 if any box was refused.
    """
    totals = context.run(lambda database: _import(database, file, service, as_json=as_json))
    print(", ".join(f"{totals[one]} {one.value.replace('_', ' ')}" for one in Imported), file=sys.stderr)
    if totals[Imported.ERROR]:
        raise typer.Exit(1)


async def _import(database: Database, path: Path, name: str, *, as_json: bool) -> Counter[Imported]:
    service = await services.find(database, name)
    totals: Counter[Imported] = Counter()
    rows = row_files.rows(path, boxes.FIELDS, needed="serial_no")
    while page := await asyncio.to_thread(list, islice(rows, PAGE_ROWS)):
        fields = [boxes.fields_of(row) for row in page]
        results = await boxes.import_page(database, service, fields, now=datetime.now(UTC), random_bytes=os.urandom)
        for one in results:
            totals[one.result] += 1
            print(_line(one, as_json=as_json))
    return totals


@app.command("list")
def list_(
    service: ServiceOption,
    after: Annotated[int, typer.Option(help="Go on after this id.")] = 0,
    as_json: context.JsonOption = False,
) -> None:
    """A thousand boxes, by id."""

    async def look(database: Database) -> list[boxes.Box]:
        return await boxes.list_page(database, await services.find(database, service), after=after)

    found = context.run(look)
    rows = [[str(one.box_id), one.serial_no, one.email or "-", one.mac or "-", str(one.keys)] for one in found]
    columns = ["id", "serial", "user", "MAC", "keys"]
    context.emit(found, as_json=as_json, text=lambda: context.table("Set-top boxes", columns, rows))


@app.command("unlink")
def unlink(
    serial_no: Annotated[str, typer.Argument()], service: ServiceOption, as_json: context.JsonOption = False
) -> None:
    """A box came back: it is nobody's, and can be sold again."""
    context.run(lambda database: boxes.unlink(database, service, serial_no))
    context.done({"service": service, "serial_no": serial_no, "linked": False}, as_json=as_json)


def _line(one: RowResult, *, as_json: bool) -> str:
    error = None if one.error is None else {"code": int(one.error.code), "text": one.error.text}
    if as_json:
        return json.dumps({"serial_no": one.serial_no, "result": one.result.value, "error": error})
    said = one.result.value.replace("_", " ") if one.error is None else f"refused: {one.error.text}"
    return f"{one.serial_no} {said}"
