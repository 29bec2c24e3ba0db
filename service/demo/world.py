"""The installation that a demo makes in its temporary folder, and the devices that belong to it.

Owns the demo's data: configuration, keys, product, two signed versions, a group and its serials. Uses the operators'
operations, as the commands do. The release key is made on the spot and dies with the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from device_sdk.core.identity import Endpoint, Identity
from service.credentials.keyfile import KeyFile
from service.demo.options import DemoOptions
from service.domain.group import Group
from service.errors import Secret
from service.images.files import ImageFiles
from service.operations import groups, products, registration, releases, versions
from service.settings import CONFIG_NAME, Settings, load_settings
from service.storage.database import Database
from service.storage.schema import migrate

PRODUCT_ID, PRODUCT, HARDWARE = "thermometer", "Thermometer", "rev-a"
GROUP, ENVIRONMENT, OU = "plant-7", "local", "demo"
SECOND_ENVIRONMENT = "second"  # where devices are moved to; only with brokers of our own
FACTORY, TARGET = "1.0", "2.0"
FACTORY_IMAGE_BYTES = 64 * 1024
REGISTER_PAGE = 500
_WRITE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class World:
    settings: Settings
    config: Path
    identities: Sequence[Identity]
    target_version_id: str
    target_bytes: int


async def make_world(folder: Path, options: DemoOptions) -> World:
    """Write everything into `folder`. Raises ServiceError, KeyFileError, SettingsError, OSError."""
    config = folder / CONFIG_NAME
    config.write_text(_config(options), encoding="utf-8")
    settings = load_settings(config)
    settings.data_dir.mkdir(mode=0o700)
    KeyFile.create(settings.key_file)
    await asyncio.to_thread(migrate, settings.database_path)
    return await populate(settings, config, options)


async def populate(settings: Settings, config: Path, options: DemoOptions, *, ca_pem: str | None = None) -> World:
    """Fill an installation that has the environment `local`; `ca_pem` is what the devices verify its brokers with.

    Raises ServiceError, KeyFileError, OSError.
    """
    folder, now = config.parent, datetime.now(UTC)
    keys = KeyFile.load(settings.key_file)
    database = await Database.open(settings.database_path, keys.sealer(), check=False)
    try:
        await products.create(database, PRODUCT_ID, PRODUCT, HARDWARE)
        public = await asyncio.to_thread(releases.keygen, folder / "release.key")
        await releases.add_key(database, public, "demo", now=now)
        await _add_version(database, settings, folder, FACTORY, 1, FACTORY_IMAGE_BYTES)
        target = await _add_version(database, settings, folder, TARGET, 2, options.image_bytes)
        group = Group(GROUP, PRODUCT_ID, default_ou=OU, default_environment=ENVIRONMENT)
        await groups.create(database, group, random_bytes=os.urandom)
        serials = await _register(database, options, now)
    finally:
        await database.close()
    end = settings.environments[ENVIRONMENT].endpoints.bootstrap
    bootstrap = Endpoint(end.host, end.port, tls=end.tls, ca_pem=ca_pem)
    identities = [_identity(serial, key, bootstrap, public.public_key) for serial, key in serials.items()]
    return World(settings, config, identities, target, options.image_bytes)


async def _add_version(database: Database, settings: Settings, folder: Path, name: str, seq: int, size: int) -> str:
    """Make, sign and add one image of random bytes; the highest seq becomes the target. Returns its version id."""
    image = folder / f"firmware-{name}.bin"
    await asyncio.to_thread(_write_image, image, size)
    signature = await asyncio.to_thread(
        releases.sign, image, folder / "release.key", product=PRODUCT, hardware=HARDWARE, name=name, seq=seq
    )
    added = await versions.add(
        database,
        ImageFiles(settings.images_dir),
        product_id=PRODUCT_ID,
        name=name,
        image_path=image,
        signature=signature,
        target=name == TARGET,
        now=datetime.now(UTC),
    )
    image.unlink()
    return added.version.version_id


async def _register(database: Database, options: DemoOptions, now: datetime) -> dict[str, bytes]:
    """Pre-register the serials, each with a key of its own; the keys by serial."""
    digits = max(3, len(str(options.devices)))
    keys = {f"T-{number:0{digits}}": os.urandom(32) for number in range(1, options.devices + 1)}
    asked = [registration.Registration(GROUP, serial, key=Secret(key)) for serial, key in keys.items()]
    for start in range(0, len(asked), REGISTER_PAGE):
        page = asked[start : start + REGISTER_PAGE]
        outcomes = await registration.register_page(database, page, now=now, random_bytes=os.urandom)
        for outcome in outcomes:
            if outcome.result is not registration.Result.REGISTERED:
                raise RuntimeError(f"{outcome.serial}: {outcome.reason}")
    return keys


def _identity(serial: str, key: bytes, bootstrap: Endpoint, release_key: bytes) -> Identity:
    return Identity(
        GROUP,
        serial,
        key,
        PRODUCT,
        HARDWARE,
        [bootstrap],
        (release_key,),
        factory_seq=1,
        factory_name=FACTORY,
        allow_plain=not bootstrap.tls,
        model="simulated",
    )


def identity_like(one: Identity, serial: str, key: bytes) -> Identity:
    """Another device of the same making."""
    return _identity(serial, key, one.bootstrap[0], one.release_keys[0])


def _write_image(path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size > 0:
            file.write(os.urandom(min(size, _WRITE_BYTES)))
            size -= _WRITE_BYTES


def _config(options: DemoOptions) -> str:
    """firstlight.toml: embedded brokers on free loopback ports, or somebody else's broker in both roles."""
    bootstrap, operational, health, *second = _free_ports(5)
    host, broker, links = "127.0.0.1", "embedded", ""
    others = _embedded(SECOND_ENVIRONMENT, second[0], second[1])
    if options.broker is not None:
        host, bootstrap, operational, broker = options.broker.host, options.broker.port, options.broker.port, "none"
        others = ""
        links = "".join(
            f'[environments.{ENVIRONMENT}.links.{role}]\nhost = "{host}"\nport = {bootstrap}\n'
            for role in ("bootstrap", "operational")
        )
    return (
        f'data_dir = "data"\n[http]\nhost = "127.0.0.1"\nport = {health}\n'
        f'[environments.{ENVIRONMENT}]\nbroker = "{broker}"\n'
        f'[environments.{ENVIRONMENT}.endpoints.bootstrap]\nhost = "{host}"\nport = {bootstrap}\ntls = false\n'
        f'[environments.{ENVIRONMENT}.endpoints.api_key]\nhost = "{host}"\nport = {operational}\ntls = false\n'
        f"{links}{others}"
    )


def _embedded(name: str, bootstrap: int, operational: int) -> str:
    return (
        f'[environments.{name}]\nbroker = "embedded"\n'
        f'[environments.{name}.endpoints.bootstrap]\nhost = "127.0.0.1"\nport = {bootstrap}\ntls = false\n'
        f'[environments.{name}.endpoints.api_key]\nhost = "127.0.0.1"\nport = {operational}\ntls = false\n'
    )


def _free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, all different; the service binds them a moment later."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
