"""What a disk holds after a power cut, from the journal of faulty_disk.c; and how that library is built and loaded."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = struct.Struct("<cIQQ")
SOURCE = Path(__file__).with_name("faulty_disk.c")
SECTOR = 512  # a disk writes so much or nothing


def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    library = folder / "faulty_disk.so"
    words = [compiler(), "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(words, check=True, capture_output=True, text=True)
    return library


def run(library: Path, data: Path, *words: str, journal: Path | None = None) -> str:
    """Run disk_service with the library; its standard output. Fails with its standard error.

    A connection that nobody has closed is an error too.
    """
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTY_DISK_DIR": str(data)}
    if journal is not None:
        environment["FAULTY_DISK_JOURNAL"] = str(journal)
    command = [
        sys.executable,
        "-W",
        "always::ResourceWarning",
        "-m",
        "tests.support.disk_service",
        words[0],
        str(data),
        *words[1:],
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    assert "ResourceWarning" not in done.stderr, done.stderr[-6000:]
    return done.stdout


@dataclass(frozen=True, slots=True)
class Operation:
    kind: str
    name: str  # within the folder; "" is the folder itself
    offset: int
    data: bytes


def operations(journal: Path, folder: Path) -> Iterator[Operation]:
    raw, at = journal.read_bytes(), 0
    while at < len(raw):
        kind, of_path, offset, of_data = HEAD.unpack_from(raw, at)
        at += HEAD.size
        path = Path(raw[at : at + of_path].decode())
        at += of_path
        name = "" if path == folder else str(path.relative_to(folder))
        yield Operation(kind.decode(), name, offset, raw[at : at + of_data])
        at += of_data


class Disk:
    """Files as they are for sure, and for each what was done since its last sync (for names: since the folder's)."""

    def __init__(self, base: Path) -> None:
        self.sure = {one.name: one.read_bytes() for one in base.iterdir()}
        self.named = set(self.sure)  # whose name is on the disk
        self.pending: dict[str, list[Operation]] = {}
        self.names: list[Operation] = []

    def apply(self, one: Operation) -> None:
        if one.kind in "cu":
            self.names.append(one)
        elif one.kind == "s" and one.name == "":
            for each in self.names:
                self._name(self.named, each)
            self.names.clear()
        elif one.kind == "s":
            for each in self.pending.pop(one.name, []):
                self.sure[one.name] = changed(self.sure.get(one.name, b""), each)
        else:
            self.pending.setdefault(one.name, []).append(one)

    def cut(self, rng: random.Random | None = None) -> dict[str, bytes]:
        """The files after a power cut now: without what was not synced, or with any part of it."""
        files, named = dict(self.sure), set(self.named)
        if rng is not None:
            for each in self.names:
                if rng.random() < 0.5:
                    self._name(named, each)
            for name, waiting in self.pending.items():
                for each in waiting:
                    chance = rng.random()
                    if chance < 0.5:
                        files[name] = changed(files.get(name, b""), each)
                    elif chance < 0.6 and each.kind == "w":
                        torn = rng.randrange(0, len(each.data) + 1, SECTOR)
                        part = Operation("w", name, each.offset, each.data[:torn])
                        files[name] = changed(files.get(name, b""), part)
        return {name: files.get(name, b"") for name in named}

    def _name(self, named: set[str], one: Operation) -> None:
        if one.kind == "c":
            named.add(one.name)
        else:
            named.discard(one.name)


def changed(content: bytes, one: Operation) -> bytes:
    if one.kind == "t":
        return content[: one.offset].ljust(one.offset, b"\0")
    before = content[: one.offset].ljust(one.offset, b"\0")
    return before + one.data + content[one.offset + len(one.data) :]
