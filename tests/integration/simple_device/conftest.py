"""A real service with one product, one signed target and a group: on the embedded broker, and on Mosquitto with TLS."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.credentials.keyfile import KeyFile
from service.domain.device import Device
from service.domain.group import Group, KeyKind
from service.errors import Secret
from service.images.files import ImageFiles
from service.operations import devices, groups, products, registration, releases, versions
from service.settings import Settings, load_settings
from service.storage.database import Database
from tests.bench.site import ENVIRONMENT, Site
from tests.support.installation import Installation, Serving, clean_environment

GROUP = "plain"
SERIALS = [f"P-{number}" for number in range(8)]
IMAGE = secrets.token_bytes(700_001)  # 171 chunks, the last one short


@dataclass(frozen=True)
class Place:
    """What the tests need of a running service."""

    settings: Settings
    secret: bytes
    host: str
    port: int
    ca_file: str | None

    def device(self, serial: str) -> Device:
        """As the database has it now."""

        async def show() -> Device:
            database = await Database.open(self.settings.database_path, KeyFile.load(self.settings.key_file).sealer())
            try:
                return await devices.show(database, f"{GROUP}/{serial}")
            finally:
                await database.close()

        return asyncio.run(show())


async def furnish(settings: Settings, folder: Path, environment: str, secret: bytes) -> None:
    now, key, image = datetime.now(UTC), folder / "release.key", folder / "image.bin"
    image.write_bytes(IMAGE)
    public = releases.keygen(key)
    signed = releases.sign(image, key, product="Thermometer", hardware="rev-b", name="2.0", seq=2)
    group = Group(
        GROUP, "thermometer", KeyKind.DERIVED, Secret(secret), default_ou="acme", default_environment=environment
    )
    asked = [registration.Registration(GROUP, serial) for serial in SERIALS]
    database = await Database.open(settings.database_path, KeyFile.load(settings.key_file).sealer())
    try:
        await products.create(database, "thermometer", "Thermometer", "rev-b")
        await releases.add_key(database, public, "test", now=now)
        files = ImageFiles(settings.images_dir)
        version = {"product_id": "thermometer", "name": "2.0", "image_path": image, "signature": signed}
        await versions.add(database, files, **version, description="Second release", target=True, now=now)
        await groups.create(database, group, random_bytes=os.urandom)
        await registration.register_page(database, asked, now=now, random_bytes=os.urandom)
    finally:
        await database.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The embedded broker, no TLS."""
    site = Installation(tmp_path_factory.mktemp("embedded"))
    settings, secret = load_settings(site.config), secrets.token_bytes(32)
    asyncio.run(furnish(settings, site.folder, "local", secret))
    with site.serving() as serving:
        serving.wait_until(200)
        yield Place(settings, secret, "127.0.0.1", site.bootstrap, None)


@pytest.fixture
def tls_place(tmp_path: Path) -> Iterator[Place]:
    """Both Mosquittos, TLS."""
    site, secret = Site(tmp_path), secrets.token_bytes(32)
    site.make()
    asyncio.run(furnish(site.settings, tmp_path, ENVIRONMENT, secret))
    command = [sys.executable, "-m", "service", "-c", str(site.config), "serve"]
    with site.running_brokers(), (tmp_path / "log").open("wb") as log:
        root = Path(__file__).parents[3]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=root, env=clean_environment())
        try:
            Serving(process, site.ports["http"], tmp_path / "log").wait_until(200)
            yield Place(site.settings, secret, "localhost", site.ports["bootstrap"], site.ca_file)
        finally:
            process.terminate()
            process.wait(20)
