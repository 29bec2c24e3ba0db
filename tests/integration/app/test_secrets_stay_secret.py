"""Planted secrets: a whole fleet comes in, peers misbehave, operators look; no key shows anywhere but in the key file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_sdk.core.identity import Identity
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.simulator.fleet import Fleet
from device_sdk.wire import keys, topics
from device_sdk.wire.packer import packb
from service.cli.main import app
from service.credentials.keyfile import KeyFile
from service.demo.options import DemoOptions
from service.demo.world import PRODUCT_ID, World, make_world
from service.domain.group import Group, KeyKind
from service.errors import Secret
from service.installation import domain_environments
from service.logins import expected_logins
from service.operations import groups, registration
from service.storage.database import Database
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.actor import Actor
from tests.support.command_line import CliRunner
from tests.support.installation import Serving, serving

GROUP_SECRET = b"canary: the secret of group burned"
SERIAL = "B-001"


async def _plant(folder: Path) -> tuple[World, list[Identity], dict[str, bytes]]:
    """An installation with two groups, its devices and every secret by name."""
    world = await make_world(folder, DemoOptions(devices=2, image_bytes=64 * 1024))
    own = KeyFile.load(world.settings.key_file)
    database = await Database.open(world.settings.database_path, own.sealer())
    try:
        burned = Group("burned", PRODUCT_ID, KeyKind.DERIVED, Secret(GROUP_SECRET), default_environment="local")
        await groups.create(database, replace(burned, default_ou="acme"), random_bytes=os.urandom)
        asked = registration.Registration("burned", SERIAL)
        await registration.register(database, asked, now=datetime.now(UTC), random_bytes=os.urandom)
    finally:
        await database.close()
    like = world.identities[0]
    derived = keys.derive_key(GROUP_SECRET, SERIAL, FullCrypto().hmac_sha256)
    burned_device = Identity(
        *("burned", SERIAL, derived, like.product, like.hardware, like.bootstrap, like.release_keys),
        factory_seq=1,
        factory_name="1.0",
        allow_plain=True,
    )
    identities = [*world.identities, burned_device]
    secrets = {f"device key of {one.serial}": one.key for one in identities if one.key}
    secrets |= {"group secret": GROUP_SECRET, "service key": own.service_key.reveal()}
    secrets |= {"nonce key": own.nonce_current.reveal(), "seal key": own.seal_keys[own.seal_current].reveal()}
    return world, identities, secrets


async def _api_keys(world: World) -> dict[str, bytes]:
    own = KeyFile.load(world.settings.key_file)
    database = await Database.open(world.settings.database_path, own.sealer())
    try:
        store = SqlStore(database, domain_environments(world.settings))
        found = expected_logins(Upkeep(database), store, "local", own.service_private_key())
        return {f"API key of {one.credential_id}": one.api_key.reveal() async for one in found if one.api_key}
    finally:
        await database.close()


async def _misbehave(port: int, identity: Identity) -> None:
    """What a confused or hostile device sends, its own key in every place where a text may stand."""
    assert identity.key is not None
    session = "ab" * 16
    word = identity.key.hex()
    claim = packb({"group_id": identity.group_id, "serial": identity.serial, "nonce": bytes(16), "boot_count": 1})
    async with Actor(port, session) as actor:
        for verb, payload in (
            ("hello", identity.key),
            (
                "hello",
                packb({"id": word[:32], "group_id": word, "serial": identity.serial, "nonce": identity.key[:16]}),
            ),
            ("activate", packb({"id": "1", "claim": claim, "server_nonce": bytes(16), "proof": identity.key})),
            ("activate", b'{"id": "2", "claim": "' + word.encode() + b'"}'),
        ):
            await actor.client.publish(topics.up("b", session, verb), payload, 1)


async def _live(world: World, identities: list[Identity]) -> bool:
    await _misbehave(world.settings.environments["local"].endpoints.bootstrap.port, identities[0])
    fleet = Fleet(identities, seed=1, jitter_s=0.1, target=world.target_version_id)
    return await fleet.run_until_confirmed(60)


def _looked_at(world: World, serve: Serving) -> dict[str, str]:
    """Everything that an operator can see while the service runs."""
    shown = {path: json.dumps(serve.get(path)) for path in ("/health", "/stats")}
    for words in (
        ["status"],
        ["status", "--json"],
        ["stats", "--json"],
        ["group", "list", "--json"],
        ["device", "list", "--json"],
        ["device", "show", f"burned/{SERIAL}", "--json"],
        ["trace", f"burned/{SERIAL}", "--json"],
        ["trace", world.identities[0].serial],
    ):
        result = CliRunner().invoke(app, ["--config", str(world.config), *words])
        assert result.exit_code == 0, (words, result.output)
        shown[" ".join(words)] = result.output
    return shown


def _spellings(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), repr(secret)[2:-1].encode()]


@pytest.mark.timeout(180)
def test_no_planted_secret_appears_in_logs_commands_endpoints_or_files(tmp_path: Path) -> None:
    world, identities, secrets = asyncio.run(_plant(tmp_path))
    (tmp_path / "release.key").unlink()  # the release key is offline
    log = {"FIRSTLIGHT_LOG__FORMAT": "json", "FIRSTLIGHT_LOG__LEVEL": "debug"}
    with serving(world.config, world.settings.http.port, **log) as serve:
        serve.wait_until(200)
        assert asyncio.run(_live(world, identities))
        secrets |= asyncio.run(_api_keys(world))
        shown = _looked_at(world, serve)
        places = {name: text.encode() for name, text in shown.items()}
        # The write-ahead log is looked at while it is there; the files once more after the end.
        places |= {f"running: {path.name}": path.read_bytes() for path in (tmp_path / "data").glob("firstlight.db*")}
        code, output = serve.stop()
    assert code == 0
    assert "confirmed" in output
    places |= {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    del places["keys.json"]  # the one place where the service's own keys belong
    assert len(secrets) == 2 + 1 + 4 + 3
    found = [
        (what, where)
        for what, secret in secrets.items()
        for where, content in places.items()
        if any(spelling in content for spelling in _spellings(secret))
    ]
    assert found == []
