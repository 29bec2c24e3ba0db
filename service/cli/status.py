"""`firstlight status`: asks the running service, and the database, how things are.

Owns the question and how the answer is shown. Exit code 0: the service runs and is well; 1: it is not; 3: it does not
run (the words of the Linux Standard Base).
"""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from service.cli import context
from service.http.asking import ask
from service.operations import stats
from service.settings import Settings
from service.storage.database import Database

NOT_RUNNING = 3


def status(as_json: context.JsonOption = False) -> None:
    """Whether the service runs and is well, and what the database holds."""
    of = context.settings()
    service = ask(of.http.host, of.http.port, "/health")
    facts = context.run(_facts)
    found = {"service": service or {"running": False}, "database": facts}
    context.emit(found, as_json=as_json, text=lambda: _show(of, service, facts))
    if service is None:
        raise typer.Exit(NOT_RUNNING)
    if not service.get("ok"):
        raise typer.Exit(1)


async def _facts(database: Database) -> dict[str, Any]:
    """Counts only: nothing that a device or an operator typed."""
    found = await stats.collect(database)
    return {
        "path": str(database.path),
        "bytes": await asyncio.to_thread(lambda: database.path.stat().st_size),
        "devices": found.devices,
        "credentials": found.credentials,
        "unrevoked": found.unrevoked,
    }


def _show(of: Settings, service: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    if service is None:
        print(f"service: does not run (nothing of ours answers at {of.http.host}:{of.http.port})")
    else:
        print(f"service: {'runs' if service.get('ok') else 'has problems'}, for {service.get('uptime_s', 0)} s")
        for problem in service.get("problems", []):
            print(f"  problem: {problem}")
        for warning in service.get("warnings", []):
            print(f"  warning: {warning}")
        for name, link in sorted(service.get("links", {}).items()):
            state = "connected" if link.get("connected") else f"not connected ({link.get('last_error') or 'trying'})"
            print(f"  link {name}: {state}, {link.get('received', 0)} in, {link.get('sent', 0)} out")
    print(f"database: {facts['path']}, {facts['bytes']} bytes")
    for name in ("devices", "credentials"):
        states = ", ".join(f"{count} {state}" for state, count in sorted(facts[name].items())) or "none"
        print(f"  {name}: {states}")
    if facts["unrevoked"]:
        print(f"  dropped, and a broker has not confirmed it yet: {facts['unrevoked']}")
