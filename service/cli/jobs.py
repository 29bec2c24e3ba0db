"""`firstlight daemon` and `firstlight job`: what runs by itself, when, and what came of it."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli import context
from service.http import providers
from service.operations import job_runs, jobs
from service.operations.accounts import LOCAL
from service.operations.enrolment.table import DECLARED, Table
from service.operations.jobs import Kind, Run, RunState, View
from service.settings import Settings
from service.storage.database import Database

NameArgument = Annotated[str, typer.Argument(help="As `list` shows it.")]


def now() -> datetime:
    return datetime.now(UTC)


def table_of(database: Database, of: Settings) -> Table:
    return Table(database, of.data_dir / "enrolment", providers.ask, clock=now, random_bytes=os.urandom)


def app_of(kind: Kind) -> typer.Typer:
    """The commands of one noun; both nouns have the same."""
    app = typer.Typer(help=f"{kind.value.capitalize()}s: schedule, runs, and running one.", no_args_is_help=True)
    _add_looking(app, kind)
    _add_running(app, kind)
    _add_scheduling(app, kind)
    return app


def _add_looking(app: typer.Typer, kind: Kind) -> None:
    @app.command("list")
    def list_(as_json: context.JsonOption = False) -> None:
        """All of them, with what was missed since the last good run."""

        async def action(database: Database) -> list[View]:
            await jobs.declare(database, DECLARED, now())
            return await jobs.list_all(database, kind)

        found = context.run(action)
        context.emit(found, as_json=as_json, text=lambda: _show_all(kind, found))

    @app.command()
    def show(name: NameArgument, limit: int = 20, as_json: context.JsonOption = False) -> None:
        """One of them and its last runs."""

        async def action(database: Database) -> tuple[View, list[Run]]:
            await _known(database, kind, name)
            return await jobs.show(database, name), await jobs.runs(database, name, limit=limit)

        view, runs = context.run(action)
        context.emit({"job": view, "runs": runs}, as_json=as_json, text=lambda: _show_runs(kind, view, runs))


def _add_running(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def run(name: NameArgument, as_json: context.JsonOption = False) -> None:
        """Run it here and now; refused while it runs, here or in a service."""
        of = context.settings()

        async def action(database: Database) -> Run:
            await _known(database, kind, name)
            owner = secrets.token_hex(8)
            started = await jobs.begin(database, name, owner=owner, by=LOCAL, now=now())
            await job_runs.run(database, table_of(database, of).jobs[name], started, owner=owner, clock=now)
            return next(one for one in await jobs.runs(database, name) if one.run_id == started.run_id)

        done = context.run(action)
        context.emit(done, as_json=as_json, text=lambda: print(f"{name} {done.state.value}{_came_of(done)}"))
        if done.state is not RunState.DONE:
            raise typer.Exit(1)


def _add_scheduling(app: typer.Typer, kind: Kind) -> None:
    @app.command()
    def enable(name: NameArgument, as_json: context.JsonOption = False) -> None:
        """Have the service run it by its schedule."""
        context.done(_set_enabled(kind, name, enabled=True), as_json=as_json)

    @app.command()
    def disable(name: NameArgument, as_json: context.JsonOption = False) -> None:
        """Have it run only when somebody asks for it."""
        context.done(_set_enabled(kind, name, enabled=False), as_json=as_json)

    @app.command()
    def schedule(
        name: NameArgument,
        cron: Annotated[str, typer.Argument(help="Five fields in UTC, such as '*/15 * * * *'.")],
        as_json: context.JsonOption = False,
    ) -> None:
        """When it runs, once it is enabled."""

        async def action(database: Database) -> View:
            await _known(database, kind, name)
            return await jobs.schedule(database, name, cron, by=LOCAL, now=now())

        view = context.run(action)
        assert view.next_due_at is not None
        said = f"{name} is due next at {context.moment(view.next_due_at)}{'' if view.enabled else ', once enabled'}"
        context.done(view, as_json=as_json, said=said)


def _set_enabled(kind: Kind, name: str, *, enabled: bool) -> View:
    async def action(database: Database) -> View:
        await _known(database, kind, name)
        return await jobs.set_enabled(database, name, enabled=enabled, by=LOCAL, now=now())

    return context.run(action)


async def _known(database: Database, kind: Kind, name: str) -> None:
    await jobs.declare(database, DECLARED, now())
    if name not in DECLARED or DECLARED[name].kind is not kind:
        names = ", ".join(one for one, declared in DECLARED.items() if declared.kind is kind)
        raise context.CommandError(f"no {kind.value} {name}; there are {names}")


def _show_all(kind: Kind, found: list[View]) -> None:
    rows = [
        [
            one.name,
            "yes" if one.enabled else "no",
            one.cron or "-",
            "-" if one.next_due_at is None else context.moment(one.next_due_at),
            "-" if one.last is None else f"{one.last.state.value}{_came_of(one.last)}",
            str(one.missed) if one.missed else "-",
        ]
        for one in found
    ]
    columns = [kind.value, "enabled", "schedule", "next", "last run", "missed"]
    context.table(f"{kind.value.capitalize()}s", columns, rows)


def _show_runs(kind: Kind, view: View, runs: list[Run]) -> None:
    _show_all(kind, [view])
    rows = [
        [
            str(one.run_id),
            one.state.value,
            "-" if one.due_at is None else context.moment(one.due_at),
            one.account or "-",
            "-" if one.started_at is None else context.moment(one.started_at),
            "-" if one.finished_at is None else context.moment(one.finished_at),
            _came_of(one).removeprefix(": ") or "-",
        ]
        for one in runs
    ]
    context.table("Runs", ["run", "state", "due", "asked by", "started", "finished", "result"], rows)


def _came_of(one: Run) -> str:
    words = [f"{name} {number}" for name, number in one.result.items()] + ([one.cause] if one.cause else [])
    return f": {', '.join(words)}" if words else ""


daemon_app = app_of(Kind.DAEMON)
job_app = app_of(Kind.JOB)
