"""What every command shares: which configuration, how the database is opened, how an error becomes one line.

Owns the way from a typer command to an async operation and back to the terminal. Knows no operation. Commands write
results to standard output (a table or, with --json, one JSON document) and problems to standard error.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from service.cli.invocation import chosen_config, command_name
from service.credentials.keyfile import KeyFile, KeyFileError, SealError
from service.errors import Secret, ServiceError
from service.settings import Settings, SettingsError, load_settings
from service.storage.auditing import acting
from service.storage.database import Database

MAX_OPEN_FILES = 65536
PIPE_WIDTH = 1000  # columns of a table that is not shown on a terminal
T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document instead of text.")]


class CommandError(Exception):
    """A command cannot do what it was asked; the text is one line for the terminal."""


def config_path() -> Path:
    """The configuration file of this invocation: --config, FIRSTLIGHT_CONFIG or firstlight.toml here."""
    return chosen_config.get()


def settings() -> Settings:
    """The settings of this invocation; ends the command with one line when they cannot be used."""
    try:
        return load_settings(config_path())
    except SettingsError as error:
        fail(str(error))


@asynccontextmanager
async def open_database(of: Settings, *, check: bool = False) -> AsyncIterator[Database]:
    """The database of an installation, opened with the sealer of its key file. Raises KeyFileError, ServiceError."""
    database = await Database.open(of.database_path, KeyFile.load(of.key_file).sealer(), check=check)
    try:
        yield database
    finally:
        await database.close()


def run(action: Callable[[Database], Awaitable[T]]) -> T:
    """Run one operation on the installation's database and return its result.

    Documented errors end the command: one line on standard error, exit code 1.
    """
    of = settings()

    async def inside() -> T:
        async with open_database(of) as database:
            return await action(database)

    return guarded(inside)


def guarded(action: Callable[[], Awaitable[T]]) -> T:
    """Run an async action; what it raises by design ends the command with one line."""

    async def inside() -> T:
        with acting(command_name.get()):
            return await action()

    try:
        return asyncio.run(inside())
    except ServiceError as error:
        fail(f"{error.public}: {error.detail}" if error.detail else error.public)
    except (KeyFileError, SealError, SettingsError, CommandError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", code=130)


def allow_many_connections() -> None:
    """Raise this process's bound of open files to what it may have; each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def environments(of: Settings, only: str | None) -> list[str]:
    """The names of all environments, or of the one that is named; ends the command where there is none of that name."""
    if only is not None and only not in of.environments:
        fail(f"no environment {only}")
    return list(of.environments) if only is None else [only]


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say one line on standard error and end the command."""
    line = " ".join(message.split())
    sys.stdout.flush()
    print(f"firstlight: {line}", file=sys.stderr)
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Say one line on standard error and go on."""
    print(f"firstlight: {' '.join(message.split())}", file=sys.stderr)


def emit(value: Any, *, as_json: bool, text: Callable[[], None] | None = None) -> None:
    """Show a result: as one JSON document, or by calling `text`. Secrets show as `***`."""
    if as_json or text is None:
        print(json.dumps(value, default=plain, ensure_ascii=False))
    else:
        text()


def done(value: Any, *, as_json: bool, said: str | None = None) -> None:
    """What a command has changed: as one JSON document, else the one line that it says, if any."""
    if as_json:
        emit(value, as_json=True)
    elif said is not None:
        print(said)


def plain(value: object) -> Any:  # noqa: PLR0911 - a table
    """JSON's words for our values: dataclasses as objects, times in ISO 8601, bytes as hex, enums by value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def moment(at: datetime) -> str:
    """A time as tables show it: UTC, to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S")


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A plain table on standard output; as wide as its content where that is no terminal, so that `grep` finds it."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(shown)
