"""Who gets a key over HTTP, what it opens, and when it is dead."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import httpx
import pytest

from service.domain.group import Group, KeyKind
from service.errors import Secret
from service.http import things_firmware
from service.images.streamer import Streamer
from tests.integration.things.conftest import IMAGE, Place
from tests.support.plain_client import Connection, PlainDevice
from tests.support.site import ENVIRONMENT, GROUP, OU, PRODUCT_ID, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CURRENT = "/version/current.json"


def refusal(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_wrong_proof_and_an_unknown_serial_look_alike(place: Place) -> None:
    device = await place.device("K-1")
    device.key = bytes(range(32))
    wrong = await device.activate()
    device.serial = "nobody"
    unknown = await device.activate()
    assert refusal(wrong) == refusal(unknown) == (401, "REFUSED")
    assert wrong.json().keys() == unknown.json().keys()


async def test_a_proof_that_was_made_for_a_broker_gets_no_key_here(place: Place) -> None:
    device = await place.device("K-2")
    assert refusal(await device.put(await device.proof("pv1 activate"))) == (401, "REFUSED")
    assert (await device.activate()).status_code == 200


async def test_the_same_bytes_get_the_same_key_and_another_session_none(place: Place) -> None:
    device = await place.device("K-3")
    body = await device.proof()
    first, again = await device.activate(body), await device.activate(body)
    assert (first.status_code, again.json()) == (200, first.json())
    assert refusal(await device.put({**body, "session": "0" * 32})) == (401, "NONCE_EXPIRED")


async def test_the_address_must_name_the_device_of_the_claim(place: Place) -> None:
    device, other = await place.device("K-4"), await place.device("K-4b")
    body = await device.proof()
    assert refusal(await other.put(body)) == (400, "BAD_REQUEST")
    assert refusal(await device.put(body, group_id="another")) == (400, "BAD_REQUEST")
    assert (await device.activate(body, group_id=GROUP)).status_code == 200


async def test_there_are_only_api_keys_here(place: Place) -> None:
    device = await place.device("K-5")
    assert refusal(await device.put(await device.proof(csr="AAAA"))) == (400, "BAD_REQUEST")


async def test_a_key_opens_its_own_thing_and_no_other(place: Place) -> None:
    device, other = await place.activated("K-6"), await place.activated("K-6b")
    for key in (other.api_key, "0" * 64, "", "x" * 300, "ü"):
        assert refusal(await device.ask("GET", CURRENT, key=key.encode())) == (401, "REFUSED")
    bare = await place.client.get(f"/v1/things/{device.thing_id}{CURRENT}")
    assert refusal(bare) == (401, "REFUSED")
    for thing_id in ("0" * 32, "..", "%00", "x" * 200):
        headers = {"Authorization": f"Bearer {device.api_key}"}
        answer = await place.client.get(f"/v1/things/{thing_id}{CURRENT}", headers=headers)
        assert answer.status_code in (401, 404)
    assert (await device.ask("GET", CURRENT)).status_code == 200


@pytest.mark.parametrize("first", ["rename", "firmware", "installed", "target"])
async def test_whichever_call_is_the_first_drops_the_earlier_key(place: Place, first: str) -> None:
    device = await place.activated(f"K-7{first}")
    assert (await device.ask("GET", CURRENT)).status_code == 200
    earlier = device.api_key
    await device.activate()
    assert (await device.ask("GET", CURRENT, key=earlier)).status_code == 200
    calls = {
        "rename": ("PUT", ".json", {"json": {"name": "New name"}}),
        "firmware": ("GET", f"/versions/{place.version_id}/firmware.bin", {}),
        "installed": ("PUT", CURRENT, {"json": {"versionId": place.version_id}}),
        "target": ("GET", "/version/target.json", {}),
    }
    method, path, more = calls[first]
    assert (await device.ask(method, path, **more)).status_code == 200
    assert refusal(await device.ask("GET", CURRENT, key=earlier)) == (401, "REFUSED")


async def test_a_held_key_waits_for_the_policy_of_its_group(place: Place) -> None:
    await place.site.add_group(Group("held", PRODUCT_ID, default_ou=OU, default_environment=ENVIRONMENT))
    device = await place.device("K-8", "held")
    await device.activate()
    assert (await device.ask("GET", CURRENT)).status_code == 200
    earlier = device.api_key
    await device.activate()
    held = await device.ask("PUT", ".json", json={"name": "Too early"})
    assert refusal(held) == (409, "CONFLICT")
    assert held.headers["retry-after"] == "30"
    assert (await device.ask("GET", CURRENT, key=earlier)).status_code == 200


async def test_a_key_goes_over_to_mqtt_and_one_from_mqtt_is_good_here(place: Place) -> None:
    device = await place.activated("K-9")
    grant = device.grant

    def over_mqtt():
        me = grant["credential_id"]
        link = Connection("127.0.0.1", grant["endpoint"]["port"], "pv1/c/" + me, me, password=device.api_key)
        try:
            return link.ask("target", {})
        finally:
            link.close()

    assert (await asyncio.to_thread(over_mqtt))["ok"]
    await place.site.register(["K-9b"])
    plain = PlainDevice(GROUP, "K-9b", place.site.keys[GROUP, "K-9b"])
    await asyncio.to_thread(plain.activate, "127.0.0.1", place.site.ports["bootstrap"])
    record = plain.memory["record"]
    headers = {"Authorization": f"Bearer {record['password']}"}
    answer = await place.client.get(f"/v1/things/{record['thing_id']}{CURRENT}", headers=headers)
    assert answer.status_code == 200


async def test_the_key_of_a_blocked_device_is_dead_at_once(place: Place) -> None:
    device = await place.activated("K-10")
    await place.block("K-10")
    assert refusal(await device.ask("GET", CURRENT)) == (401, "REFUSED")
    assert refusal(await device.activate()) == (403, "BLOCKED")


async def test_a_download_ends_when_its_key_is_dropped(place: Place, monkeypatch) -> None:
    pages, may_go_on = 0, asyncio.Event()

    def may_send(*_: object) -> bool:
        nonlocal pages
        pages += 1
        return pages == 1 or may_go_on.is_set()

    monkeypatch.setattr(Streamer, "may_send", may_send)
    monkeypatch.setattr(things_firmware, "ASK_AGAIN_S", 0.0)
    device = await place.activated("K-16")
    headers = {"Authorization": f"Bearer {device.api_key}"}
    url = f"/v1/things/{device.thing_id}/versions/{place.version_id}/firmware.bin"
    got = b""

    async def download() -> None:
        nonlocal got
        async with place.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            async for part in answer.aiter_bytes():
                got += part
                if not may_go_on.is_set():
                    await place.block("K-16")
                    may_go_on.set()

    with pytest.raises(httpx.RemoteProtocolError):
        await download()
    assert 0 < len(got) < len(IMAGE)
    assert IMAGE.startswith(got)


async def test_a_thing_has_at_most_four_downloads_at_a_time(place: Place, monkeypatch) -> None:
    may_go_on = asyncio.Event()
    monkeypatch.setattr(Streamer, "may_send", lambda *_: may_go_on.is_set())
    device, other = await place.activated("K-17"), await place.activated("K-17b")
    path = f"/versions/{place.version_id}/firmware.bin"
    headers = {"Authorization": f"Bearer {device.api_key}"}
    async with contextlib.AsyncExitStack() as stack:
        url = f"/v1/things/{device.thing_id}{path}"
        streams = [place.client.stream("GET", url, headers=headers) for _ in range(4)]
        answers = [await stack.enter_async_context(one) for one in streams]
        assert {one.status_code for one in answers} == {200}
        assert refusal(await device.ask("GET", path)) == (429, "THROTTLED")
        may_go_on.set()
        assert (await other.ask("GET", path)).content == IMAGE
        assert {await one.aread() for one in answers} == {IMAGE}
    assert (await device.ask("GET", path)).content == IMAGE  # what is done counts no more


async def test_a_bare_serial_is_refused_until_its_group_allows_it(place: Place) -> None:
    group = Group("old-platform", PRODUCT_ID, KeyKind.DERIVED, Secret(b"S" * 32), default_ou=OU,
                  default_environment=ENVIRONMENT)  # fmt: skip
    await place.site.add_group(group)
    await place.site.command("device", "register", "old-platform", "K-11")
    url = "/v1/things/activate/K-11.json"
    assert refusal(await place.client.put(url)) == (401, "REFUSED")
    assert "UNSAFE" in await place.site.command("group", "bare-serial", "old-platform", "--allow")
    given = await place.client.put(url)
    assert given.status_code == 200, given.text
    headers = {"Authorization": f"Bearer {given.json()['apiKey']}"}
    things = f"/v1/things/{given.json()['thingId']}"
    assert (await place.client.get(things + "/version/target.json", headers=headers)).status_code == 200
    assert (await place.client.put(url, params={"group_id": "old-platform"})).status_code == 200
    assert refusal(await place.client.put(url, params={"group_id": GROUP})) == (401, "REFUSED")
    assert refusal(await place.client.put("/v1/things/activate/nobody.json")) == (401, "REFUSED")
    # A body that is there is a proof, which has to be right.
    empty = {"session": "0" * 32, "claim": "e30", "server_nonce": "A" * 22, "proof": "AAAA"}
    assert (await place.client.put(url, json=empty)).status_code == 400
    await place.site.command("group", "bare-serial", "old-platform", "--forbid")
    assert refusal(await place.client.put(url)) == (401, "REFUSED")


async def test_an_account_makes_things_in_its_own_ou_only(place: Place) -> None:
    words = ["account", "create", "stranger", "--role", "operator", "--ou", "elsewhere", "--json"]
    key = json.loads(await place.site.command(*words))["key"]
    await place.device("K-12")
    answer = await place.client.post("/v1/things/serial/K-12.json", auth=("stranger", key))
    assert refusal(answer) == (404, "NOT_FOUND")


async def test_the_target_and_what_is_installed_can_be_fetched_and_nothing_else(place: Place) -> None:
    newer, other = IMAGE[::-1], IMAGE[1:]
    ids = [await place.site.add_version(*words, target=False) for words in (("3.0", 3, newer), ("4.0", 4, other))]
    device = await place.activated("K-18")
    await device.ask("PUT", CURRENT, json={"versionId": place.version_id})
    await place.site.command("set-target", f"{GROUP}/K-18", "--version", "3.0")

    async def fetched(version_id: str) -> list[bytes] | None:
        """Whole, by two ranges, and in base64; None where it is not here."""
        path = f"/versions/{version_id}/firmware"
        parts = ({}, {"Range": "bytes=0-99999"}, {"Range": "bytes=100000-"})
        answers = [await device.ask("GET", path + ".bin", headers=one) for one in parts]
        encoded = await device.ask("GET", path + ".json")
        codes = {one.status_code for one in (*answers, encoded)}
        if codes == {404}:
            return None
        assert codes == {200, 206}
        assert encoded.json()["versionId"] == version_id
        whole, first, rest = (one.content for one in answers)
        return [whole, first + rest, base64.b64decode(encoded.json()["firmware"])]

    async def noticed() -> bool:
        return (await device.ask("GET", "/version/target.json")).json()["versionId"] == ids[0]

    await until(noticed, 20)
    assert await fetched(ids[0]) == [newer] * 3
    assert await fetched(place.version_id) == [IMAGE] * 3
    assert await fetched(ids[1]) is None
    await device.ask("PUT", CURRENT, json={"versionId": ids[0]})
    assert await fetched(ids[0]) == [newer] * 3
    assert await fetched(place.version_id) is None  # a version of before


async def test_versions_that_are_not_the_thing_s_are_not_here(place: Place) -> None:
    device = await place.activated("K-13")
    for ending in ("bin", "json"):
        assert refusal(await device.ask("GET", f"/versions/{'0' * 32}/firmware.{ending}")) == (404, "NOT_FOUND")
    unknown = await device.ask("PUT", CURRENT, json={"versionId": "0" * 32})
    assert refusal(unknown) == (404, "NOT_FOUND")
    for body in ({"versionId": "x"}, {"versionId": place.version_id, "bootCount": -1}, {}, [], None):
        assert refusal(await device.ask("PUT", CURRENT, json=body)) == (400, "BAD_REQUEST")


SIZE = len(IMAGE)


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=49151-49152", 49151, 49153),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes={SIZE - 1}-{SIZE + 10}", SIZE - 1, SIZE),
        (f"bytes=-{SIZE + 10}", 0, SIZE),
    ],
)
async def test_a_range_is_exactly_those_bytes(place: Place, asked: str, first: int, end: int) -> None:
    device = await place.activated(f"K-14{first}-{end}")
    answer = await device.ask("GET", f"/versions/{place.version_id}/firmware.bin", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, IMAGE[first:end])
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"


async def test_ranges_that_cannot_be_or_do_not_count(place: Place) -> None:
    device, path = await place.activated("K-15"), f"/versions/{place.version_id}/firmware.bin"
    for beyond in (f"bytes={SIZE}-", "bytes=-0"):
        answer = await device.ask("GET", path, headers={"Range": beyond})
        assert refusal(answer) == (416, "RANGE")
        assert answer.headers["content-range"] == f"bytes */{SIZE}"
    for ignored in ("bytes=5-4", "bytes=0-1,3-4", "bytes=-", "lines=1-2", "bytes=a-b"):
        answer = await device.ask("GET", path, headers={"Range": ignored})
        assert (answer.status_code, len(answer.content)) == (200, SIZE)
    etag = (await device.ask("GET", path)).headers["etag"]
    same = await device.ask("GET", path, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = await device.ask("GET", path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (same.status_code, other.status_code) == (206, 200)
