"""The steps of a unit: what the table lists, and nothing else; and which settings belong to which step."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import warehouse
from service.domain.warehouse import TRANSITIONS, Equipment, IllegalStepError, Step
from tests.support.fake_link import START

LATER = START + timedelta(hours=1)
UNIT = Equipment("line-1", "t-1", "tablet", Step.RECEIVED, START, cause="stopped")


def at(step, **fields):
    return replace(UNIT, step=step, **fields)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Step, repeat=2)))
def test_only_listed_steps_follow_each_other(before, after):
    if after in TRANSITIONS[before]:
        assert warehouse.enter(at(before), after, LATER) == at(after, step_at=LATER, cause=None)
    else:
        with pytest.raises(IllegalStepError):
            warehouse.enter(at(before), after, LATER)


def test_the_way_of_a_unit_leads_through_every_step():
    unit = UNIT
    for step in (Step.STAGED, Step.OUT_OF_BOX, Step.SHIPPED, Step.AT_SITE):
        unit = warehouse.enter(unit, step, LATER)
    assert unit.step is Step.AT_SITE


@pytest.mark.parametrize("step", [Step.RECEIVED, Step.STAGED, Step.OUT_OF_BOX])
def test_a_restaged_unit_is_received_again_and_has_nothing_of_the_last_call(step):
    staged = at(step, device_id="d", manifest_id="m", staged_at=START, stage_credential_id="c")
    again = warehouse.restage(staged, LATER)
    assert again == replace(UNIT, device_id="d", cause=None, step_at=START if step is Step.RECEIVED else LATER)


@pytest.mark.parametrize("step", [Step.SHIPPED, Step.AT_SITE])
def test_a_unit_that_has_left_is_not_restaged(step):
    with pytest.raises(IllegalStepError, match=step.value):
        warehouse.restage(at(step), LATER)


SETTINGS = {"features": {"locale": "fi", "kiosk": True}, "payment": {"terminal": "T1"}, "network": {"ssid": "hall"}}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), {}),
        (("payment",), {"payment": {"terminal": "T1"}}),
        (("features.locale",), {"features": {"locale": "fi"}}),
        (("features.locale", "features"), {"features": SETTINGS["features"]}),
        (warehouse.SECTIONS, SETTINGS),
        (("network.password", "sound"), {}),
    ],
)
def test_a_step_gets_the_values_that_its_names_mean(names, found):
    assert warehouse.values_named(SETTINGS, names) == found
