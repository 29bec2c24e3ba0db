"""The failover policy of a group: when a device that cannot get home is placed elsewhere, and how rarely."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from service.domain import failover
from service.domain.catalogue import Catalogue, Endpoint, Environment
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState
from service.domain.group import Group
from service.domain.thing import Move
from tests.support.storage import NOW, a_credential, a_device, a_thing

WAIT = timedelta(seconds=600)
GROUP = Group("line-1", "thermometer", failover_environment="backup", failover_ou="acme/backup", failover_after_s=600)
WORLD = Catalogue(
    1,
    environments={
        name: Environment(name, {CredentialKind.API_KEY: Endpoint("h", 1, tls=False)}) for name in ("prod", "backup")
    },
)
HEARD = NOW - WAIT


def a_lost_device(heard=HEARD, sent_home=NOW - timedelta(seconds=61), **thing):
    """In service in prod, silent since `heard`, given a new credential for its own place at `sent_home`."""
    device = a_device(state=DeviceState.CONFIRMED)
    old = a_credential(device, "a" * 32, state=CredentialState.CONFIRMED, confirmed_at=heard, created_at=heard)
    new = a_credential(device, "b" * 32, created_at=sent_home, environment=thing.get("environment", "prod"))
    return replace(device, thing=a_thing(device, **thing), credentials=(old, new))


def judged(device, asked_in="backup", now=NOW, group=GROUP, down_since=None):
    return failover.judge(device, group, asked_in, WORLD, now, down_since or {})


def test_a_device_that_cannot_get_home_is_placed_elsewhere_and_its_home_is_remembered():
    device, events = judged(a_lost_device())
    move = device.thing.move
    assert (move.environment, move.ou) == ("backup", "acme/backup")
    assert (device.thing.environment, device.thing.home_environment, device.thing.failover_at) == ("prod", "prod", NOW)
    assert device.thing.home_ou == "acme"
    assert not move.announced  # the old credential is asked, or an operator: only the device says that it is lost
    assert [(one.kind, one.data) for one in events] == [
        ("failed_over", {"from": "prod", "to": "backup", "back": False})
    ]


STAYS = {
    "no policy": lambda: judged(a_lost_device(), group=replace(GROUP, failover_after_s=None)),
    "not silent for long enough": lambda: judged(a_lost_device(heard=HEARD + timedelta(milliseconds=1))),
    "never sent home": lambda: judged(replace(a_lost_device(), credentials=a_lost_device().credentials[:1])),
    "sent home a moment ago": lambda: judged(a_lost_device(sent_home=NOW - timedelta(seconds=59))),
    "sent home before it was heard": lambda: judged(a_lost_device(sent_home=HEARD - timedelta(seconds=1))),
    "it asks at its own door": lambda: judged(a_lost_device(), asked_in="prod"),
    "its broker is down for a moment": lambda: judged(
        a_lost_device(), asked_in="prod", down_since={"prod": HEARD + timedelta(milliseconds=1)}
    ),
    "an operator placed it there": lambda: judged(a_lost_device(environment="backup"), asked_in="prod"),
    "it moves already": lambda: judged(
        a_lost_device(move=Move("acme", "backup", "migrate", NOW, NOW + timedelta(hours=1)))
    ),
    "it is being replaced": lambda: judged(a_lost_device(successor_device_id="another")),
    "its thing has another holder": lambda: judged(a_lost_device(holder_device_id="another")),
    "it is not confirmed": lambda: judged(replace(a_lost_device(), state=DeviceState.ACTIVATED)),
    "the other place is not there": lambda: judged(
        a_lost_device(), group=replace(GROUP, failover_environment="moon")
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", STAYS)
def test_a_device_stays_where_it_belongs(why):
    device, events = STAYS[why]()
    assert device.thing.failover_at is None
    assert events == ()


def test_a_broker_that_the_service_cannot_reach_either_is_evidence_at_its_own_door():
    device, _ = judged(a_lost_device(), asked_in="prod", down_since={"prod": HEARD})
    assert device.thing.move.environment == "backup"
    assert device.thing.move.announced  # nobody need be asked


def test_what_waits_for_an_operator_goes_on_once_the_service_finds_the_environment_closed_too():
    waits, _ = judged(a_lost_device())
    assert judged(waits)[0] is waits
    goes_on, events = judged(waits, down_since={"prod": HEARD})
    assert (goes_on.thing.move.announced, events) == (True, ())
    of_an_operator = replace(waits, thing=replace(waits.thing, failover_at=None))
    assert judged(of_an_operator, down_since={"prod": HEARD})[0] is of_an_operator


def test_the_ou_at_home_is_restored_unless_an_operator_gave_it_another_one():
    away = {"environment": "backup", "home_environment": "prod", "failover_at": NOW - timedelta(hours=2)}
    for ou, home_ou, there in (
        ("acme/backup", "acme/line-7", "acme/line-7"),
        ("acme/moved", None, "acme/moved"),
        ("acme/backup", None, "acme"),  # failed over before OUs were remembered
    ):
        device = a_lost_device(ou=ou, home_ou=home_ou, **away)
        back, _ = judged(device, asked_in="prod", group=replace(GROUP, default_ou="acme"))
        assert back.thing.move.ou == there


def test_a_second_failover_keeps_the_first_home_in_mind():
    away = {"environment": "backup", "ou": "acme/backup", "home_environment": "prod", "home_ou": "acme"}
    other = replace(GROUP, failover_environment="third", failover_ou="acme/third")
    world = replace(WORLD, environments={**WORLD.environments, "third": WORLD.environments["prod"]})
    device = a_lost_device(**away)
    after, _ = failover.judge(device, other, "prod", world, NOW, {})
    assert after.thing.move.environment == "third"
    assert (after.thing.home_environment, after.thing.home_ou) == ("prod", "acme")


def test_it_goes_back_only_after_it_has_stayed_for_a_while():
    failed_over = NOW - timedelta(hours=2)
    device = a_lost_device(environment="backup", ou="acme/backup", home_environment="prod", failover_at=failed_over)
    long = replace(GROUP, failover_after_s=7200, default_ou="acme")
    assert judged(device, asked_in="prod", group=long)[0] is device
    back, events = judged(device, asked_in="prod", group=replace(GROUP, default_ou="acme"))
    assert (back.thing.move.environment, back.thing.move.ou) == ("prod", "acme")
    assert events[0].data["back"] is True
    again = replace(back, thing=replace(back.thing, environment="prod", move=None, ou="acme"))
    assert judged(again, now=NOW + timedelta(minutes=30))[0].thing.move is None


def test_however_a_device_asks_it_moves_at_most_once_an_hour():
    device, moves_made = a_lost_device(), []
    for minute in range(0, 600, 5):
        now = NOW + timedelta(minutes=minute)
        asked_in = "backup" if device.thing.environment == "prod" else "prod"
        credentials = a_lost_device(heard=now - WAIT, sent_home=now - timedelta(seconds=61)).credentials
        here = tuple(replace(one, environment=device.thing.environment) for one in credentials)
        after, events = judged(replace(device, credentials=here), asked_in=asked_in, now=now)
        if events:
            moves_made.append(now)
            device = replace(after, thing=replace(after.thing, environment=after.thing.move.environment, move=None))
    gaps = [later - earlier for earlier, later in pairwise(moves_made)]
    assert len(moves_made) > 2
    assert min(gaps) >= timedelta(hours=1)
