"""Fetch through the pipeline: exactly the chunks asked for, or a documented refusal; fair and bounded."""

import asyncio
import hashlib

import pytest

from device_sdk.wire import codes, frames, limits, topics
from service.errors import ServiceError
from service.images.pages import Pages
from service.pipeline.bounds import Bounds
from tests.support.pipeline_site import IMAGE, IMAGE_ID, MemoryImages, Peer, catalogue, registered, running, version

TOTAL = frames.chunk_count(len(IMAGE), 256)
RANGE = {"image": bytes.fromhex(IMAGE_ID)[:8], "stream": 9, "chunk_size": 256, "first": 0, "count": 1}


async def confirmed(site, serial="sn-1") -> Peer:
    peer = Peer(site, serial)
    peer.session = hashlib.sha256(serial.encode()).hexdigest()[:32]
    await peer.activate()
    await peer.online()
    return peer


def send(peer, **fields) -> None:
    body = {name: value for name, value in {"id": "f", **RANGE, **fields}.items() if value is not None}
    peer.site.op.send(topics.up("c", peer.credential_id, "fetch"), peer.pack(body))


def chunks(site, peer) -> list[tuple]:
    topic = topics.down("c", peer.credential_id, "chunk")
    return [frames.decode_chunk(payload) for to, payload in site.op.published if to == topic]


async def test_a_bitmap_gets_exactly_its_chunks_in_order(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer, first=20, count=None, bitmap=bytes.fromhex("130010"))
        await site.settle()
        got = chunks(site, peer)
        assert [index for _, index, _, _, _ in got] == [20, 21, 24, 40]
        for stream, index, prefix, data, last in got:
            assert (stream, prefix, last) == (9, bytes.fromhex(IMAGE_ID)[:8], index == TOTAL - 1)
            assert data == IMAGE[index * 256 : (index + 1) * 256]
        assert not [topic for topic, _ in site.op.published if topic.endswith("/dn/fetch")]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512])
async def test_the_last_chunk_is_the_rest(tmp_path, size):
    image = bytes(size)
    image_id = hashlib.sha256(image).hexdigest()
    world = catalogue(target=version(image_id=image_id, size=size))
    async with running(tmp_path, world=world, images=MemoryImages(image)) as site:
        peer = await confirmed(site)
        send(peer, image=bytes.fromhex(image_id)[:8], count=frames.chunk_count(size, 256))
        await site.settle()
        got = chunks(site, peer)
        assert b"".join(one[3] for one in got) == image
        assert [one[4] for one in got] == [False] * (len(got) - 1) + [True]


BAD_RANGES = {
    "a chunk size that is no power of two": {"chunk_size": 300},
    "a chunk size of 128": {"chunk_size": 128},
    "a chunk size above the service's": {"chunk_size": 32768},
    "no chunk at all": {"count": 0},
    "one beyond the last": {"first": TOTAL - 1, "count": 2},
    "only beyond the last": {"first": TOTAL},
    "far beyond the last": {"first": 2**53 - 1},
    "a count of 2^53-1": {"count": 2**53 - 1},
    "257 chunks": {"count": 257},
    "neither count nor bitmap": {"count": None},
    "both count and bitmap": {"bitmap": b"\x01"},
    "an empty bitmap": {"count": None, "bitmap": b""},
    "a bitmap of zeros": {"count": None, "bitmap": bytes(4)},
    "a bitmap with a bit beyond the last": {"count": None, "first": TOTAL - 2, "bitmap": b"\x05"},
    "a bitmap of 257 bits": {"count": None, "bitmap": b"\xff" * 33},
}


@pytest.mark.parametrize("fields", BAD_RANGES.values(), ids=BAD_RANGES)
async def test_an_impossible_range_is_refused_and_no_chunk_is_sent(tmp_path, fields):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        for _ in range(2):  # asked of the rules first, then by its permit
            send(peer, **fields)
            reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
            assert (reply["code"], reply["chunk_size_min"], reply["chunk_size_max"]) == (codes.RANGE, 256, 16384)
            assert reply["id"] == "f"
        assert chunks(site, peer) == []
        assert site.counted("range") == 2
        told = [(one.verb, one.code, one.cause, one.credential_id) for one in site.pipeline.record.unproven]
        assert told == [("fetch", codes.RANGE, "range", peer.credential_id)] * 2


async def test_a_window_of_more_than_a_mebibyte_is_refused(tmp_path):
    image = bytes(3 * 1024 * 1024)
    image_id = hashlib.sha256(image).hexdigest()
    world = catalogue(target=version(image_id=image_id, size=len(image)))
    async with running(tmp_path, world=world, images=MemoryImages(image)) as site:
        peer = await confirmed(site)
        asked = {"image": bytes.fromhex(image_id)[:8], "chunk_size": 16384}
        send(peer, **asked, count=65)
        reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
        assert reply["code"] == codes.RANGE
        send(peer, **asked, count=64)
        await site.settle()
        assert len(chunks(site, peer)) == 64


async def test_only_the_wanted_image_is_served(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        for image in (bytes(8), hashlib.sha256(b"another").digest()[:8]):
            send(peer, image=image)
            reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
            assert reply["code"] == codes.IMAGE_UNKNOWN
        assert site.counted("image_unknown") == 2


async def test_a_changed_target_ends_the_permit(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer)
        await site.settle()
        site.set_catalogue(catalogue(target=None))
        site.clock.advance(1.1)
        send(peer)
        reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
        assert reply["code"] == codes.IMAGE_UNKNOWN


async def test_a_permit_saves_the_look_up(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer)
        await site.settle()
        site.store.batch = None  # any use would fail
        for _ in range(3):
            send(peer)
            await site.settle()
        assert len(chunks(site, peer)) == 4
        assert site.op.acknowledged == 5


async def test_more_chunks_than_may_be_outstanding_are_throttled(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer)
        await site.settle()
        site.op.blocked = asyncio.Event()
        fit = limits.MAX_OUTSTANDING_CHUNKS // TOTAL
        for _ in range(fit + 1):
            send(peer, count=TOTAL)
        site.op.blocked.set()
        reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
        assert (reply["code"], site.counted("throttled_windows")) == (codes.THROTTLED, 1)
        await site.settle()
        assert len(chunks(site, peer)) == 1 + fit * TOTAL


@pytest.mark.parametrize(
    ("bounds", "cause"),
    [
        (Bounds(thing_bytes_burst=512, thing_bytes_rate=256), "throttled_thing_bytes"),
        (Bounds(stream_bytes_burst=512, stream_bytes_rate=256), "throttled_stream_bytes"),
    ],
)
async def test_byte_budgets_throttle_and_refill(tmp_path, bounds, cause):
    async with running(tmp_path, bounds=bounds) as site:
        peer = await confirmed(site)
        send(peer, count=2)
        await site.settle()
        send(peer)
        reply = peer.unpack(await site.op.next(topics.down("c", peer.credential_id, "fetch")))
        assert (reply["code"], site.counted(cause)) == (codes.THROTTLED, 1)
        site.clock.advance(1)
        send(peer)
        await site.settle()
        assert len(chunks(site, peer)) == 3


async def test_a_large_window_delays_another_thing_by_one_turn_only(tmp_path):
    devices = [registered("sn-1"), registered("sn-2")]
    async with running(tmp_path, devices=devices, bounds=Bounds(turn_bytes=1024)) as site:
        greedy, modest = await confirmed(site, "sn-1"), await confirmed(site, "sn-2")
        for peer in (greedy, modest):
            send(peer)
        await site.settle()
        site.op.published.clear()
        send(greedy, count=TOTAL)
        send(modest, count=4)
        await site.settle()
        owners = [topic.split("/")[2] for topic, _ in site.op.published]
        last = max(at for at, owner in enumerate(owners) if owner == modest.credential_id)
        assert last <= 12
        assert len(owners) == TOTAL + 4


async def test_a_dropped_credential_gets_no_more_chunks(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer)
        await site.settle()
        site.op.blocked = asyncio.Event()
        send(peer, count=TOTAL)
        await asyncio.sleep(0)
        site.pipeline.streamer.forget([peer.credential_id])
        site.op.blocked.set()
        await site.settle()
        assert len(chunks(site, peer)) <= 2


async def test_a_link_that_goes_down_ends_its_windows(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        site.op.down = True
        send(peer, count=TOTAL)
        await site.settle()
        site.op.down = False
        send(peer, count=1)
        await site.settle()
        assert len(chunks(site, peer)) == 1


async def test_an_image_whose_file_is_gone_sends_nothing_and_is_counted(tmp_path):
    async with running(tmp_path, images=MemoryImages(b"another")) as site:
        site.images.open = _missing
        peer = await confirmed(site)
        send(peer)
        await site.settle()
        assert chunks(site, peer) == []
        assert site.counted("image_unreadable") == 1


def _missing(image_id):
    raise ServiceError(codes.IMAGE_UNKNOWN, "no such image", cause="image_file_missing")


async def test_devices_on_the_same_image_share_its_pages(tmp_path):
    devices = [registered(f"sn-{n}") for n in range(5)]
    async with running(tmp_path, devices=devices) as site:
        peers = [await confirmed(site, f"sn-{n}") for n in range(5)]
        for peer in peers:
            send(peer, count=TOTAL)
        await site.settle()
        assert all(b"".join(one[3] for one in chunks(site, peer)) == IMAGE for peer in peers)
        assert site.images.reads == 1


async def test_no_more_pages_and_files_are_kept_than_their_bounds():
    images = [bytes([n]) * 4096 for n in range(5)]
    files = MemoryImages(*images)
    pages = Pages(files, page_bytes=1024, cache_bytes=2048, open_images=2)
    for image in images:
        for number in range(4):
            page = await pages.get(hashlib.sha256(image).hexdigest(), number)
            assert page == image[:1024]
            assert len(pages._pages) <= 2
            assert len(pages._open) <= 2
    pages.close()


async def test_a_fault_while_a_window_is_sent_costs_that_window(tmp_path):
    async with running(tmp_path) as site:
        peer = await confirmed(site)
        send(peer, count=None, bitmap=b"\x01")
        await site.settle()
        site.op.published.clear()
        site.op.faults.append(KeyError("a bug"))
        send(peer, count=3)
        await site.settle()
        assert chunks(site, peer) == []
        assert site.counted("internal_fault") == 1
        send(peer, count=3)
        await site.settle()
        assert [one[1] for one in chunks(site, peer)] == [0, 1, 2]
