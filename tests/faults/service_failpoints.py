"""The `firstlight` command with one fault in it, at a named point: `python -m tests.faults.service_failpoints serve ...`.

Owns the registry of points: each is a public seam of the service (a port's method, a handler, a page of a command),
wrapped from here, so that nothing of it stands in the code that is sold. FIRSTLIGHT_TEST_FAULT="name:n:action" says
which point fails at its n-th passing, and how:

    kill       SIGKILL to this process
    exception  a RuntimeError, which no code expects
    hang       nothing for HANG_S, then on as if nothing had been; where a thread or the loop itself would wait, it waits

FIRSTLIGHT_TEST_FAULT_HIT names a file that is made when it happens. "before" a point is before anything of it is done,
"after" is when all of it is done and nobody knows yet.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncTransaction

from service.brokers.embedded import EmbeddedGate
from service.fleet.commander import Commander
from service.handlers import activate, fetch, online, report, tend
from service.images.files import Image, ImageFiles
from service.images.pages import Pages
from service.images.streamer import Streamer
from service.mqtt.link import MqttLink
from service.operations import command_page, command_rows, imports
from service.operations.commands import Commands
from service.pipeline.executor import Executor
from service.pipeline.granter import Granter, Revoker
from service.pipeline.inbound import Admission
from service.pipeline.outbox import Outbox
from service.pipeline.service import Pipeline
from service.pipeline.ticker import Ticker
from service.protocol import encode
from service.storage import errors, store
from service.storage.connections import Connections
from service.storage.store import SqlBatch
from service.storage.upkeep import Upkeep

FAULT, HIT = "FIRSTLIGHT_TEST_FAULT", "FIRSTLIGHT_TEST_FAULT_HIT"
ACTIONS = ("kill", "exception", "hang")
IMPORT_PAGE_ROWS = 50  # so that a small file has several pages
HANG_S = 3.0  # longer than a device waits for an answer before it repeats

# name -> (where it stands, what it is called, for which topics)
SEAMS: dict[str, tuple[Any, str, str]] = {
    # a message comes in
    "deliver": (Pipeline, "deliver", ""),
    "admission.take_batch": (Admission, "take_batch", ""),
    # it is worked on
    "executor.execute": (Executor, "execute", ""),
    "handler.activate": (activate, "handle", ""),
    "handler.online": (online, "handle", ""),
    "handler.report": (report, "handle", ""),
    "handler.fetch": (fetch, "handle", ""),
    "handler.tend": (tend, "handle", ""),
    # it is stored
    "store.load": (SqlBatch, "load", ""),
    "store.save": (SqlBatch, "save", ""),
    "storage.writer": (Connections, "writer", ""),
    "storage.commit": (AsyncTransaction, "commit", ""),
    # the broker is told
    "granter.submit": (Granter, "submit", ""),
    "gate.grant": (EmbeddedGate, "grant", ""),
    "gate.revoke": (EmbeddedGate, "revoke", ""),
    "gate.snapshot": (EmbeddedGate, "snapshot", ""),
    "revoker.revoke_all": (Revoker, "revoke_all", ""),
    "upkeep.mark_revoked": (Upkeep, "mark_revoked", ""),
    # the device is told
    "outbox.put": (Outbox, "put", ""),
    "publish.hello": (MqttLink, "publish", "/dn/hello"),
    "publish.activate": (MqttLink, "publish", "/dn/activate"),
    "publish.online": (MqttLink, "publish", "/dn/online"),
    "publish.report": (MqttLink, "publish", "/dn/report"),
    "publish.desired": (MqttLink, "publish", "/dn/desired"),
    "publish.chunk": (MqttLink, "publish", "/dn/chunk"),
    # images
    "streamer.request": (Streamer, "request", ""),
    "images.open": (ImageFiles, "open", ""),
    "images.read": (Image, "read", ""),
    "pages.get": (Pages, "get", ""),
    # the clock
    "ticker.tick": (Ticker, "tick", ""),
    "ticker.flush": (Ticker, "flush", ""),
    "upkeep.catalogue_rev": (Upkeep, "catalogue_rev", ""),
    "upkeep.confirmed": (Upkeep, "confirmed", ""),
    "upkeep.touched": (Upkeep, "touched", ""),
    "upkeep.add_counters": (Upkeep, "add_counters", ""),
    # operators' commands
    "commander.push": (Commander, "push", ""),
    "commands.running": (Commands, "running", ""),
    "commands.work": (Commands, "work", ""),
    "command.page": (command_page, "work", ""),
    "command.outcomes": (command_rows, "add_outcomes", ""),
    "command.cursor": (command_rows, "put", ""),
    # `firstlight device import`
    "import.page": (imports, "register_page", ""),
}
NAMES = [f"{seam}.{when}" for seam in SEAMS for when in ("before", "after")]


class Fault:
    """Happens once, at the n-th passing."""

    def __init__(self, number: int, action: str, hit: Path) -> None:
        self._left = number
        self._action = action
        self._hit = hit

    def due(self) -> bool:
        self._left -= 1
        return self._left == 0

    def now(self) -> None:
        """Where nothing can be awaited."""
        self._strike()
        if self._action == "hang":
            time.sleep(HANG_S)

    async def now_waiting(self) -> None:
        self._strike()
        if self._action == "hang":
            await asyncio.sleep(HANG_S)

    def _strike(self) -> None:
        self._hit.touch()
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._action == "exception":
            raise RuntimeError("a fault was asked for here")


def install(name: str, fault: Fault) -> None:
    """Wrap the seam of this point. Raises KeyError for a name that is none."""
    seam, _, when = name.rpartition(".")
    owner, attribute, ending = SEAMS[seam]
    setattr(owner, attribute, _wrapped(getattr(owner, attribute), ending, when, fault))


def _wrapped(real: Callable[..., Any], ending: str, when: str, fault: Fault) -> Callable[..., Any]:
    def meant(arguments: tuple[Any, ...]) -> bool:
        return not ending or arguments[1].endswith(ending)

    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def waiting(*arguments: Any, **named: Any) -> Any:
            if when == "before" and meant(arguments) and fault.due():
                await fault.now_waiting()
            result = await real(*arguments, **named)
            if when == "after" and meant(arguments) and fault.due():
                await fault.now_waiting()
            return result

        return waiting

    @functools.wraps(real)
    def at_once(*arguments: Any, **named: Any) -> Any:
        if when == "before" and meant(arguments) and fault.due():
            fault.now()
        result = real(*arguments, **named)
        if when == "after" and meant(arguments) and fault.due():
            fault.now()
        return result

    return at_once


def main() -> None:
    from service.cli.main import app

    name, number, action = os.environ[FAULT].split(":")
    assert action in ACTIONS, action
    install(name, Fault(int(number), action, Path(os.environ[HIT])))
    # Devices that were refused for a fault of ours are to come back within the run.
    encode.RETRY.update(INTERNAL=(1, 1), UNAVAILABLE=(1, 1))
    errors.RETRY_MIN_S = errors.RETRY_MAX_S = 1
    imports.PAGE_ROWS = IMPORT_PAGE_ROWS
    store.MANY, store.TOGETHER = 20, 20  # so that its pages are written as those of large files are
    app()


if __name__ == "__main__":
    sys.exit(main())
