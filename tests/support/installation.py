"""An installation on disk and the commands run on it as processes, as an operator does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.cli import init
from tests.support.fork_server import ROOT, ForkedPopen, fork_server
from tests.support.ports import free_ports

COMMAND_TIMEOUT_S = 60


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FIRSTLIGHT_")}


def wait_for_port(port: int, *, within_s: float = 20.0) -> None:
    """Return once something listens there."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.02)


def firstlight(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end: forked, see fork_server.py. The demo starts a service of its own from there."""
    return fork_server().run(
        [str(word) for word in words], clean_environment(), cwd=cwd or Path.cwd(), timeout=COMMAND_TIMEOUT_S
    )


class Installation:
    """`firstlight init` in a folder, with ports of its own instead of the usual ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "firstlight.toml"
        with contextlib.redirect_stdout(io.StringIO()):
            init.init(folder, broker="embedded", host="127.0.0.1", environment="local", with_release_key=False)
        self.bootstrap, self.operational, self.health = free_ports(3)
        text = self.config.read_text()
        for old, new in (("1884", self.bootstrap), ("1883", self.operational), ("8787", self.health)):
            text = text.replace(f"port = {old}", f"port = {new}")
        self.config.write_text(text)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return firstlight("--config", self.config, *words)

    def serving(self, **environment: str) -> contextlib.AbstractContextManager[Serving]:
        return serving(self.config, self.health, **environment)


@contextlib.contextmanager
def serving(config: Path, health_port: int, **environment: str) -> Iterator[Serving]:
    """`firstlight serve` as a process; its output goes to a file beside the configuration."""
    log = config.with_name("serve.log")
    with log.open("w") as output:
        process = fork_server().popen(
            ["--config", str(config), "serve"],
            clean_environment() | environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
        try:
            yield Serving(process, health_port, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


class Serving:
    def __init__(self, process: ForkedPopen, health_port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._port = health_port

    def get(self, path: str) -> tuple[int, dict[str, Any]] | None:
        """Status and body of the health endpoint; None while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return None

    def wait_until(self, status: int, *, within_s: float = 30.0) -> dict[str, Any]:
        """The body of /health once it has this status."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = self.get("/health")
            if found is not None and found[0] == status:
                return found[1]
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended: {self.log.read_text()}")
            time.sleep(0.05)
        raise AssertionError(f"no {status} within {within_s} s; the last answer was {self.get('/health')}")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and everything it wrote."""
        self.process.send_signal(number)
        self.process.wait(timeout=30)
        return self.process.returncode, self.log.read_text()


async def eventually(check: Any, *, within_s: float = 20.0) -> None:
    """Wait until `check()` is true, looking often."""
    async with asyncio.timeout(within_s):
        while not check():
            await asyncio.sleep(0.02)
