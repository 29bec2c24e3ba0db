"""`firstlight serve`: the service, until SIGTERM or SIGINT.

Owns logging, signals and the exit code of the process; app.py runs the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Annotated

import typer

from service.cli.context import allow_many_connections, fail, settings
from service.installation import own_secrets
from service.settings import Settings, SettingsError
from service.telemetry import set_up_logging

PARENT_CHECK_S = 1.0


def serve(
    environment: Annotated[
        list[str] | None,
        typer.Option(
            help="Serve this environment only; repeatable. Others of the same database have their own service."
        ),
    ] = None,
    with_parent: Annotated[int | None, typer.Option(hidden=True, help="End when this parent process is gone.")] = None,
) -> None:
    """Run the service. SIGTERM and SIGINT let it finish what it has begun, then it ends with exit code 0."""
    from service.app import StartError  # noqa: PLC0415 - a second that only this command needs

    of = settings()
    try:
        served = of.serving(environment or ())
    except SettingsError as error:
        fail(str(error))
    allow_many_connections()
    set_up_logging(of.log.format, of.log.level, secrets=own_secrets(of))
    try:
        asyncio.run(_serve(served, with_parent))
    except StartError as error:
        fail(str(error))


async def _serve(of: Settings, parent: int | None) -> None:
    from service.app import serve_until  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = asyncio.create_task(_watch(parent, stop), name="parent") if parent is not None else None
    try:
        await serve_until(of, stop)
    finally:
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


async def _watch(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(PARENT_CHECK_S)
    stop.set()
