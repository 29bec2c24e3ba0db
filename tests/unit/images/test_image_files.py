"""Image files: whole or not there, named by their hash, read by pages."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time

import pytest

from service.errors import ServiceError
from service.images import files
from service.images.files import ImageFiles, measure, pages_of


@pytest.fixture
def images(tmp_path):
    return ImageFiles(tmp_path / "images")


async def put(images, data, **options):
    return await images.put(iter([data[:3], data[3:]]), **options)


async def test_an_image_comes_back_by_its_hash(images, tmp_path):
    data = bytes(range(256)) * 5
    stored = await put(images, data)
    assert (stored.image_id, stored.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (tmp_path / "images" / stored.image_id[:2] / stored.image_id).read_bytes() == data
    with images.open(stored.image_id) as image:
        assert image.size == len(data)
        assert image.read(0, 4) == data[:4]
        assert image.read(1000, 100) == data[1000:1100]
        assert image.read(len(data) - 1, 100) == data[-1:]
        assert image.read(len(data), 1) == b""
    assert images.verify(stored.image_id) == len(data)
    assert list(images.stored()) == [stored.image_id]


async def test_the_same_bytes_again_change_nothing(images):
    assert await put(images, b"same bytes") == await put(images, b"same bytes")
    assert len(list(images.stored())) == 1


@pytest.mark.parametrize(
    ("data", "expected", "cause"), [(b"", None, "image_empty"), (b"other", "0" * 64, "image_mismatch")]
)
async def test_a_wrong_image_leaves_no_file(images, tmp_path, data, expected, cause):
    with pytest.raises(ServiceError) as refused:
        await put(images, data, expected=expected)
    assert (refused.value.code, refused.value.cause) == ("BAD_REQUEST", cause)
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []


async def test_an_image_that_begins_like_another_is_refused(images, tmp_path):
    image_id = hashlib.sha256(b"new").hexdigest()
    twin = tmp_path / "images" / image_id[:2] / (image_id[:16] + "0" * 48)
    twin.parent.mkdir(parents=True)
    twin.write_bytes(b"another")
    with pytest.raises(ServiceError) as refused:
        await put(images, b"new")
    assert (refused.value.code, refused.value.cause) == ("CONFLICT", "image_prefix_taken")
    assert list(images.stored()) == [twin.name]


async def test_a_source_that_breaks_off_leaves_no_file(images, tmp_path):
    def broken():
        yield b"first"
        raise OSError(5, "read error")

    with pytest.raises(ServiceError) as refused:
        await images.put(broken())
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "image_storage")
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []


def test_an_unknown_image_is_unknown_and_an_illegal_name_is_an_error(images):
    with pytest.raises(ServiceError) as refused:
        images.open("0" * 64)
    assert refused.value.code == "IMAGE_UNKNOWN"
    for name in ("", "../../etc/passwd", "0" * 63, "G" * 64):
        with pytest.raises(ValueError, match="image id"):
            images.open(name)
    images.remove("0" * 64)


async def test_a_damaged_image_is_found(images):
    stored = await put(images, b"good bytes")
    path = images.path(stored.image_id)
    path.chmod(0o600)
    path.write_bytes(b"evil bytes")
    with pytest.raises(ServiceError) as refused:
        images.verify(stored.image_id)
    assert refused.value.cause == "image_damaged"


async def test_a_removed_image_can_still_be_read_by_who_has_it_open(images):
    stored = await put(images, b"still here")
    with images.open(stored.image_id) as image:
        images.remove(stored.image_id)
        assert image.read(0, 100) == b"still here"
    image.close()
    assert list(images.stored()) == []


def test_a_file_is_measured_by_pages(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert measure(path).size == 3_000_000
    assert measure(path).image_id == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert [len(page) for page in pages_of(path)] == [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]


def test_an_image_larger_than_the_memory_it_may_take_is_stored_and_read(tmp_path):
    run = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 32 * 1024 * 1024 // (1 if sys.platform == "darwin" else 1024)


LARGE = """
import resource, sys
from pathlib import Path
from service.images.files import PAGE_BYTES, ImageFiles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = ImageFiles(Path(sys.argv[1], "images"))
stored = images.store(bytes([n]) * PAGE_BYTES for n in range(128))
with images.open(stored.image_id) as image:
    assert image.read(127 * PAGE_BYTES, 4) == bytes([127]) * 4
images.verify(stored.image_id)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_disk_without_room_is_unavailable(images, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ServiceError) as refused:
            images.store([b"x" * 200_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (refused.value.code, refused.value.cause) == ("UNAVAILABLE", "image_storage")
    assert refused.value.retry_after_s is not None
    assert [one for one in (tmp_path / "images").rglob("*") if one.is_file()] == []


def test_what_a_process_that_died_has_left_is_removed_and_what_another_writes_is_not(images, tmp_path):
    images.store([b"first"])
    incoming = next(tmp_path.rglob("incoming"))
    dead, alive = incoming / "dead", incoming / "alive"
    for path in (dead, alive):
        path.write_bytes(b"x")
    os.utime(dead, (0, time.time() - files.LEFT_AFTER_S - 60))
    images.store([b"second"])
    assert [*incoming.iterdir()] == [alive]
