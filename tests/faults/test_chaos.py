"""Service and brokers killed again and again under devices that power up, activate and update."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_sdk.core.identity import Policy
from device_sdk.simulator import FaultPlan, PowerPlan
from tests.support.chaos import Plan, run_chaos
from tests.support.site import seed_of_run

QUICK = Policy(chunk_size=4096, backoff_first_s=0.2, backoff_max_s=1.0, request_timeout_s=0.5, connect_timeout_s=5)
PATIENT = Policy(chunk_size=16384, backoff_first_s=0.5, backoff_max_s=10.0, connect_timeout_s=15)
ROUGH = FaultPlan(drop=0.02, duplicate=0.03, reorder=0.05, delay=0.05, max_delay_s=0.3, cut=0.0005)


def _say(line: str) -> None:
    print(line, flush=True)


@pytest.mark.mosquitto
async def test_three_kills_under_twelve_devices_leave_every_one_confirmed(tmp_path: Path) -> None:
    plan = Plan(12, 3, 1.5, 0.2, 128 * 1024, 40, 0.5, QUICK)
    result = await run_chaos(tmp_path, plan, seed_of_run())
    assert result.kills.total() == 3


async def test_power_cuts_and_a_rough_network_and_a_killed_service_leave_every_device_confirmed(tmp_path: Path) -> None:
    plan = Plan(6, 2, 1.0, 0.2, 64 * 1024, 40, 0.5, QUICK, ROUGH, PowerPlan(1, 40, 2.0, 0.05), "embedded")
    result = await run_chaos(tmp_path, plan, seed_of_run())
    assert result.kills.total() == 2
    assert result.power_cuts >= 3


@pytest.mark.long
@pytest.mark.mosquitto
@pytest.mark.timeout(1500)
async def test_twenty_five_kills_under_two_hundred_devices_leave_every_one_confirmed(tmp_path: Path) -> None:
    plan = Plan(200, 25, 6, 2, 1024 * 1024, 600, 60, PATIENT)
    result = await run_chaos(tmp_path, plan, seed_of_run(), _say)
    _say(result.line(plan.devices))
    assert result.kills.total() >= 20


@pytest.mark.long
@pytest.mark.mosquitto
@pytest.mark.timeout(1500)
async def test_kills_power_cuts_and_a_rough_network_together_leave_every_device_confirmed(tmp_path: Path) -> None:
    plan = Plan(60, 12, 6, 2, 512 * 1024, 600, 20, PATIENT, ROUGH, PowerPlan(cuts=3, within=200, off_s=0.5))
    result = await run_chaos(tmp_path, plan, seed_of_run(), _say)
    _say(result.line(plan.devices))
    assert result.power_cuts >= plan.devices


@pytest.mark.long
@pytest.mark.mosquitto
@pytest.mark.timeout(1500)
async def test_kills_under_devices_with_certificates_leave_every_one_confirmed(tmp_path: Path) -> None:
    plan = Plan(40, 10, 5, 1, 512 * 1024, 600, 15, PATIENT, power=PowerPlan(1, 100, 5.0, 0.5), certificates=True)
    result = await run_chaos(tmp_path, plan, seed_of_run(), _say)
    _say(result.line(plan.devices))
