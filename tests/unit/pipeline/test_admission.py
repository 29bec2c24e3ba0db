"""What is refused before a look-up, and that a flood of one delays nobody else, in virtual time."""

import asyncio
import hashlib

import msgpack
import pytest

from device_sdk.wire import codes, topics
from service.pipeline.bounds import Bounds
from service.pipeline.inbound import Admission
from service.pipeline.jobs import FairQueue, Job
from service.pipeline.record import Record
from service.pipeline.throttle import Bucket, BucketTable
from tests.support.fake_link import FakeClock, FakeLink, Role
from tests.support.pipeline_site import Peer, registered, running

FOREIGN = {
    "another root": "pv2/b/" + "a" * 32 + "/up/hello",
    "a session that is too short": "pv1/b/abc/up/hello",
    "a session in capitals": "pv1/b/" + "A" * 32 + "/up/hello",
    "a level more": "pv1/b/" + "a" * 32 + "/up/hello/x",
    "a reply topic": "pv1/b/" + "a" * 32 + "/dn/hello",
    "the other broker's space": "pv1/c/" + "a" * 32 + "/up/hello",
    "an unknown space": "pv1/z/" + "a" * 32 + "/up/hello",
    "a verb in capitals": "pv1/b/" + "a" * 32 + "/up/HELLO",
    "a verb of 17 letters": "pv1/b/" + "a" * 32 + "/up/" + "a" * 17,
    "nothing": "",
    "a system topic": "$SYS/broker/uptime",
}


@pytest.mark.parametrize("topic", FOREIGN.values(), ids=FOREIGN)
async def test_a_topic_that_is_not_ours_is_counted_and_dropped(tmp_path, topic):
    async with running(tmp_path) as site:
        site.boot.send(topic, msgpack.packb({"id": "1"}))
        await site.settle()
        assert (len(site.boot.published), site.boot.acknowledged) == (0, 1)
        assert site.counted("foreign_topic") == 1


async def test_an_unknown_verb_gets_a_reply(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        assert (await peer.ask("b", "dance", {}))["code"] == codes.UNKNOWN_VERB
        assert (await peer.ask("b", "online", {}))["code"] == codes.UNKNOWN_VERB
        assert not site.store.traces


async def test_what_cannot_be_decoded_is_answered_once_a_session_and_second(tmp_path):
    async with running(tmp_path) as site:
        one, two = "1" * 32, "2" * 32
        for owner in (one, one, one, two):
            site.boot.send(topics.up("b", owner, "hello"), b"\xc1")
        await site.settle()
        assert len(site.boot.published) == 2
        site.clock.advance(1)
        site.boot.send(topics.up("b", one, "hello"), b"{")
        await site.settle()
        assert len(site.boot.published) == 3
        assert site.counted("undecodable") == 5
        assert site.boot.acknowledged == 5
        assert site.store.commits == 0


async def test_a_session_above_its_rate_is_throttled_and_others_are_not(tmp_path):
    async with running(tmp_path, bounds=Bounds(session_burst=3, session_rate=1)) as site:
        peer = Peer(site)
        for _ in range(3):
            await peer.hello()
        reply = await peer.ask("b", "hello", {"group_id": "g", "serial": "s", "nonce": bytes(16)})
        assert reply["code"] == codes.THROTTLED
        assert 1 <= reply["retry_after_s"] <= 5
        other = Peer(site)
        other.session = "9" * 32
        await other.hello()
        site.clock.advance(1)
        await peer.hello()


async def test_hello_needs_no_storage(tmp_path):
    async with running(tmp_path) as site:
        site.store.batch = None  # any use would fail
        for serial in ("sn-1", "sn-404"):
            assert len(await Peer(site, serial).hello()) == 16


def admission(bounds: Bounds, clock: FakeClock, sent: list) -> Admission:
    return Admission(
        bounds, Record(10), (), clock=clock.wall, monotonic=clock.monotonic,
        send=lambda link, topic, payload: sent.append((topic, msgpack.unpackb(payload))), fetch=lambda job: False,
    )  # fmt: skip


async def test_each_queue_refuses_one_past_its_bound():
    clock, sent, link = FakeClock(), [], FakeLink(Role.BOOTSTRAP)
    gate = admission(Bounds(queued_hellos=3, queued_per_session=2, hello_burst=100), clock, sent)
    link.deliver = gate.deliver
    body = msgpack.packb({"id": "1", "group_id": "g", "serial": "s", "nonce": bytes(16)})
    for owner in ("1", "1", "1", "2", "3"):
        link.send(topics.up("b", owner * 32, "hello"), body)
    assert [(topic[6], reply["code"]) for topic, reply in sent] == [("1", codes.THROTTLED), ("3", codes.THROTTLED)]
    assert [job.owner[0] for job in gate.take_hellos(10)] == ["1", "2", "1"]
    assert link.acknowledged == 2  # the others when they are answered


async def test_hellos_and_activates_have_budgets_of_their_own_which_refill_with_time():
    clock, sent, link = FakeClock(), [], FakeLink(Role.BOOTSTRAP)
    gate = admission(Bounds(hello_burst=2, hello_rate=1), clock, sent)
    link.deliver = gate.deliver
    body = msgpack.packb({"id": "1", "group_id": "g", "serial": "s", "nonce": bytes(16)})
    for number in range(5):
        link.send(topics.up("b", f"{number:032x}", "hello"), body)
    assert len(gate.take_hellos(10)) == 2
    assert gate.take_hellos(10) == []
    assert gate.next_hello_s() == pytest.approx(1.0)
    assert gate.next_batch_s() is None
    clock.advance(2)
    assert len(gate.take_hellos(10)) == 2


def test_a_flood_of_one_owner_delays_another_by_one_turn():
    queue = FairQueue(1000, 500)
    for _ in range(400):
        queue.offer(Job("activate", "flood", operational=False, trace_id=""))
    queue.offer(Job("activate", "real", operational=False, trace_id=""))
    assert "real" in [job.owner for job in queue.take(2)]


async def test_a_real_device_activates_while_a_thousand_sessions_flood_its_serial_with_wrong_proofs(tmp_path):
    """Virtual time: the budget of 100 a second is used up by the flood; the real one must be served within 30 s."""
    bounds = Bounds(activate_rate=100, activate_burst=100, queued_per_session=4)
    async with running(tmp_path, bounds=bounds, devices=[registered()]) as site:
        flood = []
        for number in range(1000):
            liar = Peer(site, key=b"wrong" * 6)
            liar.session = hashlib.sha256(b"%d" % number).hexdigest()[:32]
            flood.append((liar, await liar.hello()))

        def shout() -> None:
            for liar, nonce in flood:
                site.boot.send(
                    topics.up("b", liar.session, "activate"), liar.pack({"id": "x", **liar.activate_body(nonce)})
                )

        shout()
        real = Peer(site)
        asking = asyncio.create_task(real.activate())
        began = site.clock.seconds
        while not asking.done():
            site.clock.advance(0.1)
            if int(site.clock.seconds * 10) % 20 == 0:
                shout()
            await asyncio.sleep(0.002)
        assert asking.result()["ok"]
        assert site.clock.seconds - began <= 30


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = Bucket(2, 4, 100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [True] * 4 + [False]
    assert bucket.wait_s(100.0) == pytest.approx(0.5)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)
    assert bucket.take_up_to(200.0, 10) == 4
    assert not bucket.take(50.0)  # a clock that goes back gives nothing


def test_a_bucket_table_forgets_the_longest_unused_one_past_its_bound():
    table = BucketTable(0.001, 1, 2)
    assert table.take("a", 0)
    assert table.take("b", 0)
    assert not table.take("a", 0)
    assert table.take("c", 0)  # forgets b
    assert len(table) == 2
    assert not table.take("a", 0)
    assert table.take("b", 0)
