"""Files that are exchanged: how one is put down whole, taken once, and laid aside with a report.

Owns the folders below `data/enrolment`:

    inbox/{provider}/    what others put down for the load daemon
    outbox/{provider}/   what the extract daemon puts down, for the platform or for the transformation daemon
    work/{interface}/    taken by a run that is under way, or was cut off: taken up again by the next one
    done/ failed/        with a report beside each file

A file NAME.p7m counts when its signature NAME.p7m.p7s (or .sig) lies beside it and it has not been written to for a while.
Taking it is a rename, so two runs never have the same one. Nothing that was decrypted is ever written. Blocks; callers
run it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from service.credentials.cms import MAX_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_SUFFIXES, CmsError, Signature
from service.whole_files import AS_UMASK, write_whole

SUFFIX = ".p7m"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.p7m\Z")
_OVERHEAD = 64 * 1024
_REPORT = ".report.json"
MAX_FILES = 200  # of one folder in one run; the next run takes more


@dataclass(frozen=True, slots=True)
class Taken:
    """A file in `work`, with the folder of the provider that it lay in."""

    path: Path
    provider_id: str
    signature_path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> tuple[bytes, Signature, bytes]:
        """Envelope, signature and the envelope's SHA-256. Raises CmsError: too large, unreadable."""
        envelope = _bounded(self.path, MAX_BYTES + _OVERHEAD)
        signature = Signature(_bounded(self.signature_path, MAX_SIGNATURE_BYTES), self.signature_path.suffix)
        return envelope, signature, hashlib.sha256(envelope).digest()


@dataclass(frozen=True, slots=True)
class Found:
    """What one look at a folder gave. `waiting`: without a signature, or too young; `ignored`: no files of ours."""

    taken: tuple[Taken, ...]
    waiting: int = 0
    ignored: int = 0


def take(root: Path, source: str, interface: str, provider_id: str, *, now: datetime, settle_s: int) -> Found:
    """Rename what may be taken from `source/provider` to `work/interface/provider`; what lies there goes first."""
    work = root / "work" / interface / provider_id
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    inbox = root / source / provider_id
    waiting = ignored = 0
    for path in sorted(inbox.iterdir())[: MAX_FILES * 3] if inbox.is_dir() else []:
        if path.suffix in SIGNATURE_SUFFIXES:
            continue  # goes along with its file
        with contextlib.suppress(FileNotFoundError):  # whoever put it there may take it away again
            if not _NAME.match(path.name) or not stat.S_ISREG(path.lstat().st_mode):
                ignored += 1
            elif not _take(path, work, now, settle_s):
                waiting += 1
    return Found(tuple(_in_work(work, provider_id)), waiting, ignored)


def _take(path: Path, work: Path, now: datetime, settle_s: int) -> bool:
    """Whether the file is in `work` now, or waits there for one of the same name."""
    beside = _signature_of(path)
    if beside is None and _signature_of(work / path.name) is None:
        return False
    if not all(_is_old(one, now, settle_s) for one in (path, beside) if one is not None):
        return False
    if not (work / path.name).exists():
        # The signature first. Cut off in between, it is found in `work` by the next run.
        if beside is not None:
            beside.rename(work / beside.name)
        path.rename(work / path.name)
    return True


def put(root: Path, target: str, provider_id: str, name: str, envelope: bytes, signature: bytes) -> None:
    """Put a file down with its signature: flushed, whole or not there at all. The same name again replaces it."""
    folder = root / target / provider_id
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for final, data in ((f"{name}.p7s", signature), (name, envelope)):  # the file is there last
        write_whole(folder / final, data, mode=AS_UMASK)


def lay_aside(root: Path, taken: Taken, *, done: bool, interface: str, report: Mapping[str, object]) -> None:
    """Move a taken file to `done` or `failed`, with a report beside it."""
    folder = root / ("done" if done else "failed") / interface / taken.provider_id
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = _free(folder, taken.name)
    (folder / f"{target}{_REPORT}").write_text(json.dumps(dict(report), indent=2) + "\n", encoding="utf-8")
    if taken.signature_path.exists():
        taken.signature_path.rename(folder / (target + taken.signature_path.suffix))
    taken.path.rename(folder / target)


def prune(root: Path, before: datetime) -> int:
    """Delete files in `done` and `failed` that were laid aside before then, as their reports say; returns how many.

    What has no report of ours stays.
    """
    gone = 0
    for where in ("done", "failed"):
        for report in (root / where).glob(f"*/*/*{SUFFIX}{_REPORT}"):
            name = report.name.removesuffix(_REPORT)
            if not _NAME.match(name) or report.lstat().st_mtime >= before.timestamp():
                continue
            # The report last: cut off in between, it is found again.
            for suffix in ("", *SIGNATURE_SUFFIXES, _REPORT):
                report.with_name(name + suffix).unlink(missing_ok=True)
            gone += 1
    return gone


def _in_work(work: Path, provider_id: str) -> list[Taken]:
    found = []
    for path in sorted(work.iterdir())[: MAX_FILES * 2]:
        signature = _signature_of(path) if _NAME.match(path.name) else None
        if signature is not None:
            found.append(Taken(path, provider_id, signature))
    return found[:MAX_FILES]


def _signature_of(path: Path) -> Path | None:
    for suffix in SIGNATURE_SUFFIXES:
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and not beside.is_symlink():
            return beside
    return None


def _is_old(path: Path, now: datetime, settle_s: int) -> bool:
    return now.timestamp() - path.stat().st_mtime >= settle_s


def _bounded(path: Path, most: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise CmsError("file_unreadable", "the file cannot be read") from error
    with os.fdopen(handle, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise CmsError("cms_too_large", f"a file has at most {most} bytes")
        data = file.read(most + 1)
    if len(data) > most:
        raise CmsError("cms_too_large", f"a file has at most {most} bytes")
    return data


def _free(folder: Path, name: str) -> str:
    number, target = 1, name
    while (folder / target).exists() or (folder / f"{target}{_REPORT}").exists():
        number += 1
        target = f"{name.removesuffix(SUFFIX)}.{number}{SUFFIX}"
    return target
