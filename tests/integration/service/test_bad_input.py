"""Every kind of bad input over real MQTT: the documented code, its own counter, no row, no exception in the log."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgpack
import pytest

from device_sdk.wire import topics
from tests.integration.service.conftest import Running
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
HELLO = {"id": "x", "group_id": "plant-7", "serial": "sn-0", "nonce": bytes(16)}


@asynccontextmanager
async def nothing_comes_of_it(
    running: Running, caplog: pytest.LogCaptureFixture, cause: str, times: int = 1, *, proven: bool = False
) -> AsyncIterator[None]:
    """The cause is counted once, no row changes (steps of a proven device may be traced), nothing is logged as a fault."""
    # `job`: the service makes its jobs known while it starts, beside the first messages.
    but = {"counter", "meta", "job"} | ({"trace"} if proven else set())
    before, rows = await running.settled(cause), running.site.rows(but=but)
    with caplog.at_level(logging.INFO):
        yield
        await until(lambda: running.counted(cause) >= before + times)
    assert await running.settled(cause) == before + times
    assert running.site.rows(but=but) == rows
    assert [r for r in caplog.records if r.exc_info or r.levelno >= logging.WARNING] == []


def packed(**fields: object) -> bytes:
    return msgpack.packb({**HELLO, **fields})


def without(name: str) -> bytes:
    return msgpack.packb({key: value for key, value in HELLO.items() if key != name})


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else 1


def filled(size: int) -> bytes:
    """A good hello of exactly this many bytes."""
    whole = packed(pad=bytes(size - len(packed(pad=bytes(300))) + 300))
    assert len(whole) == size
    return whole


DUPLICATE = b"\x82\xa2id\xa1x\xa2id\xa1y"
UNREADABLE: dict[str, tuple[bytes, str, str]] = {
    "neither MessagePack nor JSON": (b"\xc1 what is this", "BAD_REQUEST", "undecodable"),
    "nothing at all": (b"", "BAD_REQUEST", "undecodable"),
    "broken JSON": (b'{"id": "x"', "BAD_REQUEST", "undecodable"),
    "JSON that is no UTF-8": (b'{"id": "\xff"}', "BAD_REQUEST", "undecodable"),
    "bytes after the end": (packed() + b"\x00", "BAD_REQUEST", "undecodable"),
    "cut off": (packed()[:-1], "BAD_REQUEST", "undecodable"),
    "not a map": (msgpack.packb([1, 2]), "BAD_REQUEST", "not_a_map"),
    "one byte too large": (filled(16385), "TOO_LARGE", "too_large"),
    "a level too deep": (packed(more=nested(8)), "BAD_REQUEST", "too_deep"),
    "JSON a level too deep": (b'{"id":"x","more":' + b"[" * 8 + b"]" * 8 + b"}", "BAD_REQUEST", "too_deep"),
    "a key twice": (DUPLICATE, "BAD_REQUEST", "duplicate_key"),
    "a key twice in JSON": (b'{"id":"x","id":"x"}', "BAD_REQUEST", "duplicate_key"),
    "a key that is no string": (b"\x81\x01\x02", "BAD_REQUEST", "key_not_string"),
    "an extension type": (b"\x82\xa2id\xa1x\xa1t\xd6\xff\x00\x00\x00\x00", "BAD_REQUEST", "undecodable"),
    "NaN": (b'{"id":"x","n":NaN}', "BAD_REQUEST", "not_a_number"),
    "an integer too large": (packed(n=2**53), "BAD_REQUEST", "integer_range"),
    "a negative integer": (packed(n=-1), "BAD_REQUEST", "integer_range"),
    "an id that is no string": (packed(id=7), "BAD_REQUEST", "bad_field"),
    "an id that is too long": (packed(id="x" * 33), "BAD_REQUEST", "bad_field"),
    "an id with a line end": (packed(id="x\n"), "BAD_REQUEST", "bad_field"),
    "no id": (without("id"), "BAD_REQUEST", "bad_field"),
}  # fmt: skip
READABLE: dict[str, tuple[bytes, str, str]] = {
    "a wrong type": (packed(serial=7), "BAD_REQUEST", "bad_field"),
    "text for bytes": (packed(nonce="a" * 16), "BAD_REQUEST", "bad_field"),
    "no group": (without("group_id"), "BAD_REQUEST", "bad_field"),
    "no serial": (without("serial"), "BAD_REQUEST", "bad_field"),
    "no nonce": (without("nonce"), "BAD_REQUEST", "bad_field"),
    "a short nonce": (packed(nonce=bytes(15)), "BAD_REQUEST", "bad_field"),
    "a serial that is too long": (packed(serial="s" * 129), "BAD_REQUEST", "bad_field"),
    "an empty serial": (packed(serial=""), "BAD_REQUEST", "bad_field"),
    "a group id that is too long": (packed(group_id="g" * 65), "BAD_REQUEST", "bad_field"),
    "a serial with a slash": (packed(serial="a/b"), "BAD_REQUEST", "bad_field"),
    "a serial with a wildcard": (packed(serial="+"), "BAD_REQUEST", "bad_field"),
    "a serial with a zero byte": (packed(serial="a\0"), "BAD_REQUEST", "bad_field"),
    "a serial with a look-alike letter": (packed(serial="sn-\u0430"), "BAD_REQUEST", "bad_field"),
    "a group id with a line end": (packed(group_id="plant-7\n"), "BAD_REQUEST", "bad_field"),
    "JSON bytes that are not base64url": (
        b'{"id":"x","group_id":"plant-7","serial":"sn-0","nonce":"***"}', "BAD_REQUEST", "bad_base64url"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*UNREADABLE, *READABLE])
async def test_a_hello_that_cannot_be_taken_gets_its_code(
    running: Running, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    payload, code, cause = {**UNREADABLE, **READABLE}[case]
    async with MqttPeer(running.site, "sn-0", encoding="json" if payload[:1] == b"{" else "msgpack") as peer:
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, cause):
            reply = peer.unpack(await peer.ask_raw("b", "hello", payload))
    assert (reply["ok"], reply["code"]) == (False, code)
    assert reply["id"] == ("x" if case in READABLE else "")
    assert len(reply["trace"]) == 16


async def test_the_largest_and_the_deepest_request_are_taken(running: Running) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        for payload in (filled(16384), packed(more=nested(7))):
            assert peer.unpack(await peer.ask_raw("b", "hello", payload))["ok"]


async def test_an_unknown_verb_is_answered_on_its_own_topic(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, "unknown_verb"):
            reply = peer.unpack(await peer.ask_raw("b", "fly", packed()))
    assert (reply["code"], reply["id"]) == ("UNKNOWN_VERB", "x")


async def test_a_verb_of_the_other_space_is_unknown(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, "unknown_verb"):
            reply = peer.unpack(await peer.ask_raw("b", "online", packed()))
    assert reply["code"] == "UNKNOWN_VERB"


@pytest.mark.parametrize("verb", ["Hello", "hel-lo", "x" * 17])
async def test_a_topic_that_is_not_ours_is_counted_and_not_answered(
    running: Running, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, "foreign_topic"):
            await peer.say(f"pv1/b/{peer.session}/up/{verb}", packed())
        assert all(queue.empty() for queue in peer._inbox.values())


async def test_anothers_topic_never_reaches_the_service(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with MqttPeer(running.site, "sn-0") as peer, MqttPeer(running.site, "sn-0") as other:
        await other.client("b")
        async with nothing_comes_of_it(running, caplog, "hello"):
            await peer.say(topics.up("b", other.session, "hello"), packed())
            assert peer.unpack(await peer.ask_raw("b", "hello", packed()))["ok"]  # only this one was counted
        assert all(queue.empty() for queue in other._inbox.values())


async def test_what_cannot_be_read_is_answered_at_most_once_a_second(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, "undecodable", times=5):
            for _ in range(5):
                await peer.say(topics.up("b", peer.session, "hello"), b"\xc1")
        assert peer.unpack(await peer.ask_raw("b", "hello", packed()))["code"] == "BAD_REQUEST"
        assert peer.unpack(await peer.heard("b", "hello"))["ok"]


# -- activate ---------------------------------------------------------------------------------------------------------


def masked(reply: dict) -> dict:
    assert 30 <= reply["retry_after_s"] <= 90
    return {**reply, "trace": "", "retry_after_s": 0}


async def test_unknown_group_unknown_serial_and_wrong_proof_cannot_be_told_apart(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    for group_id, serial, cause in (
        ("plant-7", "sn-0", "refused_wrong_proof"),
        ("plant-7", "nobody", "refused_unknown_serial"),
        ("nowhere", "sn-0", "refused_unknown_group"),
    ):
        async with MqttPeer(running.site, serial, group_id, key=b"w" * 32) as peer:
            nonce = await peer.hello()
            async with nothing_comes_of_it(running, caplog, cause):
                payload = peer.pack({"id": "same", **peer.activate_body(nonce)})
                raw = await peer.ask_raw("b", "activate", payload)
        reply = peer.unpack(raw)
        seen.append((masked(reply), len(raw)))
    assert seen[0][0] == {
        "id": "same",
        "ok": False,
        "code": "REFUSED",
        "reason": "refused",
        "retry_after_s": 0,
        "trace": "",
    }
    assert seen[0] == seen[1] == seen[2]


def stale(nonce: bytes, peer: MqttPeer) -> dict:
    return peer.activate_body(bytes(16))


def moved(nonce: bytes, peer: MqttPeer) -> dict:
    return peer.activate_body(nonce, nonce=secrets.token_bytes(16))


def renamed(nonce: bytes, peer: MqttPeer) -> dict:
    return peer.activate_body(nonce, serial="sn-1")


@pytest.mark.parametrize("foreign", [stale, moved, renamed])
async def test_a_server_nonce_that_is_not_for_this_claim_is_expired(
    running: Running, caplog: pytest.LogCaptureFixture, foreign: Callable[[bytes, MqttPeer], dict]
) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        nonce = await peer.hello()
        async with nothing_comes_of_it(running, caplog, "nonce_expired"):
            reply = await peer.ask("b", "activate", foreign(nonce, peer))
    assert reply["code"] == "NONCE_EXPIRED"


async def test_a_server_nonce_of_another_session_is_expired(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with MqttPeer(running.site, "sn-0") as peer:
        nonce = await peer.hello()
        await peer.new_session()
        await peer.client("b")
        async with nothing_comes_of_it(running, caplog, "nonce_expired"):
            reply = await peer.ask("b", "activate", peer.activate_body(nonce))
    assert reply["code"] == "NONCE_EXPIRED"


@pytest.mark.parametrize("claim", [b"\xc1", b'{"a":1}', msgpack.packb([1]), msgpack.packb({"group_id": "plant-7"})])
async def test_a_claim_that_cannot_be_read_is_a_bad_request(
    running: Running, caplog: pytest.LogCaptureFixture, claim: bytes
) -> None:
    causes = {b"\xc1": "undecodable", b'{"a":1}': "claim_encoding", msgpack.packb([1]): "not_a_map"}
    async with MqttPeer(running.site, "sn-0") as peer:
        nonce = await peer.hello()
        async with nothing_comes_of_it(running, caplog, causes.get(claim, "bad_field")):
            body = {"claim": claim, "server_nonce": nonce, "proof": bytes(32)}
            assert (await peer.ask("b", "activate", body))["code"] == "BAD_REQUEST"


async def test_a_replayed_activate_gets_the_same_grant_and_nothing_new(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with MqttPeer(running.site, "sn-2") as peer:
        nonce = await peer.hello()
        payload = peer.pack({"id": "again", **peer.activate_body(nonce)})
        first = peer.unpack(await peer.ask_raw("b", "activate", payload))
        async with nothing_comes_of_it(running, caplog, "activate_repeated", times=2):
            for _ in range(2):
                again = peer.unpack(await peer.ask_raw("b", "activate", payload))
                assert {**again, "trace": ""} == {**first, "trace": ""}
        peer.grant = peer.unpack(first["grant"])
        peer.credential_id = peer.grant["credential_id"]
        assert (await peer.online())["ok"]
        async with nothing_comes_of_it(running, caplog, "activate_repeated"):  # confirmed meanwhile: still the same
            assert peer.unpack(await peer.ask_raw("b", "activate", payload))["grant"] == first["grant"]


async def test_a_replay_by_a_spy_in_another_session_gets_nothing(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with MqttPeer(running.site, "sn-3") as peer, MqttPeer(running.site, "sn-3") as spy:
        payload = peer.pack({"id": "once", **peer.activate_body(await peer.hello())})
        assert peer.unpack(await peer.ask_raw("b", "activate", payload))["ok"]
        await spy.client("b")
        async with nothing_comes_of_it(running, caplog, "nonce_expired"):
            assert spy.unpack(await spy.ask_raw("b", "activate", payload))["code"] == "NONCE_EXPIRED"


async def test_a_blocked_device_is_told_so_only_with_a_valid_proof(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    await running.site.command("device", "block", "plant-7/sn-4")
    async with MqttPeer(running.site, "sn-4") as peer:
        nonce = await peer.hello()
        async with nothing_comes_of_it(running, caplog, "blocked", proven=True):
            reply = await peer.ask("b", "activate", peer.activate_body(nonce))
    assert reply["code"] == "BLOCKED"
    assert 300 <= reply["retry_after_s"] <= 900
    async with MqttPeer(running.site, "sn-4", key=b"w" * 32) as peer:
        nonce = await peer.hello()
        async with nothing_comes_of_it(running, caplog, "refused_wrong_proof"):
            assert (await peer.ask("b", "activate", peer.activate_body(nonce)))["code"] == "REFUSED"


# -- on a credential --------------------------------------------------------------------------------------------------


def image_of(running: Running, name: str) -> bytes:
    ((image_id,),) = running.site.query("SELECT image_id FROM version WHERE name = ?", name)
    return bytes.fromhex(image_id[:16])


RANGES: dict[str, dict[str, object]] = {
    "no chunk": {"count": 0},
    "neither count nor bitmap": {},
    "both count and bitmap": {"count": 1, "bitmap": b"\x01"},
    "an empty bitmap": {"bitmap": b""},
    "a bitmap of nothing": {"bitmap": b"\x00\x00"},
    "beyond the last chunk": {"first": 24, "count": 2},
    "far beyond": {"first": 2**53 - 1, "count": 1},
    "more than 256 chunks": {"chunk_size": 256, "count": 257},
    "a chunk size that is no power of two": {"chunk_size": 4095, "count": 1},
    "a chunk size that is too small": {"chunk_size": 128, "count": 1},
    "a chunk size above the service's": {"chunk_size": 32768, "count": 1},
    "no chunk size": {"chunk_size": 0, "count": 1},
}


async def test_impossible_ranges_and_foreign_images_are_refused_and_send_no_chunk(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with MqttPeer(running.site, "sn-5") as peer:
        assert (await peer.activate())["ok"]
        fetch = {"image": image_of(running, "2.0"), "stream": 1, "chunk_size": 4096, "first": 0}
        async with nothing_comes_of_it(running, caplog, "fetch_pending", proven=True):
            assert (await peer.ask("c", "fetch", {**fetch, "count": 1}))["code"] == "FORBIDDEN"
        async with nothing_comes_of_it(running, caplog, "rename_pending", proven=True):
            assert (await peer.ask("c", "rename", {"n": 1, "name": "Mine"}))["code"] == "FORBIDDEN"
        assert (await peer.online())["ok"]
        for case, asked in RANGES.items():
            async with nothing_comes_of_it(running, caplog, "range"):
                reply = await peer.ask("c", "fetch", {**fetch, **asked})
            assert (reply["code"], reply["chunk_size_min"], reply["chunk_size_max"]) == ("RANGE", 256, 16384), case
        for image in (image_of(running, "1.0"), bytes(8), secrets.token_bytes(8)):
            async with nothing_comes_of_it(running, caplog, "image_unknown"):
                reply = await peer.ask("c", "fetch", {**fetch, "image": image, "count": 1})
            assert reply["code"] == "IMAGE_UNKNOWN"
        assert peer._inbox[topics.down("c", peer.credential_id, "chunk")].empty()
        shown = await running.site.command("trace", "sn-5")
        assert "cause: range" in shown, "an operator sees it too, though no rule was asked"
        payload = peer.pack({"id": "good", **fetch, "first": 24, "count": 1})
        await peer.say(topics.up("c", peer.credential_id, "fetch"), payload, "c")
        frame = await peer.heard("c", "chunk")
        assert len(frame) == 20 + 100_000 - 24 * 4096


ON_A_CREDENTIAL = {
    "an online without caps": ("online", {"n": 7, "boot_count": 1, "desired_rev": 0}, "BAD_REQUEST", "bad_field"),
    "an online without n": ("online", {"boot_count": 1, "desired_rev": 0, "caps": []}, "BAD_REQUEST", "bad_field"),
    "a report in no known state": (
        "report", {"n": 7, "desired_rev": 0, "firmware": {"state": "flying"}}, "BAD_REQUEST", "bad_field"),
    "a name with a control character": ("rename", {"n": 7, "name": "a\x07"}, "BAD_REQUEST", "bad_field"),
    "a name that is too long": ("rename", {"n": 7, "name": "n" * 129}, "BAD_REQUEST", "bad_field"),
    "a version that nobody has": ("installed", {"n": 7, "version_id": "0" * 32}, "NOT_FOUND", "version_not_found"),
    "a number lower than the last": ("rename", {"n": 0, "name": "late"}, "CONFLICT", "number_lower"),
    "a fetch without a stream": ("fetch", {"image": bytes(8), "chunk_size": 4096, "first": 0}, "BAD_REQUEST", "bad_field"),
    "a verb of operators": ("reprovision", {}, "UNKNOWN_VERB", "unknown_verb"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
async def test_bad_requests_on_a_credential_change_nothing(
    running: Running, caplog: pytest.LogCaptureFixture, encoding: str
) -> None:
    async with MqttPeer(running.site, "sn-6" if encoding == "json" else "sn-7", encoding=encoding) as peer:
        assert (await peer.activate())["ok"]
        assert (await peer.online())["ok"]
        for case, (verb, body, code, cause) in ON_A_CREDENTIAL.items():
            async with nothing_comes_of_it(running, caplog, cause, proven=True):
                reply = await peer.ask("c", verb, body)
            assert (case, reply["code"]) == (case, code)
        assert (await peer.report())["ok"]
