"""Rows from a file of CSV or JSON lines, one at a time, however long the file.

Owns the two formats: `*.csv` has a header line and texts as values, anything else is a JSON object a line. Holds one line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from service.errors import ServiceError
from service.operations.requests import bad_request

MAX_LINE_CHARS = 64 * 1024
Row = dict[str, Any] | ServiceError  # what was read, or why it is no row
Parsers = Mapping[str, Callable[[str], Any]]  # by column: from a CSV value, raising ValueError


def rows(
    path: Path, columns: Collection[str], parsers: Parsers | None = None, *, needed: str | None = None
) -> Iterator[Row]:
    """Every row of the file. An empty CSV value is as good as none. `needed`: the column that a CSV must have.

    Raises ServiceError BAD_REQUEST for a file that cannot be read at all, or whose first line names unknown columns.
    """
    try:
        file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise bad_request("import_unreadable", f"cannot read {path}: {error.strerror}") from error
    with file:
        yield from (
            _csv_rows(file, columns, parsers or {}, needed) if path.suffix.lower() == ".csv" else _json_rows(file)
        )


def _csv_rows(file: TextIO, columns: Collection[str], parsers: Parsers, needed: str | None) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_CHARS)
    reader = csv.reader(file)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise bad_request("import_header", f"the first line is not CSV: {error}") from error
    wanted = {needed} if needed is not None else set()
    if not header or not wanted <= set(header) <= set(columns) or len(set(header)) != len(header):
        must = f" {needed} and" if needed is not None else ""
        raise bad_request(
            "import_header", f"the first line names the columns:{must} some of {', '.join(sorted(columns))}"
        )
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield bad_request("row_malformed", str(error))
            continue
        if len(values) > len(header):
            yield bad_request("row_malformed", "more values than columns")
        elif values:
            yield _parsed({name: one for name, one in zip(header, values, strict=False) if one != ""}, parsers)


def _parsed(row: dict[str, str], parsers: Parsers) -> Row:
    found: dict[str, Any] = dict(row)
    for name, parse in parsers.items():
        if name in row:
            try:
                found[name] = parse(row[name])
            except ValueError:
                return bad_request("row_malformed", f"{name} is wrong")
    return found


def _json_rows(file: TextIO) -> Iterator[Row]:
    while line := file.readline(MAX_LINE_CHARS):
        if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
            while (rest := file.readline(MAX_LINE_CHARS)) and not rest.endswith("\n"):
                pass
            yield bad_request("row_malformed", f"a line of more than {MAX_LINE_CHARS} characters")
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else bad_request("row_malformed", "not a JSON object")
