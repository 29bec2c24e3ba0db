"""Service processes without the second or two that every new interpreter spends on importing: forked from one that has.

Owns the process that imports once and forks, and how a test asks for a fork, waits for it and signals it. What is forked
has imported the service and run nothing of it; from there on it is `python -m service` with its own arguments,
environment and streams. A test that wants another interpreter (a wrapper, a preloaded library, a module of its own)
starts a process of its own.

One packet each way on a socket pair: the request (JSON, with the descriptors of its output, of its errors and of the
socket that brings its end), then on that socket the pid and later the exit code as `subprocess` has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.cli import nouns

ROOT = Path(__file__).parents[2]
REQUEST_BYTES = 1 << 16
PRELOADED = ("service.cli.main", *nouns.MODULES, "service.app", "service.http.web", "amqtt.broker")


class Forked:
    """One forked process, with the part of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, pid: int, ending: socket.socket, stdout: asyncio.StreamReader) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._end = asyncio.create_task(self._wait(ending))

    async def _wait(self, ending: socket.socket) -> int:
        with ending:
            said = await asyncio.get_running_loop().sock_recv(ending, 64)
        assert said, "the fork server ended"
        self.returncode = int(said)
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        """Nothing once its end is known, as in `subprocess`."""
        if self.returncode is None:
            os.kill(self.pid, number)


class ForkedPopen:
    """One forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], ending: socket.socket) -> None:
        self.args, self._ending = list(arguments), ending
        self.returncode: int | None = None
        self.pid = int(self._told(None))

    def poll(self) -> int | None:
        with contextlib.suppress(BlockingIOError):
            self._end(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        try:
            self._end(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float | None) -> None:
        if self.returncode is None:
            self.returncode = int(self._told(timeout))
            self._ending.close()

    def _told(self, timeout: float | None) -> bytes:
        self._ending.settimeout(timeout)
        said = self._ending.recv(64)
        assert said, "the fork server ended"
        return said


class ForkServer:
    """The process that forks; ends with this one, whose socket it reads."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                {**os.environ, "PYTHONPATH": str(ROOT)},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), theirs.fileno())],  # inherited, this one only
            )

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """`python -m service ARGUMENTS` in the project's folder, reading nothing."""
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        try:
            ending = self._ask(arguments, environment, ROOT, writing, writing)
        finally:
            os.close(writing)
        stdout = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(reading, "rb"))
        ending.setblocking(False)
        pid = int(await loop.sock_recv(ending, 64))
        return Forked(pid, ending, stdout)

    def popen(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, cwd: Path, stdout: Any, stderr: Any
    ) -> ForkedPopen:
        """The same in a folder, with files for what it writes."""
        return ForkedPopen(arguments, self._ask(arguments, environment, cwd, stdout.fileno(), stderr.fileno()))

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, cwd: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """To its end, as `subprocess.run` with captured text."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.popen(arguments, environment, cwd=cwd, stdout=stdout, stderr=stderr)
            try:
                code = process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(process.args, code, stdout.read().decode(), stderr.read().decode())

    def _ask(
        self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, stdout: int, stderr: int
    ) -> socket.socket:
        """The socket that will bring its pid and its end."""
        ending, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(cwd)}
        with theirs:
            socket.send_fds(self._ours, [json.dumps(request).encode()], [stdout, stderr, theirs.fileno()])
        return ending


_server: ForkServer | None = None


def fork_server() -> ForkServer:
    """The one of this process, started when it is first asked for."""
    global _server  # noqa: PLW0603 - one for all tests
    if _server is None:
        _server = ForkServer()
    return _server


# -- in the process that forks -----------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    for name in PRELOADED:
        __import__(name)
    gc.collect()
    gc.freeze()  # what is imported stays shared
    living: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that becomes readable at its end
    with socket.socket(fileno=descriptor) as asked, select.epoll() as poll:
        poll.register(descriptor, select.EPOLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready != descriptor:
                    poll.unregister(ready)
                    _report(ready, *living.pop(ready))
                    continue
                packet, descriptors, *_ = socket.recv_fds(asked, REQUEST_BYTES, 3)
                if not packet:
                    return
                output, errors, ending = *descriptors[:2], socket.socket(fileno=descriptors[2])
                pid = os.fork()
                if pid == 0:
                    poll.close()
                    asked.close()
                    _become(json.loads(packet), output, errors, ending)
                os.close(output)
                os.close(errors)
                ending.send(str(pid).encode())
                watched = os.pidfd_open(pid)
                living[watched] = pid, ending
                poll.register(watched, select.EPOLLIN)


def _report(watched: int, pid: int, ending: socket.socket) -> None:
    os.close(watched)
    _, status = os.waitpid(pid, 0)
    with ending, contextlib.suppress(OSError):  # who asked may be gone
        ending.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict, output: int, errors: int, ending: socket.socket) -> None:
    """The service, in the fork. Never returns."""
    ending.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(descriptor, stream)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv[1:] = request["arguments"]
    code = 1
    try:
        runpy.run_module("service", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter that ends by one
        traceback.print_exc()
    else:
        code = 0
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
