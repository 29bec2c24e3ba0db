"""Labels of a batch: who gets one, what is kept of it, and what a scan does."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from service.credentials import labels as texts
from service.credentials.labels import LabelText
from service.domain.catalogue import Endpoint, Environment
from service.domain.changes import Changes
from service.domain.credential import CredentialKind
from service.domain.device import DeviceState
from service.domain.group import Group, KeyKind
from service.errors import Secret, ServiceError
from service.operations import batches, devices, groups, labels
from service.operations.labels import Order
from service.operations.outcomes import Result
from service.operations.verbs import onboard
from service.operations.verbs.verb import World
from service.storage import operator_tables, tables
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, PRODUCT, a_device, a_sealer, a_thing, new_database

YEAR = timedelta(days=365)
ENVIRONMENTS = {
    name: Environment(name, {CredentialKind.API_KEY: Endpoint("127.0.0.1", 1883, tls=False)})
    for name in ("prod", "lab")
}


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def issue(database, *serials, group=DERIVED, now=NOW, **fields):
    order = Order(group.group_id, "B42", now + YEAR, serials, **fields)
    return await labels.issue(database, order, now=now, random_bytes=os.urandom)


async def store(database, *found):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in found)))


async def rows(database, table):
    async with database.read() as connection:
        return [row._asdict() for row in await connection.execute(select(table))]


async def scan(
    database,
    text,
    *,
    account="anna",
    now=NOW,
    scope=None,
    save=True,
    ou="acme/plant-7",
    environment="prod",
    **arguments,
):
    """What the engine does with the verb: one transaction, every write in it."""
    async with SqlStore(database, ENVIRONMENTS).batch() as batch:
        world = World(now, batch.catalogue, account, "command-1", scope, os.urandom)
        made = await onboard.make(
            batch, batch.connection, onboard.Arguments(scan=text, ou=ou, environment=environment, **arguments), world
        )
        if save:
            await batch.save(Changes(devices=made.devices, events=made.events))
            if made.write is not None:
                await made.write(batch.connection)
    return made


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def events(database):
    return [row["kind"] for row in await rows(database, operator_tables.event)]


# --- printing -----------------------------------------------------------------------------------------------------


async def test_labels_are_made_without_registering_the_devices(database):
    made = await issue(database, "TH-1", "TH-2")
    assert [(one.group_id, one.serial, one.batch, one.key) for one in made] == [
        ("line-2", "TH-1", "B42", None),
        ("line-2", "TH-2", "B42", None),
    ]
    assert (await devices.list_page(database)).devices == []
    shown = await batches.show(database, "B42")
    assert (shown.labels["unused"], shown.missing) == (2, ["line-2/TH-1", "line-2/TH-2"])


async def test_the_code_of_a_label_is_not_in_the_database(database, tmp_path):
    (made,) = await issue(database, "TH-1")
    code = texts.decode(made.text, a_sealer().label_key).code.reveal()
    stored = (tmp_path / "firstlight.db").read_bytes() + (tmp_path / "firstlight.db-wal").read_bytes()
    assert code not in stored
    assert code.hex().encode() not in stored
    assert made.text.encode() not in stored


async def test_labels_may_register_their_devices_at_once(database):
    (made,) = await issue(database, "TH-1", group=GROUP, register=True, may_make_keys=True)
    device = await devices.show(database, "line-1/TH-1")
    assert (device.state, device.batch) == (DeviceState.REGISTERED, "B42")
    assert device.key == Secret(base64.b64decode(made.key))
    assert await events(database) == ["registered"]


async def test_a_batch_tag_names_the_devices_where_no_serials_are_given(database):
    await store(database, a_device("sn-1", batch="B42"), a_device("sn-2", batch="B43"))
    assert [one.serial for one in await issue(database, group=GROUP)] == ["sn-1"]


async def test_a_batch_of_one_group_needs_no_word_about_it(database):
    await store(database, a_device("TH-2", group_id=DERIVED.group_id, batch="B42"), a_device("TH-3", batch="B9"))
    order = Order(None, "B42", NOW + YEAR)
    printed = await labels.issue(database, order, now=NOW, random_bytes=os.urandom)
    assert [(one.group_id, one.serial) for one in printed] == [(DERIVED.group_id, "TH-2")]
    await store(database, a_device("TH-4", batch="B42"))
    before = await rows(database, tables.label)
    for wrong, found in (
        (order, ("CONFLICT", "labels_groups")),
        (replace(order, batch="B7"), ("NOT_FOUND", "batch_empty")),
        (replace(order, serials=("TH-2",)), ("BAD_REQUEST", "labels_group")),
    ):
        assert await refused(labels.issue(database, wrong, now=NOW, random_bytes=os.urandom)) == found
    assert await rows(database, tables.label) == before


async def test_labels_that_register_are_told_where_the_group_says(database):
    await issue(database, "TH-1", group=GROUP, register=True, may_make_keys=True)
    assert [(one["kind"], one["ou"]) for one in await rows(database, operator_tables.event)] == [("registered", "acme")]


async def test_a_new_label_ends_the_unused_one_before_it(database):
    (older,), (newer,) = await issue(database, "TH-1"), await issue(database, "TH-1")
    assert await refused(scan(database, older.text)) == ("CONFLICT", "label_cancelled")
    assert (await scan(database, newer.text)).outcomes[0].result is Result.CHANGED


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"batch": "B 42"}, ("BAD_REQUEST", "batch_illegal")),
        ({"expires_at": NOW}, ("BAD_REQUEST", "labels_expiry")),
        ({"expires_at": NOW + timedelta(days=3651)}, ("BAD_REQUEST", "labels_expiry")),
        ({"serials": ("TH/1",)}, ("BAD_REQUEST", "serial_illegal")),
        ({"serials": ("TH-1", "TH-1")}, ("BAD_REQUEST", "serial_twice")),
        ({"serials": tuple(map(str, range(labels.MAX_LABELS + 1)))}, ("BAD_REQUEST", "labels_many")),
        ({"serials": ()}, ("NOT_FOUND", "batch_empty")),
        ({"group_id": "nowhere"}, ("NOT_FOUND", "group_unknown")),
        ({"group_id": GROUP.group_id}, ("CONFLICT", "labels_need_keys")),
    ],
)
async def test_a_wrong_order_prints_nothing(database, fields, found):
    order = Order(
        **{"group_id": DERIVED.group_id, "batch": "B42", "expires_at": NOW + YEAR, "serials": ("TH-1",), **fields}
    )
    assert await refused(labels.issue(database, order, now=NOW, random_bytes=os.urandom)) == found
    assert await rows(database, tables.label) == []


async def test_a_serial_that_was_onboarded_gets_no_second_label(database):
    (made,) = await issue(database, "TH-1")
    await scan(database, made.text)
    assert await refused(issue(database, "TH-1")) == ("CONFLICT", "label_used")


# --- scanning -----------------------------------------------------------------------------------------------------


async def test_a_scan_registers_tags_places_and_describes_the_device(database):
    (made,) = await issue(database, "TH-1")
    result = await scan(database, made.text.lower(), environment="lab", site="hall 3", attributes={"floor": 2})
    device = await devices.show(database, "line-2/TH-1")
    assert (device.state, device.batch, device.ou, device.environment) == (
        DeviceState.REGISTERED, "B42", "acme/plant-7", "lab",
    )  # fmt: skip
    assert device.attributes == {"floor": 2, "site": "hall 3"}
    assert result.result["registered"] is True
    assert await events(database) == ["registered", "onboarded"]
    (row,) = await rows(database, tables.label)
    assert (row["used_by"], row["used_command_id"]) == ("anna", "command-1")


async def test_a_scan_changes_neither_key_nor_state_of_a_device_in_service(database):
    device = a_device("sn-1", state=DeviceState.CONFIRMED)
    await store(database, a_device("sn-1"))
    async with SqlStore(database, {}).batch() as batch:
        before = (await batch.load(serials=[("line-1", "sn-1")])).by_serial["line-1", "sn-1"]
        after = replace(before, state=DeviceState.CONFIRMED, thing=a_thing(device, ou="acme/plant-7"))
        await batch.save(Changes(devices=((before, after),)))
    (made,) = await issue(database, "sn-1", group=GROUP)
    await scan(database, made.text, site="roof")
    found = await devices.show(database, "line-1/sn-1")
    assert (found.state, found.key, found.batch) == (DeviceState.CONFIRMED, device.key, "B42")
    assert found.thing.attributes == {"site": "roof"}


async def test_a_device_in_service_is_not_moved_by_a_scan(database):
    await store(database, a_device("sn-1"))
    async with SqlStore(database, {}).batch() as batch:
        before = (await batch.load(serials=[("line-1", "sn-1")])).by_serial["line-1", "sn-1"]
        await batch.save(Changes(devices=((before, replace(before, thing=a_thing(before))),)))
    (made,) = await issue(database, "sn-1", group=GROUP)
    assert await refused(scan(database, made.text)) == ("CONFLICT", "onboard_elsewhere")
    (row,) = await rows(database, tables.label)
    assert row["used_at"] is None


async def test_the_same_scan_again_changes_nothing(database):
    (made,) = await issue(database, "TH-1")
    await scan(database, made.text)
    again = await scan(database, made.text)
    assert [one.result for one in again.outcomes] == [Result.UNCHANGED]
    assert await events(database) == ["registered", "onboarded"]


async def test_a_used_label_does_not_say_something_else_the_second_time(database):
    (made,) = await issue(database, "TH-1")
    await scan(database, made.text)
    assert await refused(scan(database, made.text, ou="acme/plant-8")) == ("CONFLICT", "label_used")


async def test_a_used_label_scanned_by_another_account_raises_an_alarm_and_changes_nothing(database):
    (made,) = await issue(database, "TH-1")
    await scan(database, made.text, account="anna")
    before = await rows(database, tables.device), await rows(database, tables.label)
    stolen = await scan(database, made.text, account="boris", ou="evil")
    assert [(one.result, one.code, one.cause) for one in stolen.outcomes] == [
        (Result.REFUSED, "CONFLICT", "label_reused")
    ]
    assert (await rows(database, tables.device), await rows(database, tables.label)) == before
    alarm = (await rows(database, operator_tables.event))[-1]
    assert (alarm["kind"], alarm["serial"], alarm["ou"]) == ("label_reused", "TH-1", "acme/plant-7")
    assert '"scanned_by": "boris"' in alarm["data"] or '"scanned_by":"boris"' in alarm["data"]


async def test_a_dry_run_uses_no_label(database):
    (made,) = await issue(database, "TH-1")
    await scan(database, made.text, save=False)
    assert await rows(database, tables.device) == []
    assert (await scan(database, made.text, account="boris")).outcomes[0].result is Result.CHANGED


async def test_an_expired_label_is_refused_at_its_last_second(database):
    (made,) = await issue(database, "TH-1")
    expires = (NOW + YEAR).replace(microsecond=0)
    assert await refused(scan(database, made.text, now=expires)) == ("CONFLICT", "label_expired")
    await scan(database, made.text, now=expires - timedelta(milliseconds=1))


async def test_a_label_that_we_signed_but_do_not_know_is_refused(database):
    text = LabelText(Secret(os.urandom(12)), DERIVED.group_id, "TH-1", NOW + YEAR)
    forged = texts.encode(text, a_sealer().label_key)
    assert await refused(scan(database, forged)) == ("NOT_FOUND", "label_unknown")


async def test_a_label_of_another_installation_is_refused(database):
    (made,) = await issue(database, "TH-1")
    text = texts.decode(made.text, a_sealer().label_key)
    assert await refused(scan(database, texts.encode(text, a_sealer(8).label_key))) == ("BAD_REQUEST", "label_foreign")


@pytest.mark.parametrize("ou", ["acme", "acme-2/plant", "other"])
async def test_an_account_onboards_within_its_own_ou_only(database, ou):
    (made,) = await issue(database, "TH-1")
    assert await refused(scan(database, made.text, scope="acme/plant-7", ou=ou)) == ("FORBIDDEN", "out_of_scope")
    await scan(database, made.text, scope="acme/plant-7", ou="acme/plant-7/hall-3")


async def test_an_unknown_environment_is_refused(database):
    (made,) = await issue(database, "TH-1")
    assert await refused(scan(database, made.text, environment="moon")) == ("NOT_FOUND", "environment_unknown")


async def test_a_place_needs_an_environment(database):
    (made,) = await issue(database, "TH-1")
    assert await refused(scan(database, made.text, environment=None)) == ("BAD_REQUEST", "environment_missing")


@pytest.mark.unaudited
@pytest.mark.parametrize("state", [DeviceState.BLOCKED, DeviceState.RETIRED, DeviceState.REPLACED])
async def test_a_device_out_of_service_is_not_onboarded(database, state):
    await store(database, a_device("sn-1", state=state))
    (made,) = await issue(database, "sn-1", group=GROUP)
    assert await refused(scan(database, made.text)) == ("CONFLICT", f"onboard_{state.value}")


async def test_a_frozen_serial_is_not_onboarded(database):
    await store(database, a_device("sn-1", frozen=True))
    (made,) = await issue(database, "sn-1", group=GROUP)
    assert await refused(scan(database, made.text)) == ("CONFLICT", "onboard_frozen")


async def test_the_key_made_with_a_label_becomes_the_devices_and_leaves_the_label(database):
    (made,) = await issue(database, "TH-1", group=GROUP, may_make_keys=True)
    await scan(database, made.text)
    device = await devices.show(database, "line-1/TH-1")
    assert device.key == Secret(base64.b64decode(made.key))
    (row,) = await rows(database, tables.label)
    assert row["key_sealed"] is None


async def test_a_key_given_with_the_scan_does_not_replace_the_one_made_with_the_label(database):
    (made,) = await issue(database, "TH-1", group=GROUP, may_make_keys=True)
    await scan(database, made.text, device_key=base64.b64encode(bytes(range(32))).decode())
    assert (await devices.show(database, "line-1/TH-1")).key == Secret(base64.b64decode(made.key))


async def test_a_device_of_public_keys_must_be_registered_before_its_label_is_scanned(database):
    group = Group("public", PRODUCT.product_id, KeyKind.PUBLIC_KEY)
    await groups.create(database, group, random_bytes=os.urandom)
    (made,) = await issue(database, "TH-1", group=group)
    assert await refused(scan(database, made.text)) == ("BAD_REQUEST", "public_key_count")


def test_what_is_stored_of_a_command_holds_neither_scan_nor_key():
    arguments = onboard.Arguments(scan="FL1:SECRET", ou="acme", device_key="c2VjcmV0")
    assert arguments.document() == {"ou": "acme", "attributes": {}}


@pytest.mark.parametrize(("own", "left"), [(None, "acme"), ("acme/us", "acme/us"), ("acme/plant-7", None)])
async def test_the_ou_that_an_onboarded_device_leaves_is_told(database, own, left):
    await store(database, a_device("sn-1", ou=own))
    (printed,) = await issue(database, "sn-1", group=GROUP)
    made = await scan(database, printed.text)
    (told,) = [one for one in made.events if one.kind == "onboarded"]
    assert told.data.get("from_ou") == left
