"""The service of a demo: `firstlight serve` as a process of its own, as in production.

Owns its start, the wait until it is well, and its end. It ends with us, however we end: it watches its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from service.demo.world import World
from service.http.asking import ask

READY_TIMEOUT_S = 120.0  # one that ends says so at once; a busy machine takes its time
STOP_TIMEOUT_S = 15.0
LOG_NAME = "service.log"
_LAST_LINES = 5


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class ServiceProcess:
    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._log = folder / LOG_NAME
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it is connected to both brokers. Raises DemoError."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", "--config", str(self._world.config)),
                *("serve", "--with-parent", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not (health := await self.health()) or not health["ok"]:
                    if self._process.returncode is not None:
                        raise DemoError(f"the service ended: {self.last_words()}")
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            problems = "; ".join((await self.health() or {}).get("problems", [])) or self.last_words()
            raise DemoError(f"the service is not ready after {READY_TIMEOUT_S:.0f} s: {problems}") from error

    async def health(self) -> dict[str, Any] | None:
        http = self._world.settings.http
        return await asyncio.to_thread(ask, http.host, http.port, "/health")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
        return " | ".join(lines) or "without a word"

    async def stop(self) -> None:
        """Let it drain; kill it if that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
