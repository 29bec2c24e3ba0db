"""A secret over 16 KiB: an image of its own for one unit, which nobody else may have and which is nowhere in a file."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

from device_sdk.wire import codes, frames, topics
from service.domain.manifest import ItemKind
from service.domain.warehouse import Step
from service.errors import Secret
from tests.support.pipeline_site import running
from tests.support.staged_peer import AUTHORITY, StagedPeer, build, change_unit, handed_over, item
from tests.unit.pipeline.test_warehouse import fetched

PLAIN = random.Random(4).randbytes(40_000)
VAULT = item("vault", PLAIN, ItemKind.SECRET, "3", content=None, secret=Secret(PLAIN))
BUILD = build(AUTHORITY, VAULT)
CHUNK = 4096


def units(*serials):
    return [handed_over(one, offered=BUILD) for one in serials]


async def staged(site, serial="sn-1", call=0, encoding="msgpack"):
    """(its peer, the vault's SHA-256 as the manifest says it, what it downloads). `call`: another one is no repeat."""
    peer = StagedPeer(site, serial, encoding=encoding)
    peer.nonce = bytes([call]) * 16
    assert (await peer.stage())["ok"]
    (told,) = [one for one in peer.manifest["items"] if one["name"] == "vault"]
    assert told["image"] is True
    return peer, peer.raw(told["sealed"]), await download(site, peer, peer.raw(told["sealed"]), told["size"] + 28)


async def download(site, peer, digest: bytes, size: int) -> bytes:
    content = b""
    count = frames.chunk_count(size, CHUNK)
    body = {"id": "f", "stream": 0, "chunk_size": CHUNK, "first": 0, "count": count}
    site.op.send(topics.up("c", peer.credential_id, "fetch"), peer.pack({**body, "image": digest[:8]}))
    for index in range(count):
        _, at, prefix, data, last = frames.decode_chunk(
            await site.op.next(topics.down("c", peer.credential_id, "chunk"))
        )
        assert (at, prefix, last) == (index, digest[:8], index == count - 1)
        content += data
    return content


async def test_each_unit_downloads_its_own_and_opens_it(tmp_path):
    async with running(tmp_path, devices=units("sn-1", "sn-2")) as site:
        peer, digest, sealed = await staged(site)
        other, others, foreign = await staged(site, "sn-2")
        for one, said, got in ((peer, digest, sealed), (other, others, foreign)):
            assert hashlib.sha256(got).digest() == said
            assert len(got) == len(PLAIN) + 28
            assert one.opened("vault", "3", got) == PLAIN
        assert digest != others
        assert PLAIN[:64] not in sealed
        # Nothing of it is in a file, nor with the device.
        assert [one for one in tmp_path.rglob("*") if one.is_file() and PLAIN[:64] in one.read_bytes()] == []
        assert await download(site, peer, digest, len(sealed)) == sealed  # however often it is asked for


async def test_nobody_else_gets_it(tmp_path):
    async with running(tmp_path, devices=[*units("sn-1", "sn-2"), handed_over("sn-3")]) as site:
        _, digest, _ = await staged(site)
        # Another unit of the same build, before and after it was given its own; one of another build.
        other = StagedPeer(site, "sn-2")
        await other.stage()
        assert (await fetched(site, other, digest.hex()))["code"] == codes.IMAGE_UNKNOWN
        assert (await fetched(site, other, VAULT.sha256))["code"] == codes.IMAGE_UNKNOWN
        own = next(one["sealed"] for one in other.manifest["items"] if one["name"] == "vault")
        assert isinstance(await fetched(site, other, own.hex()), bytes)
        assert (await fetched(site, other, digest.hex()))["code"] == codes.IMAGE_UNKNOWN
        third = StagedPeer(site, "sn-3")
        await third.stage()
        assert (await fetched(site, third, digest.hex()))["code"] == codes.IMAGE_UNKNOWN
        # It comes by `fetch` only.
        assert (await other.ask("c", "item", {"name": "vault", "offset": 0}))["code"] == codes.NOT_FOUND


async def test_at_its_site_a_unit_downloads_no_secret_any_more(tmp_path):
    async with running(tmp_path, devices=units("sn-1")) as site:
        peer, digest, _ = await staged(site)
        await peer.all_work()
        assert (await peer.staged())["ok"]
        peer.boot_count += 1
        assert (await peer.online())["ok"]
        site.clock.advance(2)
        assert (await fetched(site, peer, digest.hex()))["code"] == codes.IMAGE_UNKNOWN


async def test_a_service_that_was_started_anew_goes_on_with_the_same_image(tmp_path):
    async with running(tmp_path, devices=units("sn-1")) as before:
        peer, digest, sealed = await staged(before)
        device = before.store.device("line-1", "sn-1")
    async with running(tmp_path, devices=[device]) as site:
        peer.site = site
        assert await download(site, peer, digest, len(sealed)) == sealed


async def test_a_unit_that_is_staged_anew_gets_the_same_secret_sealed_alike_and_another_one_otherwise(tmp_path):
    async with running(tmp_path, devices=units("sn-1")) as site:
        _, digest, sealed = await staged(site)
        change_unit(site, step=Step.RECEIVED, staged_at=None, items={})
        _, again, _ = await staged(site, call=1)
        assert again == digest
        changed = PLAIN[::-1]
        newer = item("vault", changed, ItemKind.SECRET, "3", content=None, secret=Secret(changed))
        change_unit(site, step=Step.RECEIVED, staged_at=None, items={}, offered=build(newer, name="build-8"))
        peer, third, other = await staged(site, call=2)
        assert third != digest
        assert other[:12] != sealed[:12]  # the same key: never the same nonce
        assert peer.opened("vault", "3", other) == changed


async def test_json_says_the_same(tmp_path):
    async with running(tmp_path, devices=units("sn-1")) as site:
        peer, digest, sealed = await staged(site, encoding="json")
        assert hashlib.sha256(sealed).digest() == digest
        assert peer.opened("vault", "3", sealed) == PLAIN


async def test_a_replaced_key_seals_anew(tmp_path):
    """What the memory of digests goes by is the key as it is, not the unit."""
    async with running(tmp_path, devices=units("sn-1")) as site:
        _, digest, _ = await staged(site)
        device = site.store.device("line-1", "sn-1")
        key = b"n" * 32
        site.store.add(replace(device, key=Secret(key)))
        change_unit(site, step=Step.RECEIVED, staged_at=None, items={})
        peer = StagedPeer(site, key=key)
        peer.nonce = b"m" * 16
        await peer.stage()
        told = next(one["sealed"] for one in peer.manifest["items"] if one["name"] == "vault")
        assert told != digest
        assert peer.opened("vault", "3", await download(site, peer, told, len(PLAIN) + 28)) == PLAIN
