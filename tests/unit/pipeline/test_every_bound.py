"""One past each bound of pipeline/bounds.py that no other test goes past: what is refused, forgotten or put off."""

from __future__ import annotations

import asyncio

import msgpack

from device_sdk.wire import codes, limits, topics
from service.domain.changes import Trace
from service.pipeline.bounds import Bounds
from service.pipeline.granter import Granter
from service.pipeline.inbound import Admission
from service.pipeline.jobs import FairQueue, Job
from service.pipeline.outbox import Outbox
from service.pipeline.record import Record
from service.pipeline.throttle import BucketTable
from tests.support.fake_link import FakeClock, FakeLink, Role
from tests.support.pipeline_site import Peer, registered, running

CURRENT = msgpack.packb({"id": "1"})


def admission(bounds: Bounds, sent: list) -> tuple[Admission, FakeLink, FakeClock]:
    clock, link = FakeClock(), FakeLink(Role.OPERATIONAL)
    gate = Admission(
        bounds, Record(10), (), clock=clock.wall, monotonic=clock.monotonic,
        send=lambda link, topic, payload: sent.append(msgpack.unpackb(payload)["code"]), fetch=lambda job: False,
    )  # fmt: skip
    link.deliver = gate.deliver
    return gate, link, clock


def test_a_device_may_ask_for_windows_as_fast_as_they_may_be_sent():
    bounds = Bounds()
    assert bounds.credential_rate * limits.MAX_WINDOW_BYTES >= bounds.thing_bytes_rate


async def test_one_operational_request_too_many_is_throttled():
    sent: list[str] = []
    gate, link, _ = admission(Bounds(queued_requests=2), sent)
    for number in range(3):
        link.send(topics.up("c", f"{number:032x}", "current"), CURRENT)
    assert sent == [codes.THROTTLED]
    assert len(gate.take_batch()) == 2


async def test_a_credential_above_its_rate_is_throttled_and_refills():
    sent: list[str] = []
    _, link, clock = admission(Bounds(credential_burst=2, credential_rate=1), sent)
    for _ in range(3):
        link.send(topics.up("c", "1" * 32, "current"), CURRENT)
    link.send(topics.up("c", "2" * 32, "current"), CURRENT)
    assert sent == [codes.THROTTLED]
    clock.advance(1)
    link.send(topics.up("c", "1" * 32, "current"), CURRENT)
    assert sent == [codes.THROTTLED]


async def test_a_batch_leaves_what_is_above_its_bound_for_the_next():
    gate, link, _ = admission(Bounds(batch_messages=4), [])
    for number in range(5):
        link.send(topics.up("c", f"{number:032x}", "current"), CURRENT)
    assert [len(gate.take_batch()), len(gate.take_batch())] == [4, 1]


def test_one_activate_too_many_finds_no_room():
    queue = FairQueue(2, 2)  # queued_activates, queued_per_session
    room = [queue.offer(Job("activate", owner, operational=False, trace_id="")) for owner in "123"]
    assert room == [True, True, False]


def test_one_reply_too_many_is_dropped_and_counted():
    record = Record(1)
    outbox = Outbox(FakeLink(Role.BOOTSTRAP), 2, record)
    for _ in range(3):
        outbox.put("topic", b"")
    assert record.take_counters() == {"reply_dropped_full": 1}


def test_the_oldest_unproven_trace_makes_room():
    record = Record(2)
    for serial in ("1", "2", "3"):
        record.remember(Trace("g", serial, FakeClock().wall(), "", "hello", "refused", None, None, "", None))
    assert [one.serial for one in record.unproven] == ["2", "3"]


def test_a_table_of_buckets_is_no_longer_than_its_bound():
    table = BucketTable(1.0, 1.0, 2)
    for key in "123":
        assert table.take(key, 0.0)
    assert len(table) == 2


async def test_a_group_above_its_rate_is_throttled_only_after_the_proof(tmp_path):
    bounds = Bounds(group_burst=1, group_rate=0.001)
    async with running(tmp_path, bounds=bounds, devices=[registered(), registered("sn-2")]) as site:
        assert (await Peer(site).activate())["ok"]
        refused = await Peer(site, "sn-2").activate()
        assert refused["code"] == codes.THROTTLED
        assert site.counted("throttled_group") == 1


class Slow:
    """A gate that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.go = asyncio.Event()

    async def grant(self, logins) -> None:
        self.calls.append(len(logins))
        await self.go.wait()


class Login:
    def __init__(self, credential_id: str) -> None:
        self.credential_id = credential_id


async def test_grants_go_in_bounded_batches_and_one_too_many_is_refused():
    gate, done = Slow(), []
    granter = Granter(gate, Bounds(grant_batch=2, grants_waiting=3), Record(1))
    for name in "1234":
        granter.submit(Login(name), done.append)
    assert [error.code for error in done] == [codes.UNAVAILABLE]
    gate.go.set()
    async with asyncio.TaskGroup() as group:
        running_task = group.create_task(granter.run())
        async with asyncio.timeout(30):
            while len(done) < 4:
                await asyncio.sleep(0)
        running_task.cancel()
    assert gate.calls == [2, 1]


async def test_a_gate_that_does_not_answer_in_its_time_is_unavailable():
    gate, done = Slow(), []
    granter = Granter(gate, Bounds(gate_timeout_s=0.01), Record(1))
    granter.submit(Login("1"), done.append)
    async with asyncio.TaskGroup() as group:
        running_task = group.create_task(granter.run())
        async with asyncio.timeout(30):
            while not done:
                await asyncio.sleep(0.001)
        running_task.cancel()
    assert done[0].code == codes.UNAVAILABLE
