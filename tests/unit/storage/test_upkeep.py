"""The ticker's queries: each finds exactly the rows that are due, page by page."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from service.domain import updates
from service.domain.changes import Changes, Trace
from service.domain.credential import CredentialKind, CredentialState
from service.domain.device import DeviceState, Firmware, FirmwareState
from service.domain.event import Event
from service.domain.group import MoveMethod
from service.domain.thing import Move
from service.operations import stats, traces
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.storage import DERIVED, GROUP, NOW, PRODUCT, a_credential, a_device, a_thing, new_database

DROPPED = {"state": CredentialState.DROPPED, "dropped_at": NOW, "drop_cause": "superseded"}
CONFIRMED = {"state": CredentialState.CONFIRMED, "confirmed_at": NOW}
pytestmark = pytest.mark.unaudited  # rows alone, without what belongs to them


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


@pytest.fixture
def upkeep(database):
    return Upkeep(database)


async def save(database, **credentials):
    """One device for each credential, named by a letter."""
    pairs = []
    for letter, fields in credentials.items():
        device = a_device(f"sn-{letter}")
        one = a_credential(device, letter * 32, **fields)
        pairs.append((None, replace(device, thing=a_thing(device), credentials=(one,))))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple(pairs)))


async def test_dropped_credentials_are_unrevoked_until_they_are_marked(database, upkeep):
    await save(database, a=DROPPED, b=DROPPED, c=DROPPED, d=CONFIRMED, e={})
    first = await upkeep.unrevoked(limit=2)
    assert [one.credential_id[0] for one in first] == ["a", "b"]
    assert [one.credential_id[0] for one in await upkeep.unrevoked(after=first[-1].credential_id)] == ["c"]
    await upkeep.mark_revoked(["a" * 32, "c" * 32, "d" * 32, "0" * 32], NOW)
    assert [one.credential_id[0] for one in await upkeep.unrevoked()] == ["b"]
    await upkeep.mark_revoked(["a" * 32], NOW + timedelta(hours=1))  # keeps its first time
    assert await upkeep.delete_dropped(NOW + timedelta(seconds=1)) == 2
    await upkeep.mark_revoked([], NOW)


async def test_pending_credentials_lapse_in_the_order_of_their_time(database, upkeep):
    await save(
        database,
        a={"expires_at": NOW + timedelta(minutes=2)},
        b={"expires_at": NOW + timedelta(minutes=1)},
        c={"expires_at": NOW + timedelta(minutes=3)},
        d={**CONFIRMED, "expires_at": NOW},
    )
    due = NOW + timedelta(minutes=2)
    assert [one[0] for one in await upkeep.pending_expired(due)] == ["b", "a"]
    assert [one[0] for one in await upkeep.pending_expired(due, limit=1)] == ["b"]
    assert await upkeep.pending_expired(NOW) == []


async def test_only_revoked_rows_older_than_the_time_to_keep_are_deleted(database, upkeep):
    old = {**DROPPED, "dropped_at": NOW - timedelta(minutes=11)}
    await save(database, a={**old, "revoked_at": NOW}, b=old, c={**DROPPED, "revoked_at": NOW}, d=CONFIRMED, e={})
    before = NOW - timedelta(minutes=10)
    assert await upkeep.delete_dropped(before) == 1
    assert await upkeep.delete_dropped(before) == 0
    assert [one[0][0] for one in await upkeep.credential_ids()] == ["b", "c", "d", "e"]


async def test_confirmed_credentials_come_page_by_page(database, upkeep):
    await save(database, a=CONFIRMED, b={}, c=CONFIRMED, d=CONFIRMED, e=DROPPED)
    assert [one[0] for one in await upkeep.confirmed("prod", limit=2)] == ["a", "c"]
    assert [one[0] for one in await upkeep.confirmed("prod", after="c" * 32)] == ["d"]


async def test_the_database_remembers_which_catalogue_all_devices_were_compared_with(upkeep):
    assert await upkeep.refreshed_rev("prod") == 0
    await upkeep.set_refreshed_rev("prod", 4)
    await upkeep.set_refreshed_rev("prod", 7)
    assert await upkeep.refreshed_rev("prod") == 7
    assert await upkeep.refreshed_rev("east") == 0


async def test_every_login_that_a_broker_must_know_comes_with_its_device(database, upkeep):
    await save(database, a=CONFIRMED, b={}, c=DROPPED, d={"environment": "other"})
    found = await upkeep.live(limit=2)
    assert [(device.serial, one.credential_id[0]) for device, one in found] == [("sn-a", "a"), ("sn-b", "b")]
    assert found[0][0].thing.thing_id == "thing-of-sn-a"
    assert [one.credential_id[0] for _, one in await upkeep.live(after="b" * 32)] == ["d"]
    assert [one.credential_id[0] for _, one in await upkeep.live(environment="other")] == ["d"]
    assert await upkeep.live(after="d" * 32) == []


async def test_counters_add_up(database, upkeep):
    await upkeep.add_counters({"refused_wrong_proof": 2, "activated": 1, "nothing": 0})
    await upkeep.add_counters({"refused_wrong_proof": 3})
    await upkeep.add_counters({})
    assert (await stats.collect(database)).counters == {"activated": 1, "refused_wrong_proof": 5}


async def test_only_the_newest_steps_of_each_device_are_kept(database, upkeep):
    async def add(group_id, serial, count, start=0):
        steps = tuple(Trace(group_id, serial, NOW, f"{start + n:016x}", "online", "confirmed") for n in range(count))
        async with SqlStore(database, {}).batch() as batch:
            await batch.save(Changes(traces=steps))

    await add(GROUP.group_id, "busy", 12)
    await add(GROUP.group_id, "quiet", 3)
    await add(DERIVED.group_id, "busy", 5)
    assert await upkeep.prune_traces(keep=5) == 7
    assert await upkeep.prune_traces(keep=5) == 0
    await add(GROUP.group_id, "busy", 1, start=100)
    assert await upkeep.prune_traces(keep=5) == 1
    kept = (await traces.of_device(database, "line-1/busy")).steps
    assert [one.trace.trace_id for one in kept] == [f"{n:016x}" for n in (8, 9, 10, 11, 100)]
    assert len((await traces.of_device(database, "quiet")).steps) == 3
    assert len((await traces.of_device(database, "line-2/busy")).steps) == 5


async def test_pruning_goes_on_where_it_stopped(database, upkeep):
    steps = tuple(Trace(GROUP.group_id, f"sn-{n % 3}", NOW, f"{n:016x}", "online", "seen") for n in range(30))
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(traces=steps))
    deleted = [await upkeep.prune_traces(keep=4, limit=10) for _ in range(4)]
    assert sum(deleted) == 30 - 3 * 4
    assert deleted[-1] == 0


async def test_a_change_of_the_catalogue_is_seen_by_the_next_batch(database, upkeep):
    from service.operations import products

    store = SqlStore(database, {})
    async with store.batch() as batch:
        first = batch.catalogue
    async with store.batch() as batch:
        assert batch.catalogue is first
    rev = await upkeep.catalogue_rev()
    await products.create(database, "lamp", "Lamp", "rev-b")
    assert await upkeep.catalogue_rev() == rev + 1
    async with store.batch() as batch:
        assert set(batch.catalogue.products) == {PRODUCT.product_id, "lamp"}
    assert (await store.catalogue()).rev == rev + 1


async def test_what_the_ticker_asks_each_second_is_answered_from_an_index(database, upkeep):
    asked = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        if "registration_group" not in statement and ("credential" in statement or "trace" in statement):
            asked.append((statement, parameters))

    event.listen(database._connections.engine.sync_engine, "before_cursor_execute", note)
    await upkeep.unrevoked()
    await upkeep.pending_expired(NOW)
    await upkeep.delete_dropped(NOW)
    async with SqlStore(database, {}).batch() as batch:
        await batch.load(serials=[("line-1", "x")], credential_ids=["f" * 32], spki=[b"p" * 32, b"q" * 32])
    event.remove(database._connections.engine.sync_engine, "before_cursor_execute", note)
    plans = []
    with closing(sqlite3.connect(database.path)) as connection:
        for statement, parameters in asked:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append(" / ".join(row[3] for row in rows))
    wanted = [
        "ix_credential_unrevoked",
        "ix_credential_pending",
        "ix_credential_finished",
        "ix_credential_device",
        "SEARCH equipment USING INDEX",
        "uq_credential_spki",
    ]
    assert len(plans) == len(wanted)
    for plan, index in zip(plans, wanted, strict=True):
        assert index in plan
        assert "SCAN revoked_certificate" not in plan
        for table in ("device", "thing", "credential"):
            assert f"SCAN {table}" not in plan


async def test_whoever_is_silent_in_a_firmware_state_is_due_and_nobody_else(database, upkeep):
    late = NOW - timedelta(days=2)
    firmware = {
        "confirmed": Firmware(FirmwareState.CONFIRMED, since=late),
        "silent": Firmware(FirmwareState.DOWNLOADING, since=late),
        "lively": Firmware(FirmwareState.DOWNLOADING, since=NOW),
        "held-back": Firmware(FirmwareState.FAILED),
        "not-now": Firmware(FirmwareState.DEFERRED, since=late, deferred_until=NOW),
        "over": Firmware(FirmwareState.DEFERRED, since=late, deferred_until=late),
        "none": Firmware(),
    }
    devices = [a_device(serial, firmware=one) for serial, one in firmware.items()]
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in devices)))
    assert set(await upkeep.due(NOW)) == {"dev-silent", "dev-over"}
    assert {one.device_id for one in devices if updates.is_due(one.firmware, NOW)} == {"dev-silent", "dev-over"}
    assert len(await upkeep.due(NOW, limit=1)) == 1


async def test_moves_and_successors_are_due_at_their_deadlines_for_the_holder(database, upkeep):
    moving, replaced, new = a_device("moving"), a_device("replaced"), a_device("new")
    move = Move("acme/b", "prod", MoveMethod.MIGRATE, NOW, NOW + timedelta(hours=1))
    moving = replace(moving, thing=a_thing(moving, move=move))
    deadline = NOW + timedelta(hours=2)
    thing = a_thing(replaced, successor_device_id=new.device_id, successor_deadline_at=deadline)
    replaced = replace(replaced, thing=thing)
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, moving), (None, new), (None, replaced))))
    assert await upkeep.due(NOW) == []
    assert await upkeep.due(NOW + timedelta(hours=1)) == ["dev-moving"]
    assert set(await upkeep.due(deadline)) == {"dev-moving", "dev-replaced"}


async def test_a_retired_device_is_due_at_its_deadline(database, upkeep):
    deadline = NOW + timedelta(hours=1)
    retired = a_device("retired", state=DeviceState.RETIRED, retire_deadline_at=deadline, retired_reason="sold")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, retired),)))
    assert await upkeep.due(deadline - timedelta(milliseconds=1)) == []
    assert await upkeep.due(deadline) == ["dev-retired"]


async def test_a_device_is_due_when_the_time_of_its_transfer_is_over(database, upkeep):
    deadline = NOW + timedelta(hours=1)
    sold = a_device("sold", rekey=True, rekey_deadline_at=deadline, rekey_command_id="c1")
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=((None, sold), (None, a_device("open", rekey=True)))))
        stored = (await batch.load(device_ids=["dev-sold"])).by_device_id["dev-sold"]
    assert (stored.rekey_deadline_at, stored.rekey_command_id) == (deadline, "c1")
    assert await upkeep.due(deadline - timedelta(milliseconds=1)) == []
    assert await upkeep.due(deadline) == ["dev-sold"]


async def test_changes_by_others_are_found_once(database, upkeep):
    device = a_device()
    kinds = ("registered", "move_started", "confirmed", "target_changed")
    async with SqlStore(database, {}).batch() as batch:
        events = tuple(Event(kind, device.group_id, device.serial) for kind in kinds)
        await batch.save(Changes(devices=((None, device),), events=events))
    assert await upkeep.touched("prod", await upkeep.tended_to("prod")) == [
        (2, device.device_id),
        (4, device.device_id),
    ]
    assert await upkeep.touched("prod", 0, limit=1) == [(2, device.device_id)]
    await upkeep.set_tended_to("prod", 4)
    assert await upkeep.touched("prod", await upkeep.tended_to("prod")) == []


async def test_each_environment_has_its_own_devices_and_progress(database, upkeep):
    aged = {**CONFIRMED, "kind": CredentialKind.X509, "certificate_expires_at": NOW + timedelta(days=300)}
    await save(
        database,
        a={**aged, "environment": "east", "certificate_serial": "1"},
        b={**aged, "environment": "west", "certificate_serial": "2"},
        c={"environment": "west"},
    )
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(events=tuple(Event("target_changed", GROUP.group_id, f"sn-{one}") for one in "abc")))
    year = NOW + timedelta(days=365)
    places = ("east", "west")
    assert [await upkeep.confirmed(one) for one in places] == [["a" * 32], ["b" * 32]]
    assert [await upkeep.renewable(one, NOW, year) for one in places] == [["dev-sn-a"], ["dev-sn-b"]]
    # Nobody need reach a device that has no confirmed credential.
    touched = [[device_id for _, device_id in await upkeep.touched(one, 0)] for one in places]
    assert touched == [["dev-sn-a", "dev-sn-c"], ["dev-sn-b", "dev-sn-c"]]
    await upkeep.set_refreshed_rev("east", 7)
    await upkeep.set_tended_to("east", 3)
    assert [(await upkeep.refreshed_rev(one), await upkeep.tended_to(one)) for one in places] == [(7, 3), (0, 0)]


async def test_credentials_that_came_to_two_thirds_of_their_life_are_found_once(database, upkeep):
    certificate = {"kind": CredentialKind.X509, "certificate_expires_at": NOW + timedelta(days=300)}
    await save(
        database,
        a={**CONFIRMED, **certificate, "certificate_serial": "1"},
        b={**CONFIRMED},
        c={**certificate, "certificate_serial": "2"},
    )
    at = NOW + timedelta(days=200)
    assert await upkeep.renewable("prod", NOW, at - timedelta(seconds=1)) == []
    assert await upkeep.renewable("prod", NOW, at) == ["dev-sn-a"]
    assert await upkeep.renewable("prod", at, at + timedelta(days=999)) == []
    async with database.write() as transaction:
        await transaction.connection.execute(text("UPDATE registration_group SET credential_life_s = 86400"))
    assert await upkeep.renewable("prod", NOW, NOW + timedelta(hours=15)) == []
    assert await upkeep.renewable("prod", NOW, NOW + timedelta(hours=16)) == ["dev-sn-b"]


async def test_api_keys_at_the_end_of_their_group_s_life_are_found(database, upkeep):
    certificate = {"kind": CredentialKind.X509, "certificate_expires_at": NOW, "certificate_serial": "1"}
    await save(database, a={**CONFIRMED}, b={**CONFIRMED, **certificate}, c={})
    year = NOW + timedelta(days=365)
    assert await upkeep.outlived(year) == []
    async with database.write() as transaction:
        await transaction.connection.execute(text("UPDATE registration_group SET credential_life_s = 86400"))
    assert await upkeep.outlived(NOW + timedelta(seconds=86399)) == []
    assert await upkeep.outlived(NOW + timedelta(seconds=86400)) == ["a" * 32]
    assert await upkeep.outlived(year, limit=0) == []
