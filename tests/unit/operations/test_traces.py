"""What happened to a device, and to those that held its thing before."""

from __future__ import annotations

import pytest

from service.domain.changes import Changes, Trace
from service.domain.device import DeviceState
from service.errors import ServiceError
from service.operations import devices, looking, traces
from service.operations.accounts import THIS_MACHINE
from service.storage.store import SqlStore
from tests.support.storage import DERIVED, GROUP, NOW, a_device, new_database


@pytest.fixture
async def database(tmp_path):
    opened = await new_database(tmp_path / "firstlight.db")
    yield opened
    await opened.close()


async def save(database, *made, traces=()):
    async with SqlStore(database, {}).batch() as batch:
        await batch.save(Changes(devices=tuple((None, one) for one in made), traces=traces))


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


async def test_a_trace_shows_each_step_with_cause_and_hint(database):
    await save(database, a_device())
    steps = (
        Trace(GROUP.group_id, "sn-1", NOW, "1" * 16, "activate", "refused", "NOT_ALLOCATED", "not_allocated", "no OU"),
        Trace(GROUP.group_id, "sn-1", NOW, "2" * 16, "activate", "activated", credential_id="c" * 32),
        Trace(DERIVED.group_id, "sn-9", NOW, "3" * 16, "activate", "refused", "NOT_ALLOCATED", "not_allocated"),
    )
    await save(database, traces=steps)
    found = await traces.of_device(database, "sn-1")
    assert [one.trace for one in found.steps] == list(steps[:2])
    assert "environment" in found.steps[0].hint
    assert found.steps[1].hint == ""
    assert str((await traces.of_device(database, "sn-9")).name) == "line-2/sn-9"  # proven, though never registered
    assert await refused(traces.of_device(database, "nobody")) == ("NOT_FOUND", "device_unknown")
    assert await refused(traces.of_device(database, "a/b/c")) == ("BAD_REQUEST", "device_illegal")


async def test_a_trace_shows_what_was_before_the_replacement_and_who_holds_the_thing_now(database):
    made = [
        a_device("first", state=DeviceState.REPLACED, replaced_by="dev-second"),
        a_device("second", state=DeviceState.REPLACED, replaced_by="dev-third"),
        a_device("third"),
    ]
    steps = tuple(Trace(GROUP.group_id, one.serial, NOW, "1" * 16, "activate", one.serial) for one in made)
    await save(database, *made, traces=steps)

    def seen(found):
        return [one.trace.step for one in found.steps]

    newest = await traces.of_device(database, "third")
    assert ([seen(one) for one in newest.before], seen(newest), newest.now) == (
        [["first"], ["second"]],
        ["third"],
        None,
    )
    middle = await traces.of_device(database, "second")
    assert ([seen(one) for one in middle.before], seen(middle)) == ([["first"]], ["second"])
    assert str(middle.now) == "line-1/third"
    told = await looking.trace(database, THIS_MACHINE, "line-1/second")
    assert (told["before"], told["now"]) == (["line-1/first"], "line-1/third")
    nobody = await looking.trace(database, THIS_MACHINE, "line-1/third", limit=1)
    assert "now" not in nobody


async def test_an_ambiguous_serial_names_its_candidates(database):
    await save(database, a_device(), a_device(group_id=DERIVED.group_id, device_id="other"))
    with pytest.raises(ServiceError) as caught:
        await traces.of_device(database, "sn-1")
    assert caught.value.state == {"candidates": ["line-1/sn-1", "line-2/sn-1"]}


async def test_a_chain_of_replacements_is_shown_from_any_of_its_devices(database):
    made = [
        a_device("first", state=DeviceState.REPLACED, replaced_by="dev-second"),
        a_device("second", state=DeviceState.REPLACED, replaced_by="dev-third"),
        a_device("third"),
        a_device("alone"),
    ]
    await save(database, *made)
    whole = ["line-1/first", "line-1/second", "line-1/third"]
    assert [await devices.chain(database, one) for one in made] == [whole, whole, whole, ["line-1/alone"]]
