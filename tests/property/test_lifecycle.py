"""Device cores and the service together, under every order of loss, doubling, delay, power cut and restart, while
operators move, replace and configure devices, environments go dark, devices forget everything, and somebody makes
second devices of the same serial.

Whatever happens: at most one confirmed credential a device, one holder and at most one successor a thing, no replaced
serial let in, groups, secrets and serials as they were, nothing that a device was told is forgotten; and once the faults
end, every device that was not replaced ends on the target firmware in the place where its thing is.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.lifecycle import World
from tests.support.mishaps import add_clone, lose_flash

EXAMPLES = int(os.environ.get("FIRSTLIGHT_EXAMPLES", "6"))
MANY = 120 if os.environ.get("FIRSTLIGHT_SOAK") else 24
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here is about disks
SERIALS = ["sn-1", "sn-2"]
MAX_DEVICES = 4
POLICIES = {
    "credential_life_s": 3 * 3600,  # an API key is renewed after two hours
    "failover_environment": "east",
    "failover_after_s": 600,
    "clone_policy": "freeze",
}


class Lifecycle(RuleBasedStateMachine):
    @initialize(in_service=st.sampled_from([True, True, True, False]))
    def begin(self, in_service) -> None:
        self.folder = TemporaryDirectory(dir=MEMORY)
        self.loop = asyncio.new_event_loop()
        self.world = self.run(World.create(Path(self.folder.name), SERIALS))
        self.run(self.world.set_group(**POLICIES))
        self.releases = 2
        if in_service:
            self.run(self.world.calm())

    def run(self, work):
        return self.loop.run_until_complete(work)

    def unit(self, data):
        return data.draw(st.sampled_from(self.world.units), label="device")

    @rule()
    def everything_arrives(self) -> None:
        self.run(self.world.exchange())

    @precondition(lambda self: self.world.up)
    @rule(data=st.data(), keep=st.booleans())
    def a_request_arrives_early_or_twice(self, data, keep) -> None:
        self.run(self.world.deliver_up(data.draw(st.integers(0, len(self.world.up) - 1)), keep=keep))

    @precondition(lambda self: self.world.down)
    @rule(data=st.data(), keep=st.booleans())
    def a_reply_arrives_early_or_twice(self, data, keep) -> None:
        self.world.deliver_down(data.draw(st.integers(0, len(self.world.down) - 1)), keep=keep)

    @precondition(lambda self: self.world.up)
    @rule(data=st.data())
    def a_request_is_lost(self, data) -> None:
        self.world.up.pop(data.draw(st.integers(0, len(self.world.up) - 1)))

    @precondition(lambda self: self.world.down)
    @rule(data=st.data())
    def a_reply_is_lost(self, data) -> None:
        self.world.down.pop(data.draw(st.integers(0, len(self.world.down) - 1)))

    @rule(data=st.data())
    def power_comes(self, data) -> None:
        unit = self.unit(data)
        if unit.client is None:
            unit.power_up()

    @rule(data=st.data())
    def power_goes(self, data) -> None:
        self.unit(data).power_off()

    @rule(data=st.data(), steps=st.integers(1, 12))
    def power_will_go_during_a_write(self, data, steps) -> None:
        unit = self.unit(data)
        unit.power.cut_at = unit.power.operations + steps

    @rule(data=st.data())
    def a_connection_breaks(self, data) -> None:
        self.world.lose_connection(self.unit(data))

    @rule(seconds=st.sampled_from([0.3, 3.0, 35.0, 130.0, 4000.0]))
    def time_passes(self, seconds) -> None:
        self.run(self.world.advance(seconds))

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0, 130.0]))
    def everything_takes_its_course_for_a_while(self, seconds) -> None:
        for _ in range(8):
            self.run(self.world.exchange())
            self.run(self.world.advance(seconds))

    @rule()
    def the_service_dies_and_returns(self) -> None:
        self.run(self.world.kill_service())
        self.run(self.world.start_service())

    @rule(data=st.data())
    def the_broker_does_not_answer_for_a_while(self, data) -> None:
        self.world.gate.fail = data.draw(st.booleans(), label="fails")

    @precondition(lambda self: self.releases < 4)
    @rule()
    def a_version_is_released(self) -> None:
        self.releases += 1
        self.run(self.world.release(f"{self.releases}.0", self.releases))

    @rule(
        data=st.data(),
        place=st.sampled_from([("acme", "prod"), ("acme/b", "prod"), ("acme", "east"), ("acme/b", "east")]),
    )
    def a_device_is_sent_somewhere(self, data, place) -> None:
        ou, environment = place
        deadline_s = data.draw(st.sampled_from([300, 86400]), label="deadline_s")
        self.run(
            self.world.operate("reprovision", self.unit(data), ou=ou, environment=environment, deadline_s=deadline_s)
        )

    @precondition(lambda self: len(self.world.units) < MAX_DEVICES)
    @rule(data=st.data())
    def a_device_is_replaced(self, data) -> None:
        self.run(self.world.replace(self.unit(data), f"sn-{len(self.world.units) + 1}"))

    @rule(data=st.data())
    def a_replacement_is_undone(self, data) -> None:
        self.run(self.world.operate("undo-replace", self.unit(data)))

    @rule(data=st.data(), network=st.sampled_from(["a", "b"]))
    def settings_are_changed(self, data, network) -> None:
        self.run(self.world.operate("set-settings", self.unit(data), settings={"network": network}))

    @precondition(lambda self: len(self.world.units) < MAX_DEVICES)
    @rule()
    def a_device_is_registered(self) -> None:
        self.run(self.world.register(f"sn-{len(self.world.units) + 1}"))

    @rule(data=st.data(), verb=st.sampled_from(["block", "unblock", "unblock"]))
    def a_device_is_blocked_or_let_in_again(self, data, verb) -> None:
        self.run(self.world.operate(verb, self.unit(data)))

    @rule(data=st.data())
    def a_device_changes_hands(self, data) -> None:
        unit = self.unit(data)
        if unit.serial not in {one.serial for one in self.world.clones}:  # the key would be whoever's asks first
            self.run(self.world.operate("transfer", unit))

    @rule(environment=st.sampled_from(["prod", "east"]))
    def an_environment_goes_dark(self, environment) -> None:
        self.world.go_dark(environment)

    @rule(environment=st.sampled_from(["prod", "east"]))
    def an_environment_is_away_for_long(self, environment) -> None:
        self.world.go_dark(environment)
        for _ in range(25):
            self.run(self.world.exchange())
            self.run(self.world.advance(60.0))

    @rule()
    def all_environments_can_be_reached_again(self) -> None:
        self.world.lighten()

    @precondition(lambda self: self.world.clones)
    @rule()
    def a_second_device_and_the_first_have_power_in_turn(self) -> None:
        for clone in self.world.clones:
            twins = [one for one in self.world.units if one.serial == clone.serial]
            for on in twins * 2:
                for off in twins:
                    off.power_off()
                on.power_up()
                for _ in range(3):
                    self.run(self.world.exchange())
                    self.run(self.world.advance(20.0))

    @rule(data=st.data(), image_too=st.booleans())
    def a_device_forgets_everything(self, data, image_too) -> None:
        unit = self.unit(data)
        if unit.serial not in self.world.handed_over:  # its new key would be lost with the rest: a case for an operator
            lose_flash(unit, image_too=image_too)

    @precondition(lambda self: len(self.world.units) < MAX_DEVICES)
    @rule(data=st.data(), with_flash=st.booleans())
    def somebody_makes_a_second_device_of_the_same_serial(self, data, with_flash) -> None:
        unit = self.unit(data)
        if unit.serial not in self.world.handed_over:
            add_clone(self.world, unit, with_flash=with_flash).power_up()

    @invariant()
    def the_audit_is_clean(self) -> None:
        if hasattr(self, "world"):
            assert self.world.audit() == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.run(self.world.calm())
            for (kind,) in self.world.rows("SELECT DISTINCT kind FROM event"):
                event(kind)  # what --hypothesis-show-statistics counts
            assert self.world.unfinished() == []
            assert self.world.audit(settled=True) == []
        finally:
            self.run(self.world.close())
            self.loop.close()
            self.folder.cleanup()


TestLifecycle = pytest.mark.timeout(1200)(Lifecycle.TestCase)  # under a minute, where nothing else wants the processors
TestLifecycle.settings = settings(
    max_examples=EXAMPLES,
    # The same few lives in every run of `make test`; FIRSTLIGHT_EXAMPLES and the long run look for new ones.
    derandomize="FIRSTLIGHT_EXAMPLES" not in os.environ,
    stateful_step_count=40,
    deadline=None,
    # Shrinking takes minutes; FIRSTLIGHT_SHRINK=1 asks for it.
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
        *([Phase.shrink] if os.environ.get("FIRSTLIGHT_SHRINK") else []),
    ],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_lives() -> None:
    """The same with as many examples as there is room for in `make faults`, or in `make soak`."""
    run_state_machine_as_test(
        Lifecycle, settings=settings(TestLifecycle.settings, max_examples=MANY, derandomize=False)
    )
