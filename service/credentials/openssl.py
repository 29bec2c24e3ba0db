"""The `openssl` program, for the CMS files that the library cannot read.

Owns how it is started: no shell, none of our environment, bounded in time, in what it may write and in what it may say.
No secret stands among its arguments: keys are named by the files that hold them, and what it decrypts comes through a
pipe, never onto a disk. Blocks; callers run it in a thread.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

PLACES = "/usr/bin:/usr/local/bin:/bin"
TIMEOUT_S = 60.0  # 64 MiB take it half a second
_PIECE = 64 * 1024
_MAX_COMPLAINT_BYTES = 500


class ProgramError(Exception):
    """It is missing, took too long, said too much or refused; the text is one line and holds nothing of the file."""


def run(arguments: Sequence[str | Path], *, max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """What it writes to standard output. Raises ProgramError, also where that is more than `max_bytes`."""
    program = shutil.which("openssl", path=PLACES)
    if program is None:
        raise ProgramError("the openssl program is not installed")
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(  # noqa: S603 - a fixed program; the arguments are ours
            [program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaint,
            env={"PATH": PLACES, "LC_ALL": "C", "HOME": os.devnull},
            close_fds=True,
        )
        out = _output(process, max_bytes, timeout_s)
        if process.returncode == 0 and out is not None:
            return out
        if out is None:
            raise ProgramError(f"openssl wrote more than {max_bytes} bytes")
        if process.returncode < 0:
            raise ProgramError(f"openssl was ended after {timeout_s:g} s, or by the system")
        raise ProgramError(f"openssl refused it: {_complaint(complaint)}")


def _output(process: subprocess.Popen[bytes], max_bytes: int, timeout_s: float) -> bytes | None:
    """All of it, or None where it is too much. The process has ended either way."""
    assert process.stdout is not None
    watch = threading.Timer(timeout_s, process.kill)
    watch.start()
    found = bytearray()
    try:
        with process.stdout as stream:
            while piece := stream.read(_PIECE):
                found += piece
                if len(found) > max_bytes:
                    return None
    finally:
        if len(found) > max_bytes:
            process.kill()
        process.wait()
        watch.cancel()
    return bytes(found)


def _complaint(file: IO[bytes]) -> str:
    """Its last line, which names the reason."""
    file.seek(0)
    lines = file.read(64 * 1024).decode("ascii", "replace").strip().splitlines()
    last = lines[-1] if lines else "without a word"
    return "".join(char if char.isprintable() else "?" for char in last[-_MAX_COMPLAINT_BYTES:])
