"""The power goes at any write, and any write fails: what was answered stays, nothing is half there."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests.support import auditor, disk_journal
from tests.support.auditor import Told
from tests.support.disk_service import FILE, seed
from tests.support.site import seed_of_run

DEVICES = 30
CUTS = 300  # of each kind
ROUNDS = 600
MOST = 60  # operations of one device's life, at least


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if disk_journal.compiler() is None:
        pytest.skip("no C compiler is installed")
    return disk_journal.build(tmp_path_factory.mktemp("library"))


async def journalled(folder: Path, library: Path, *words: str) -> tuple[Path, list[disk_journal.Operation]]:
    """(the folder before the run, what the run did to it)."""
    data, base, journal = folder / "data", folder / "base", folder / "journal"
    data.mkdir()
    await seed(data, DEVICES)
    shutil.copytree(data, base)
    disk_journal.run(library, data, "cut", f"--devices={DEVICES}", *words, journal=journal)
    return base, list(disk_journal.operations(journal, data))


def broken_after(files: dict[str, bytes], answers: list[dict], folder: Path) -> list[str]:
    """What is wrong with a disk that holds these files, when these answers had been given."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        if name != "answers":
            (folder / name).write_bytes(content)
    connection = sqlite3.connect(folder / FILE)
    try:
        connection.execute("SELECT count(*) FROM device").fetchone()  # SQLite recovers its log
        heard = dict(connection.execute("SELECT credential_id, last_n FROM credential"))
    except sqlite3.Error as error:
        return [f"not to be opened: {error}"]
    finally:
        connection.close()
    told = [Told("line-1", one["serial"], one["verb"], one["credential_id"], one["thing_id"]) for one in answers]
    found = auditor.audit(folder / FILE, told)
    found += [f"{one} is forgotten" for one in answers if one["n"] > (heard.get(one["credential_id"]) or 0)]
    return found


def replay(base: Path, done: list[disk_journal.Operation], points: set[int], rng: random.Random | None, folder: Path):
    """(point, what is wrong) for a cut after each of these operations."""
    disk, answers = disk_journal.Disk(base), []
    for point, one in enumerate(done):
        if one.name == "answers":
            answers += [json.loads(line) for line in one.data.splitlines()]
        else:
            disk.apply(one)
        if point in points:
            yield point, broken_after(disk.cut(rng), answers, folder)


@pytest.mark.long
@pytest.mark.parametrize("unsynced", ["lost", "kept_in_part"])
async def test_whatever_was_answered_survives_a_power_cut_at_any_operation(
    tmp_path: Path, library: Path, unsynced: str
) -> None:
    rng = random.Random(seed_of_run())
    base, done = await journalled(tmp_path, library)
    kinds = Counter(one.kind for one in done if one.name == FILE)
    assert kinds["s"] > 3  # some checkpoints took place
    points = set(rng.sample(range(len(done)), min(CUTS, len(done))))
    kept = rng if unsynced == "kept_in_part" else None
    wrong = {point: found for point, found in replay(base, done, points, kept, tmp_path / "cut") if found}
    print(f"power cut at {len(points)} of {len(done)} operations, unsynced writes {unsynced}: {len(wrong)} wrong")
    assert not wrong


@pytest.mark.long
async def test_a_service_that_syncs_nothing_is_caught(tmp_path: Path, library: Path) -> None:
    base, done = await journalled(tmp_path, library, "--careless")
    ((_, found),) = replay(base, done, {len(done) - 10}, None, tmp_path / "cut")
    assert any("forgotten" in one for one in found)


async def test_a_file_that_could_once_not_be_opened_for_writing_puts_devices_off_at_most_once(
    tmp_path: Path, library: Path
) -> None:
    """SQLite opens it for reading then and keeps to that; every connection has to be closed."""
    data = tmp_path / "data"
    data.mkdir()
    await seed(data, 6)
    rounds = [json.loads(line) for line in disk_journal.run(library, data, "openings").splitlines()]
    assert [one["hits"] for one in rounds] == [1] * 6
    assert len((data / "answers").read_text().splitlines()) == 3 * 6


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("--opens",)])
async def test_any_operation_that_fails_puts_devices_off_at_most_once(
    tmp_path: Path, library: Path, words: tuple[str, ...]
) -> None:
    seed_value = seed_of_run()
    data = tmp_path / "data"
    data.mkdir()
    await seed(data, ROUNDS)
    said = disk_journal.run(
        library, data, "faults", f"--devices={ROUNDS}", f"--most={MOST}", f"--seed={seed_value}", *words
    )
    rounds = [json.loads(line) for line in said.splitlines()]
    assert len(rounds) == ROUNDS
    hit = [one for one in rounds if one["hits"]]
    print(f"{len(hit)} of {ROUNDS} lives met a fault, {sum(one['refused'] for one in rounds)} requests were put off")
    assert len(hit) > ROUNDS // 3
    assert any(one["refused"] for one in hit)
    answers = [json.loads(line) for line in (data / "answers").read_text().splitlines()]
    assert len(answers) == 3 * ROUNDS
    files = {one.name: one.read_bytes() for one in data.iterdir() if not one.name.endswith("-shm")}
    assert broken_after(files, answers, tmp_path / "after") == []
