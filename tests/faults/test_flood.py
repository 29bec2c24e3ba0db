"""Wrong proofs for one serial from many sessions: its true device still gets in, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.flood import Flood, run_flood
from tests.support.site import seed_of_run


async def test_forty_sessions_of_wrong_proofs_do_not_keep_the_true_device_out(tmp_path: Path) -> None:
    flood = await run_flood(tmp_path, Flood(40, 10), "embedded", seed_of_run())
    assert flood.activated_s < 30
    assert flood.codes["REFUSED"] >= 40


@pytest.mark.long
@pytest.mark.mosquitto
@pytest.mark.timeout(600)
async def test_a_thousand_sessions_of_wrong_proofs_do_not_keep_the_true_device_out(tmp_path: Path) -> None:
    flood = await run_flood(tmp_path, Flood(1000, 20), "mosquitto", seed_of_run())
    print(flood.line(), flush=True)
    assert flood.activated_s < 30
    assert flood.codes["REFUSED"] >= 10_000
