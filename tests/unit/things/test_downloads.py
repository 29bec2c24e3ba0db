"""Firmware by pages: never more of an image in memory than one, and never more downloads than a thing may have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from service.errors import ServiceError
from service.http import things_firmware
from service.http.things_firmware import PAGE_BYTES, Part, _pages
from service.images.streamer import MAX_DOWNLOADS, StreamBounds, Streamer
from service.pipeline.throttle import BucketTable

IMAGE = bytes(range(256)) * 1000  # 256,000 bytes: six pages


class Images:
    """One image; notes what is read and whether it is closed."""

    def __init__(self, image: bytes = IMAGE) -> None:
        self.image, self.reads, self.closed = image, [], 0

    def open(self, _image_id):
        return self

    def read(self, offset, length):
        self.reads.append((offset, length))
        return self.image[offset : offset + length]

    def close(self):
        self.closed += 1


class Desk:
    def __init__(self):
        self.asked, self.refusal = 0, None

    async def ask(self, *_words, **_more):
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return {"version_id": "v", "name": "2.0", "description": "", "image_id": "ab" * 32, "size": len(IMAGE)}


def streamer():
    many = BucketTable(1e9, 1e9, 10)
    return Streamer(Images(), StreamBounds(), monotonic=lambda: 0.0, per_thing=many, overall=many, count=lambda _: None)


def download(images, desk, part=None):
    target = SimpleNamespace(versionId="v", imageId="ab" * 32, size=len(IMAGE))
    given = SimpleNamespace(images=images, pipeline=SimpleNamespace(streamer=streamer()))
    return _pages(given, desk, "thing", target, part or Part(0, len(IMAGE)))


async def test_no_page_is_read_before_it_can_be_sent():
    images = Images()
    pages = download(images, Desk())
    assert images.reads == []
    got = [await anext(pages)]
    assert images.reads == [(0, PAGE_BYTES)]
    got += [page async for page in pages]
    assert b"".join(got) == IMAGE
    assert max(length for _, length in images.reads) == PAGE_BYTES
    assert images.closed == 1


async def test_only_the_pages_of_a_range_are_read():
    images = Images()
    got = b"".join([page async for page in download(images, Desk(), Part(100_000, 100_010))])
    assert (got, images.reads) == (IMAGE[100_000:100_010], [(100_000, 10)])


async def test_a_download_that_is_given_up_closes_its_image():
    images = Images()
    pages = download(images, Desk())
    await anext(pages)
    await pages.aclose()
    assert images.closed == 1


async def test_a_download_ends_where_the_pipeline_says_no(monkeypatch):
    monkeypatch.setattr(things_firmware, "ASK_AGAIN_S", 0.0)
    images, desk = Images(), Desk()
    pages = download(images, desk)
    await anext(pages)
    desk.refusal = ServiceError("REFUSED", "refused", cause="call_ignored")
    with pytest.raises(ServiceError, match="REFUSED"):
        await anext(pages)
    assert len(images.reads) == 1


async def test_an_image_that_is_shorter_than_promised_is_no_whole_answer():
    with pytest.raises(ServiceError) as caught:
        _ = [page async for page in download(Images(IMAGE[:-1]), Desk())]
    assert caught.value.cause == "image_short"


def test_a_thing_has_so_many_downloads_and_others_their_own():
    one = streamer()
    for _ in range(MAX_DOWNLOADS):
        one.begin_download("thing")
    with pytest.raises(ServiceError, match="THROTTLED"):
        one.begin_download("thing")
    one.begin_download("another")
    one.end_download("thing")
    one.begin_download("thing")
