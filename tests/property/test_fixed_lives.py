"""Lives in which everything happens that random ones seldom come to: each deed is waited for, with faults on the way.

`make test` has few random lives (test_lifecycle.py), and most of these end before a device has failed over or was frozen.
"""

from __future__ import annotations

import random

import pytest

from tests.property.test_lifecycle import POLICIES
from tests.support.life_unit import Unit
from tests.support.lifecycle import World
from tests.support.mishaps import add_clone, lose_flash

STEPS = 200  # far more than any deed takes
pytestmark = pytest.mark.timeout(1200)  # seconds, where nothing else wants the processors


class Life:
    """One device, its successors and its double; what goes wrong is drawn from the seed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.chance = world, random.Random(seed)

    async def until(self, kind: str, seconds: float) -> None:
        """Until that event has happened once more, with a fault now and then; the audit is clean at every step."""
        before = self._count(kind)
        for _ in range(STEPS):
            await self._fault()
            await self.world.exchange()
            assert self.world.audit() == []
            if self._count(kind) > before:
                return
            await self.world.advance(seconds)
        raise AssertionError(f"no {kind}: {self.world.rows('SELECT kind FROM event ORDER BY seq')}")

    def _count(self, kind: str) -> int:
        return self.world.rows(f"SELECT count(*) FROM event WHERE kind = '{kind}'")[0][0]

    async def _fault(self) -> None:
        world, draw = self.world, self.chance.random()
        if draw < 0.03:
            await world.kill_service()
            await world.start_service()
        elif draw < 0.06:
            world.lose_connection(self.chance.choice(world.units))
        elif draw < 0.10 and world.up:
            world.up.pop(self.chance.randrange(len(world.up)))
        elif draw < 0.15 and world.down:
            world.down.pop(self.chance.randrange(len(world.down)))
        elif draw < 0.20 and world.up:
            await world.deliver_up(self.chance.randrange(len(world.up)), keep=True)
        for unit in world.units:
            if unit.client is None:
                unit.power_up()

    async def frozen(self, unit: Unit) -> None:
        """That device and a double of it have power in turn until somebody notices."""
        world, twin = self.world, add_clone(self.world, unit, with_flash=False)
        for _ in range(20):  # boot counters that run side by side would tell nobody anything
            unit.power_off()
            unit.power_up()
        for number in range(8):
            on, off = (unit, twin) if number % 2 else (twin, unit)
            off.power_off()
            on.power_up()
            for _ in range(30):
                await world.exchange()
                if on.client.status.state == "online" or self._count("frozen"):
                    break
                await world.advance(20.0)
            assert world.audit() == []

    async def run(self) -> None:
        world, (one,) = self.world, self.world.units
        world.go_dark("prod")
        await self.until("moved", 60.0)  # it has failed over
        await world.operate("reprovision", one, environment="prod")
        await self.until("move_failed", 20.0)
        world.lighten()
        await self.until("renewed", 1500.0)
        await world.replace(one, "sn-2")
        await world.operate("undo-replace", one)
        await world.replace(one, "sn-3")
        await self.until("replaced", 20.0)
        await self.frozen(world.units[-1])


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
async def test_a_life_in_which_everything_happens_ends_in_service(tmp_path, seed):
    world = await World.create(tmp_path, ["sn-1"])
    try:
        await world.set_group(**POLICIES)
        await world.calm()
        await Life(world, seed).run()
        await world.calm()
        found = {kind for (kind,) in world.rows("SELECT DISTINCT kind FROM event")}
        wanted = {"moved", "move_failed", "renewed", "replaced", "replacement_undone", "clone_suspected", "frozen"}
        assert wanted | {"failed_over", "unfrozen"} <= found
        assert world.unfinished() == []
        assert world.audit(settled=True) == []
    finally:
        await world.close()


async def test_a_device_that_is_frozen_by_signs_from_before_is_let_in_again(tmp_path):
    world = await World.create(tmp_path, ["sn-1"])
    try:
        await world.set_group(clone_policy="freeze")
        (one,) = world.units
        for boots in (4, 3, 2, 1):  # each time below the counter before; the third sign comes when all is calm
            lose_flash(one, image_too=False)
            for _ in range(boots - 1):
                one.power_up()
                one.power_off()
            await world.calm()
        told = world.rows("SELECT kind FROM event WHERE kind IN ('clone_suspected', 'frozen', 'unfrozen') ORDER BY seq")
        assert [kind for (kind,) in told] == ["clone_suspected", "frozen", "unfrozen"]
        assert world.unfinished() == []
        assert world.audit(settled=True) == []
    finally:
        await world.close()


async def test_a_login_that_a_failed_broker_lacks_is_there_once_all_is_calm(tmp_path):
    world = await World.create(tmp_path, ["sn-1"])
    try:
        await world.calm()
        world.gate.fail = True
        add_clone(world, world.units[0], with_flash=False).power_up()
        await world.exchange()
        logins = {one for gate in world.gates.values() for one in gate.logins}
        pending = {one for (one,) in world.rows("SELECT credential_id FROM credential WHERE state = 'pending'")}
        assert pending - logins  # its device is taken away before it can ask again
        await world.calm()
        assert world.unfinished() == []
        assert world.audit(settled=True) == []
    finally:
        await world.close()
