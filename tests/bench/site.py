"""A real installation in a temporary folder: settings, keys, CA, database, both Mosquittos and `firstlight serve`.

Owns only how these are put together for a run; every part is the project's own.
"""

import asyncio
import base64
import contextlib
import secrets
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.render import render
from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.installation import broker_plan
from service.mqtt.port import EVERYWHERE
from service.settings import load_settings
from service.storage.schema import migrate
from tests.bench.brokers import BenchBrokers
from tests.bench.wiring import ROOT, environment
from tests.support.environment_section import environment_section
from tests.support.ports import free_ports

ENVIRONMENT, PRODUCT, GROUP = "bench", "thermometer", "bench"
IMPORT_PAGE = 50_000
CONFIG = """\
data_dir = "data"
[http]
port = {http}
[log]
format = "json"
level = "warning"
"""
PORTS = ("http", "bootstrap", "api_key", "x509", "service_bootstrap", "service_operational")


class Site:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "firstlight.toml"
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.group_secret = secrets.token_bytes(32)
        self._serials = 0

    def make(self) -> None:
        """Everything that `firstlight init` makes, on free ports and with the load-test identity at the brokers."""
        endpoints = {name: self.ports[name] for name in ("bootstrap", "api_key", "x509")}
        links = {name: self.ports[f"service_{name}"] for name in ("bootstrap", "operational")}
        text = CONFIG.format(**self.ports) + environment_section(ENVIRONMENT, endpoints, links)
        self.config.write_text(text, encoding="utf-8")
        self.settings = load_settings(self.config)
        self.settings.data_dir.mkdir(mode=0o700)
        KeyFile.create(self.settings.key_file)
        Authority.create(self.settings.ca_dir(ENVIRONMENT), ENVIRONMENT, datetime.now(UTC))
        migrate(self.settings.database_path)
        issuer = load_issuer(self.settings.ca_dir(ENVIRONMENT))
        self.brokers = BenchBrokers(self.directory / "unused", issuer)
        self.brokers.plan = broker_plan(self.settings, ENVIRONMENT)
        render(self.brokers.plan, issuer, (), (), datetime.now(UTC))
        self.brokers.admit_load_test()

    @property
    def ca_file(self) -> str:
        return str(self.brokers.plan.ca)

    @contextmanager
    def running_brokers(self) -> Iterator[None]:
        try:
            for role in EVERYWHERE:
                self.brokers.start(role)
            yield
        finally:
            for role in [*self.brokers.processes]:
                self.brokers.stop(role)

    async def furnish(self, image_bytes: int) -> None:
        """A product with one signed target version of random bytes, and a group whose device keys are derived."""
        await self.command("product", "create", PRODUCT, "--name", "Thermometer", "--hardware", "rev-a")
        key, image, signature = (self.directory / name for name in ("release.key", "image.bin", "image.sig"))
        with image.open("wb") as file:
            for _ in range(image_bytes // 2**20):
                file.write(secrets.token_bytes(2**20))
        await self.command("release", "keygen", str(key))
        await self.command("release", "key", "add", f"{key}.pub", "--name", "bench")
        signed = ["--product", "Thermometer", "--hardware", "rev-a", "--name", "2.0", "--seq", "2"]
        await self.command("release", "sign", str(image), "--key", str(key), "--out", str(signature), *signed)
        await self.command("version", "add", PRODUCT, "2.0", str(image), "--signature", str(signature), "--target")
        secret = base64.b64encode(self.group_secret).decode()
        policies = ["--key-kind", "derived", "--environment", ENVIRONMENT, "--ou", "bench", "--secret", secret]
        await self.command("group", "create", GROUP, "--product", PRODUCT, *policies)

    async def register(self, devices: int) -> list[str]:
        """That many new serials, registered by an import."""
        serials = [f"B{self._serials + number:07d}" for number in range(devices)]
        self._serials += devices
        table = self.directory / "devices.csv"
        table.write_text("group,serial\n" + "".join(f"{GROUP},{serial}\n" for serial in serials), encoding="utf-8")
        await self.command("device", "import", str(table))
        return serials

    async def command(self, *words: str) -> str:
        """Standard output of `firstlight ...`. Raises RuntimeError with its last words."""
        process = await asyncio.create_subprocess_exec(
            *self._program(),
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"firstlight {' '.join(words[:2])}: {(err or out).decode()[-1500:]}")
        return out.decode()

    @asynccontextmanager
    async def running_service(self) -> AsyncIterator[int]:
        """The process id of a `firstlight serve` that says it is well."""
        log = (self.directory / "service.log").open("ab")
        with log:
            process = await asyncio.create_subprocess_exec(
                *self._program(), "serve", stdout=log, stderr=log, env=environment(), cwd=ROOT
            )
        try:
            await self._well(process)
            yield process.pid
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 20)
            if process.returncode is None:
                process.kill()
                await process.wait()

    def service_log(self) -> str:
        return (self.directory / "service.log").read_text(errors="replace")

    def _program(self) -> list[str]:
        return [sys.executable, "-m", "service", "-c", str(self.config)]

    async def _well(self, process: asyncio.subprocess.Process) -> None:
        url = f"http://127.0.0.1:{self.ports['http']}/health"
        for _ in range(300):
            if process.returncode is not None:
                break
            with contextlib.suppress(OSError):
                await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).close())
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"the service is not well: {self.service_log()[-2000:]}")
