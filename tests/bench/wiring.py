"""How the bench's processes are started and what they are told: JSON on standard input, one line of JSON back."""

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


def tls_of(ca_file: str | None) -> ssl.SSLContext | None:
    """A client context that trusts only this PEM file, or None for plain TCP."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else None


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


async def run_module(module: str, given: dict, timeout_s: float) -> dict:
    """The result of `python -m module` with `given` on its standard input. Raises RuntimeError with its last words."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{module}: {err.decode()[-2000:]}")
    return json.loads(out.splitlines()[-1])


class Beside:
    """A process that runs beside a measurement: `async with Beside(...)` waits for its "ready" lines and ends it."""

    def __init__(self, module: str, given: dict, *, ready_lines: int = 1) -> None:
        self._module, self._given, self._ready = module, given, ready_lines

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            json.dumps(self._given),
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        for _ in range(self._ready):
            line = await asyncio.wait_for(self.process.stdout.readline(), 20)
            if not line:
                raise RuntimeError(f"{self._module} did not start")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
