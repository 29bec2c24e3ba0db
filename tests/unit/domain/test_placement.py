"""Where a reprovision leads: the new place, or the old one, never in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain import placement
from service.domain.catalogue import Catalogue, Endpoint, Environment, Ou
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState
from service.domain.group import MoveMethod
from service.errors import ServiceError
from tests.support.storage import GROUP, NOW, PRODUCT, a_credential, a_device, a_thing

ENDPOINT = {CredentialKind.API_KEY: Endpoint("broker", 8883, tls=True)}
ENVIRONMENTS = {
    "prod": Environment("prod", ENDPOINT),
    "east": Environment("east", ENDPOINT),
    "bare": Environment("bare", {}),
}


def a_catalogue(*ous, **fields):
    group = replace(GROUP, **fields)
    return Catalogue(
        1, {GROUP.group_id: group}, {PRODUCT.product_id: PRODUCT}, {}, ENVIRONMENTS, ous={one.path: one for one in ous}
    )


def placed(**fields):
    device = a_device(state=DeviceState.CONFIRMED)
    confirmed = a_credential(device, state=CredentialState.CONFIRMED, confirmed_at=NOW)
    return replace(device, thing=a_thing(device, **fields), credentials=(confirmed,))


def send(device, catalogue=None, **asked):
    return placement.reprovision(device, catalogue or a_catalogue(), NOW, **asked)


def kinds(events):
    return [one.kind for one in events]


def test_another_ou_inside_the_environment_is_there_at_once():
    after, events = send(placed(), ou="acme/plant-7", command_id="c1")
    assert (after.thing.ou, after.thing.environment, after.thing.move) == ("acme/plant-7", "prod", None)
    assert after.thing.rev == 1
    (moved,) = events
    assert (moved.kind, moved.ou, moved.command_id, moved.data["from_ou"]) == ("moved", "acme/plant-7", "c1", "acme")


def test_another_environment_is_a_move_that_leaves_the_old_place_as_it_is_until_it_is_completed():
    before = placed(name="Kitchen", settings={"interval_s": 5}, settings_rev=2, target_version_id="a" * 32)
    on_the_way, events = send(before, ou="acme/b", environment="east")
    assert kinds(events) == ["move_started"]
    assert (on_the_way.thing.ou, on_the_way.thing.environment) == ("acme", "prod")
    assert on_the_way.credentials == before.credentials
    there, events = placement.complete(on_the_way, a_catalogue(), NOW)
    assert kinds(events) == ["moved"]
    assert there.thing == replace(before.thing, ou="acme/b", environment="east", rev=1)
    assert (there.group_id, there.serial, there.key, there.thing.thing_id) == (
        before.group_id,
        before.serial,
        before.key,
        before.thing.thing_id,
    )


def test_initialise_resets_name_settings_and_target_to_the_template():
    catalogue = a_catalogue(template_settings={"interval_s": 60})
    before = placed(name="Kitchen", number=7, settings={"interval_s": 5}, settings_rev=2, target_version_id="a" * 32)
    after, _ = send(before, catalogue, ou="acme/b", method=MoveMethod.INITIALISE)
    assert after.thing.name == "Thermometer 7"
    assert (after.thing.settings, after.thing.settings_rev) == ({"interval_s": 60}, 3)
    assert after.thing.target_version_id is None


AWAY = {"environment": "east", "ou": "acme/backup", "home_environment": "prod", "home_ou": "acme/line-1"}


def test_a_thing_that_an_operator_sends_home_after_a_failover_is_in_its_old_ou_again():
    home, _ = send(placed(**AWAY), environment="prod")
    assert home.thing.move.ou == "acme/line-1"
    home, _ = placement.complete(home, a_catalogue(), NOW)
    assert (home.thing.ou, home.thing.home_environment, home.thing.home_ou) == ("acme/line-1", None, None)
    assert send(placed(**AWAY), environment="prod", ou="acme/x")[0].thing.move.ou == "acme/x"


def test_an_operator_who_places_a_failed_over_thing_anew_gives_it_a_new_home():
    thing = send(placed(**AWAY), ou="acme/y")[0].thing
    assert (thing.ou, thing.home_environment, thing.home_ou) == ("acme/y", "prod", None)
    west = replace(ENVIRONMENTS["east"], name="west")
    catalogue = replace(a_catalogue(), environments={**ENVIRONMENTS, "west": west})
    moved, _ = placement.complete(send(placed(**AWAY), catalogue, environment="west")[0], catalogue, NOW)
    assert (moved.thing.ou, moved.thing.home_environment, moved.thing.home_ou) == ("acme/backup", None, None)


def test_never_is_refused_unless_the_command_says_otherwise():
    catalogue = a_catalogue(move_method=MoveMethod.NEVER)
    with pytest.raises(ServiceError) as refused:
        send(placed(), catalogue, ou="acme/b")
    assert (refused.value.code, refused.value.cause) == ("FORBIDDEN", "move_never")
    assert send(placed(), catalogue, ou="acme/b", method=MoveMethod.MIGRATE)[0].thing.ou == "acme/b"


def test_the_place_where_it_is_or_is_going_changes_nothing():
    device = placed()
    assert send(device, ou="acme", environment="prod") == (device, ())
    moving, _ = send(device, environment="east")
    again, events = send(moving, environment="east")
    assert again is moving
    assert events == ()


def test_another_command_ends_the_move_that_is_under_way():
    moving, _ = send(placed(), environment="east", command_id="first")
    waiting = a_credential(moving, "d" * 32, environment="east")
    moving = replace(moving, credentials=(*moving.credentials, waiting))
    other, events = send(moving, ou="acme/b", environment="east", command_id="second")
    assert [(one.kind, one.command_id, one.data.get("cause")) for one in events] == [
        ("move_failed", "first", "superseded"),
        ("move_started", "second", None),
    ]
    assert other.credentials[-1].drop_cause == "move_failed"
    home, events = send(moving, environment="prod", command_id="third")
    assert [(one.kind, one.data["cause"]) for one in events] == [("move_failed", "cancelled")]
    assert (home.thing.move, home.thing.environment) == (None, "prod")
    assert home.credentials[0].state is CredentialState.CONFIRMED


def test_a_move_lapses_at_its_deadline_and_drops_only_what_waited_at_the_new_place():
    moving, _ = send(placed(), environment="east", deadline=timedelta(hours=1))
    rows = a_credential(moving, "d" * 32, environment="east"), a_credential(moving, "e" * 32)
    moving = replace(moving, credentials=(*moving.credentials, *rows))
    assert placement.lapse(moving, NOW + timedelta(minutes=59)) == (moving, ())
    after, events = placement.lapse(moving, NOW + timedelta(hours=1))
    assert [(one.kind, one.data["cause"]) for one in events] == [("move_failed", "deadline")]
    assert after.thing.move is None
    assert [one.state.value for one in after.credentials] == ["confirmed", "dropped", "pending"]


def test_an_ou_leads_to_the_environment_that_it_or_one_above_it_is_bound_to():
    catalogue = a_catalogue(Ou("acme/east", "east"), Ou("acme"))
    moving, _ = send(placed(), catalogue, ou="acme/east/plant-1")
    assert moving.thing.move.environment == "east"
    with pytest.raises(ServiceError) as refused:
        send(placed(), catalogue, ou="acme/east/plant-1", environment="prod")
    assert refused.value.cause == "ou_bound"


@pytest.mark.parametrize("environment", ["nowhere", "bare"])
def test_an_environment_that_is_not_there_is_refused(environment):
    with pytest.raises(ServiceError) as refused:
        send(placed(), environment=environment)
    assert (refused.value.code, refused.value.cause) == ("NOT_FOUND", "environment_unknown")


@pytest.mark.parametrize(
    ("device", "cause"),
    [
        (a_device(), "move_not_activated"),
        (replace(placed(), state=DeviceState.REPLACED), "move_replaced"),
        (replace(placed(), state=DeviceState.RETIRED), "move_retired"),
        (replace(placed(), state=DeviceState.BLOCKED), "move_blocked"),
        (replace(placed(), frozen=True), "move_frozen"),
        (placed(successor_device_id="dev-2"), "move_during_replacement"),
    ],
)
def test_what_cannot_be_moved_is_refused(device, cause):
    with pytest.raises(ServiceError) as refused:
        send(device, ou="acme/b")
    assert (refused.value.code, refused.value.cause) == ("CONFLICT", cause)


def test_only_a_device_that_said_that_it_sets_out_is_expected_at_the_new_place():
    moving, _ = send(placed(), environment="east")
    assert not placement.is_expected(moving, "east")
    gone = placement.announced(moving)
    assert placement.is_expected(gone, "east")
    assert not placement.is_expected(gone, "prod")
    assert placement.announced(gone) is gone
    assert placement.announced(placed()) == placed()
