"""An import that fails at named points: whole pages or nothing of them, and running it again is all there is to do."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest

from tests.faults.service_failpoints import FAULT, HIT, IMPORT_PAGE_ROWS
from tests.support import auditor
from tests.support.installation import clean_environment
from tests.support.site import GROUP, ROOT, Site, made_site

ROWS = 170  # four pages, the last one short
POINTS = {
    "import.page.before": 2,
    "import.page.after": 3,
    "storage.writer.after": 2,
    "storage.commit.before": 2,
    "storage.commit.after": 4,
}
CASES = [
    pytest.param(f"{point}:{number}:{action}", marks=[] if point in FEW and action == "kill" else pytest.mark.long)
    for FEW in [("storage.commit.after",)]
    for point, number in POINTS.items()
    for action in ("kill", "exception", "hang")
]


def keys_of(site: Site) -> dict[str, str]:
    """Serial -> the sealed key as it is stored, which differs with each sealing."""
    return dict(site.query("SELECT serial, hex(key_sealed) FROM device WHERE serial LIKE 'row-%'"))


async def run_import(site: Site, file: Path, fault: str, hit: Path) -> tuple[int, list[dict]]:
    """Exit code, and the results that were told."""
    words = ("-m", "tests.faults.service_failpoints", "-c", str(site.config), "device", "import", str(file), "--json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", *words),
        env=clean_environment() | {FAULT: fault, HIT: str(hit)},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    return process.returncode or 0, [json.loads(line) for line in told.splitlines()]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("fault", CASES)
async def test_an_import_that_fails_at_any_point_is_run_again(tmp_path: Path, fault: str) -> None:
    async with made_site(tmp_path) as site:
        file = tmp_path / "rows.jsonl"
        rows = [
            {"group": GROUP, "serial": f"row-{n}", "key": base64.b64encode(n.to_bytes(32, "big")).decode()}
            for n in range(1, ROWS + 1)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        code, told = await run_import(site, file, fault, tmp_path / "hit")
        assert (tmp_path / "hit").exists(), f"{fault} was never passed"
        before = keys_of(site)
        # 1. What was told is there, and nothing is there in part.
        assert {one["serial"] for one in told if one["result"] == "registered"} <= set(before)
        assert len(before) == ROWS or len(before) % IMPORT_PAGE_ROWS == 0
        assert (code == 0) == (len(before) == ROWS and fault.endswith("hang"))
        # 2. The same again does the rest, and leaves alone what is there.
        lines = (await site.command("device", "import", str(file), "--json")).splitlines()
        again = [json.loads(line)["result"] for line in lines if line.startswith("{")]
        assert again == ["already_registered"] * len(before) + ["registered"] * (ROWS - len(before))
        after = keys_of(site)
        assert len(after) == ROWS
        assert {serial: after[serial] for serial in before} == before
        assert auditor.audit(site.settings.database_path) == []
