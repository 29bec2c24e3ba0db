"""Recognisable secrets go through a real service with its log at its loudest, and are found nowhere afterwards."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_sdk.simulator import Fleet
from device_sdk.wire import keys
from service.domain.group import Group, KeyKind
from service.errors import Secret
from service.mqtt.port import EVERYWHERE
from tests.faults.test_disk import full_disk
from tests.support.mqtt_peer import MqttPeer
from tests.support.site import ENVIRONMENT, OU, PRODUCT_ID, Site, made_site, until

DEVICE_KEY = b"canary:device key:0123456789abcd"
OTHER_KEY = b"canary:other device key:01234567"
FLEET_KEY = b"canary:simulated device key:0123"
GROUP_SECRET = b"canary:group secret:0123456789ab"
WRONG_KEY = b"canary:wrong key:0123456789abcde"


def spellings(secret: bytes) -> Iterator[bytes]:
    """How one secret could stand in a text or in bytes."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield ", ".join(map(str, secret)).encode()
    for lead in range(3):  # base64 of something that holds it, whatever stands before; the ends depend on neighbours
        text = base64.b64encode(bytes(lead) + secret)
        inner = text[4 if lead else 0 : len(text) // 4 * 4 - 4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


def private_keys(site: Site) -> Iterator[bytes]:
    """Every secret of keys.json, whatever it is called there."""

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for one in value.values():
                yield from strings(one)
        elif isinstance(value, str):
            yield value

    for text in strings(json.loads(site.settings.key_file.read_text())):
        if len(text) > 40:
            yield base64.b64decode(text)


async def misuse(site: Site) -> list[bytes]:
    """Every way of sending a secret that is wrong. Returns the replies."""
    replies = []
    async with MqttPeer(site, "canary-1", key=WRONG_KEY) as peer:
        nonce = await peer.hello()
        await peer.ask("b", "activate", peer.activate_body(nonce))
        for field in ("serial", "group_id", "id", "extra"):
            text = DEVICE_KEY.decode() + "/" * 20
            await peer.ask("b", "hello", {"group_id": "g", "serial": "s", "nonce": bytes(16), field: text})
            await peer.new_session()
        await peer.ask("b", "hello", {"group_id": "g", "serial": "s", "nonce": DEVICE_KEY})
        await peer.say(f"pv1/b/{peer.session}/up/{DEVICE_KEY.decode()}", DEVICE_KEY)
        await peer.ask_raw("b", "activate", DEVICE_KEY)
        replies += peer.everything
    return replies


async def use(site: Site) -> tuple[list[bytes], set[bytes]]:
    """Activate, confirm, repeat, be refused, meet a full disk. Returns replies and the API keys that came to be."""
    replies, passwords = [], set()
    for group_id, serial in (("plant-7", "canary-1"), ("derived", "canary-2")):
        async with MqttPeer(site, serial, group_id) as peer:
            if group_id == "derived":
                peer.key = keys.derive_key(GROUP_SECRET, serial)
            assert (await peer.activate(attributes={"where": "here"}))["ok"]
            passwords.add(peer.password.encode())
            assert (await peer.online())["ok"]
            await peer.ask("c", "rename", {"n": 0, "name": "late"})
            with full_disk(site):
                peer.n += 1
                await peer.ask("c", "rename", {"n": peer.n, "name": "Mine"})
                assert (await peer.activate())["code"] == "UNAVAILABLE"
            await peer.new_session()
            assert (await peer.activate())["ok"]
            passwords.add(peer.password.encode())
            replies += peer.everything
    return replies, passwords


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def test_no_secret_appears_where_it_does_not_belong(tmp_path: Path, broker: str) -> None:
    async with made_site(tmp_path, broker) as site:
        derived = Group("derived", PRODUCT_ID, KeyKind.DERIVED, Secret(GROUP_SECRET), False, OU, ENVIRONMENT)
        await site.add_group(derived)
        await site.register(["canary-1", "canary-3"], keys={"canary-1": DEVICE_KEY, "canary-3": FLEET_KEY})
        await site.command("device", "register", "derived", "canary-2")
        await site.add_version("2.0", 2, bytes(50_000))
        if site.mosquittos is not None:
            for role in EVERYWHERE:
                await site.start_broker(role)
        await site.start_service(level="debug")
        fleet = Fleet([site.identity("canary-3")], seed=1, jitter_s=0)
        assert await fleet.run_until_confirmed(30)
        replies, passwords = await use(site)
        replies += await misuse(site)
        await until(lambda: ("refused_wrong_proof",) in site.query("SELECT name FROM counter"))
        words = [json.dumps(await site.ask(path)).encode() for path in ("/health", "/stats")]
        words += await what_operators_see(site)
        files = stored(site)  # also while it runs, with what the write-ahead log holds
        assert await site.stop_service() == 0
        files |= {f"{name} at the end": data for name, data in stored(site).items()}
        places = {"replies": b"\0".join(replies), "operators": b"\0".join(words), "log": site.log().encode(), **files}
        assert b"activate" in places["log"]
        secrets = {
            *(DEVICE_KEY, FLEET_KEY, GROUP_SECRET, WRONG_KEY),
            *(keys.derive_key(GROUP_SECRET, "canary-2"),),
            *passwords,
            *(bytes.fromhex(one.decode()) for one in passwords),
        }
        assert len(passwords) == 4
        for name, data in places.items():
            for secret in secrets | set(private_keys(site)):
                for spelling in spellings(secret):
                    assert spelling not in data, f"{secret!r} in {name}"


async def what_operators_see(site: Site) -> list[bytes]:
    commands = (
        ("status", "--json"), ("stats", "--json"), ("device", "list", "--json"), ("group", "list", "--json"),
        ("device", "show", "plant-7/canary-1", "--json"), ("device", "show", "derived/canary-2"),
        ("group", "show", "derived", "--json"), ("trace", "plant-7/canary-1", "--json"),
        ("trace", "derived/canary-2"), ("backup", str(site.folder / "backup")),
    )  # fmt: skip
    return [(await site.command(*words)).encode() for words in commands]


def stored(site: Site) -> dict[str, bytes]:
    """Every file of the site but the key file, the release key and the CA's."""
    return {
        str(path.relative_to(site.folder)): path.read_bytes()
        for path in site.folder.rglob("*")
        if path.is_file() and path.name not in ("keys.json", "release.key", "ca.key")
    }


def test_the_search_finds_a_secret_in_every_spelling() -> None:
    for around in range(4):
        held = b"x" * around + DEVICE_KEY + b"the rest"
        for text in (
            held,
            held.hex().encode(),
            base64.b64encode(held),
            base64.urlsafe_b64encode(held),
            str(list(held)).encode(),
        ):
            assert any(spelling in text for spelling in spellings(DEVICE_KEY)), (around, text)
