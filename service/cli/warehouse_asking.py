"""What the warehouse's nouns have in common: asking a verb page by page, importing a file, showing a list.

Owns how results look; asking.py runs single commands.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import asking, context
from service.fleet import replies
from service.operations import warehouse_imports, warehouse_pages
from service.operations.accounts import THIS_MACHINE
from service.operations.command_rows import Status
from service.operations.commands import Commands
from service.operations.outcomes import Result
from service.operations.warehouse_imports import Kind, RowResult
from service.operations.warehouse_pages import Asked, Document, Page
from service.storage.database import Database

FileArgument = Annotated[Path, typer.Argument(help="*.csv with a header line, or JSON lines.")]
LinesOption = Annotated[bool, typer.Option("--json", help="One JSON document a line instead of text.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
LimitOption = Annotated[int, typer.Option(help="At most so many, 1 to 1000.")]
AfterOption = Annotated[str, typer.Option(metavar="NAME", help="The last one of the page before.")]
FLUSH_ROWS = 1000


def ask(verb: str, arguments: dict[str, Any], *, as_json: bool, dry_run: bool = False) -> None:
    """One command, or as many as a whole order takes; exit code 1 where something was refused."""

    async def action(commands: Commands, _: Database) -> list[Status]:
        found: list[Status] = []
        wanted = dict(arguments)
        while True:
            body = {"id": os.urandom(8).hex(), "arguments": wanted, "dry_run": dry_run}
            status = await commands.submit(THIS_MACHINE, verb, asking.request_from(body))
            found.append(status)
            after = status.result.get("after")
            if after is None:
                return found
            wanted["after"] = after

    statuses: list[Status] = asking.with_commands(action)
    if len(statuses) == 1:
        asking.show(statuses[0], as_json=as_json)
        return
    refused = sum(one.command.refused for one in statuses)
    if as_json:
        outcomes = [replies.outcome_fields(one) for status in statuses for one in status.outcomes]
        print(json.dumps({"verb": verb, "refused": refused, "outcomes": outcomes}, ensure_ascii=False))
        if refused:
            raise typer.Exit(1)
        return
    for status in statuses[:-1]:
        try:
            asking.show(status, as_json=False)
        except typer.Exit:
            continue
    asking.show(statuses[-1], as_json=False)
    if refused:
        raise typer.Exit(1)


def import_file(kind: Kind, file: Path, *, as_json: bool) -> None:
    """One line of result for each row, a summary on standard error; exit code 1 if any row was refused."""

    async def action(commands: Commands, _: Database) -> Counter[Result]:
        totals: Counter[Result] = Counter()
        lines: list[str] = []
        found = warehouse_imports.import_file(commands, THIS_MACHINE, kind, file, new_id=lambda: os.urandom(8).hex())
        async for one in found:
            totals[one.result] += 1
            lines.append(_line(one, as_json=as_json))
            if len(lines) >= FLUSH_ROWS:
                await asyncio.to_thread(sys.stdout.write, "".join(lines))
                lines.clear()
        await asyncio.to_thread(sys.stdout.write, "".join(lines))
        return totals

    totals: Counter[Result] = asking.with_commands(action)
    words = ", ".join(f"{totals[one]} {one.value}" for one in (Result.CHANGED, Result.UNCHANGED, Result.REFUSED))
    print(words, file=sys.stderr)
    if totals[Result.REFUSED]:
        raise typer.Exit(1)


def show_list(what: str, asked: Asked, columns: Sequence[str], *, as_json: bool) -> None:
    """A page of a list as a table of these fields."""
    page: Page = context.run(lambda database: warehouse_pages.page(database, THIS_MACHINE, what, asked))

    def text() -> None:
        rows = [[cell(row, name) for name in columns] for row in page.rows]
        context.table(what.replace("-", " ").capitalize(), [name.replace("_", " ") for name in columns], rows)
        if page.after is not None:
            print(f"more: --after {page.after}")

    context.emit({"rows": page.rows, "after": page.after}, as_json=as_json, text=text)


def cell(row: Document, name: str) -> str:
    """One value as a table shows it."""
    value = row.get(name)
    if name in ("at", "created_at") and value is not None:
        return context.moment(datetime.fromtimestamp(value / 1000, UTC))
    if isinstance(value, dict):
        return ", ".join(f"{count} {step}" for step, count in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)


def show_one(title: str, found: Document, names: Sequence[str], *, as_json: bool) -> None:
    """One document as a table of its fields."""
    rows = [[name.replace("_", " "), cell(found, name)] for name in names]
    context.emit(found, as_json=as_json, text=lambda: context.table(title, ["", ""], rows))


def read_json(text: str, what: str) -> dict[str, Any]:
    """A JSON map from an option, or from a file named as @FILE. Ends the command where it is none."""
    try:
        found = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except OSError as error:
        context.fail(f"cannot read {text[1:]}: {error.strerror}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        context.fail(f"{what}: a JSON map, or @FILE with one")
    return found


def _line(one: RowResult, *, as_json: bool) -> str:
    if as_json:
        found = {"row": one.row, "name": one.name, "result": one.result.value, "cause": one.cause, "reason": one.reason}
        return json.dumps({name: value for name, value in found.items() if value is not None}) + "\n"
    parts = [str(one.row), one.result.value, ascii(one.name)[1:-1]]
    if one.cause is not None:
        parts += [one.cause, one.reason or ""]
    return "\t".join(parts) + "\n"
