"""An image of 1 GiB is stored, verified and streamed to its last chunk in no more memory than a small one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from device_sdk.wire import frames, topics
from service.images.files import ImageFiles, pages_of
from tests.support.pipeline_site import Peer, catalogue, running, version

GIB = 1024**3
END = b"the end"
CHUNK = 16 * 1024
MAX_MORE_BYTES = 32 * 1024**2  # the cache of pages has 16 of them


def reset_peak() -> int:
    """Forget the peak of this process so far; the bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def sparse(path: Path) -> Path:
    """1 GiB that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(GIB)
        file.seek(GIB - len(END))
        file.write(END)
    return path


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_an_image_of_one_gibibyte_is_stored_verified_and_streamed_in_little_memory(tmp_path: Path) -> None:
    source, images = sparse(tmp_path / "source"), ImageFiles(tmp_path / "images")
    before = reset_peak()
    stored = await images.put(pages_of(source))
    assert stored.size == GIB
    assert await asyncio.to_thread(images.verify, stored.image_id) == GIB
    world = catalogue(target=version(image_id=stored.image_id, size=GIB))
    async with running(tmp_path, world=world, images=images) as site:
        peer = Peer(site)
        await peer.activate()
        await peer.online()
        total = frames.chunk_count(GIB, CHUNK)
        window = {"id": "f", "image": bytes.fromhex(stored.image_id)[:8], "stream": 1, "chunk_size": CHUNK}
        asked = peer.pack({**window, "first": total - 64, "count": 64})
        site.op.send(topics.up("c", peer.credential_id, "fetch"), asked)
        await site.settle()
        topic = topics.down("c", peer.credential_id, "chunk")
        got = [frames.decode_chunk(payload) for to, payload in site.op.published if to == topic]
    assert [one[1] for one in got] == list(range(total - 64, total))
    assert b"".join(one[3] for one in got) == bytes(64 * CHUNK - len(END)) + END
    assert [one[4] for one in got] == [False] * 63 + [True]
    more = _status("VmHWM") - before
    images.remove(stored.image_id)  # pytest keeps the folder
    print(f"\nan image of 1 GiB: {more / 1024**2:.1f} MiB more at the peak")
    assert more < MAX_MORE_BYTES
