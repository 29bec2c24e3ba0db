"""The service fails at named points: nothing acknowledged is lost, nothing is done twice, every device gets there.

Each case is one fault in a whole life (tests/support/faulty_life.py): two devices activate and take their firmware, the
target changes, a command is worked off, one device loses its flash. After a SIGKILL the service is started again, as
systemd does. Afterwards every device is confirmed, and the auditor is content with every reply that was given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.service_failpoints import ACTIONS, NAMES
from tests.support.faulty_life import live_through

KILL, EXCEPTION, HANG = ACTIONS

# point -> at which passing
POINTS = {
    # a message comes in and is worked on
    "deliver.before": 4,
    "deliver.after": 3,
    "admission.take_batch.after": 3,
    "executor.execute.before": 2,
    "executor.execute.after": 2,
    "handler.activate.before": 1,
    "handler.activate.after": 2,
    "handler.online.before": 2,
    "handler.online.after": 1,
    "handler.report.after": 2,
    "handler.fetch.after": 1,
    "handler.tend.after": 1,
    # it is stored
    "store.load.after": 2,
    "store.save.before": 1,
    "store.save.after": 2,
    "storage.writer.after": 3,
    "storage.commit.before": 2,
    "storage.commit.after": 3,
    # the broker is told
    "granter.submit.before": 1,
    "gate.grant.before": 1,
    "gate.grant.after": 1,
    "gate.revoke.before": 1,
    "gate.revoke.after": 1,
    "gate.snapshot.after": 1,
    "revoker.revoke_all.after": 2,
    "upkeep.mark_revoked.before": 1,
    "upkeep.mark_revoked.after": 1,
    # the device is told
    "outbox.put.before": 2,
    "publish.hello.before": 1,
    "publish.activate.before": 1,
    "publish.activate.after": 1,
    "publish.online.before": 1,
    "publish.online.after": 2,
    "publish.report.before": 2,
    "publish.desired.before": 1,
    "publish.desired.after": 1,
    "publish.chunk.before": 3,
    "publish.chunk.after": 7,
    # images
    "streamer.request.before": 1,
    "images.open.before": 1,
    "images.read.before": 1,
    "images.read.after": 2,
    "pages.get.after": 1,
    # the clock
    "ticker.tick.before": 3,
    "ticker.flush.before": 1,
    "upkeep.catalogue_rev.before": 2,
    "upkeep.confirmed.after": 1,
    "upkeep.touched.before": 2,
    "upkeep.add_counters.after": 1,
    # operators' commands
    "commander.push.before": 1,
    "commands.running.before": 2,
    "commands.work.before": 1,
    "commands.work.after": 1,
    "command.page.before": 1,
    "command.page.after": 1,
    "command.outcomes.after": 1,
    "command.cursor.before": 1,
    "command.cursor.after": 1,
}
# Every second point hangs and every second one raises; each is killed.
CASES = [
    f"{point}:{number}:{action}"
    for place, (point, number) in enumerate(POINTS.items())
    for action in (KILL, (EXCEPTION, HANG)[place % 2])
]
FEW = ("storage.commit.after:3:kill",)


def test_every_point_has_a_name() -> None:
    assert set(POINTS) <= set(NAMES)
    assert len(CASES) >= 60


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("fault", FEW)
async def test_a_service_that_fails_at_one_point_leaves_every_device_confirmed(tmp_path: Path, fault: str) -> None:
    await live_through(tmp_path, fault)


@pytest.mark.long
@pytest.mark.sampled(36)
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("fault", CASES)
async def test_a_service_that_fails_at_any_point_leaves_every_device_confirmed(tmp_path: Path, fault: str) -> None:
    lived = await live_through(tmp_path, fault)
    print(f"{fault}: {lived.seconds:.1f} s, the process ended {lived.ends} times")
