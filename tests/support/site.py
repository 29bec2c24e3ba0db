"""A whole site: settings, keys, database, firmware, registered devices, brokers, and the service as a process.

Owns how these are put together, killed and started again by tests. Every part is the project's own; operators' work is
done by the operations that the commands use. Brokers: "embedded" (in the service) or "mosquitto" (both, rendered).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_sdk.core.identity import Endpoint, Identity
from service.app import Application, serve_until
from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate
from service.brokers.mosquitto.render import prepare, read_password, render
from service.brokers.mosquitto.revocation import RevocationList
from service.cli.main import app
from service.credentials.authority import Authority
from service.credentials.keyfile import KeyFile
from service.domain.group import Group, Reactivation
from service.errors import Secret
from service.images.files import ImageFiles
from service.installation import broker_plan, domain_environments
from service.logins import account_logins, expected_logins
from service.mqtt.port import Role
from service.operations import groups, products, registration, releases, versions
from service.settings import load_settings
from service.storage.database import Database
from service.storage.revocations import Revocations
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep
from tests.support.auditor import audit
from tests.support.command_line import CliRunner
from tests.support.environment_section import environment_section
from tests.support.fork_server import Forked, fork_server
from tests.support.installation import clean_environment
from tests.support.mosquitto import Mosquittos
from tests.support.ports import free_ports
from tests.support.storage import empty_database

ROOT = Path(__file__).parents[2]
ENVIRONMENT, OU, GROUP = "local", "acme/plant-7", "plant-7"
PRODUCT_ID, PRODUCT, HARDWARE, FACTORY = "thermometer", "Thermometer", "rev-a", "1.0"
PORTS = ("http", "bootstrap", "api_key", "warehouse", "service_bootstrap", "service_operational", "service_warehouse")
KEPT_LINES = 20_000
_GENERAL = """\
data_dir = "data"
[http]
port = {http}
"""


class Site:
    """`await make()`, then start brokers and service; `close()` ends every process, however the test ended."""

    def __init__(
        self, folder: Path, broker: str = "embedded", *, certificates: bool = False, warehouse: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.broker = folder, broker
        self.config = folder / "firstlight.toml"
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        login = "x509" if certificates else "api_key"
        endpoints = {"bootstrap": self.ports["bootstrap"], login: self.ports["api_key"]}
        links = {name: self.ports[f"service_{name}"] for name in ("bootstrap", "operational")}
        if warehouse:
            endpoints["warehouse"] = self.ports["warehouse"]
            links["warehouse"] = self.ports["service_warehouse"]
        section = environment_section(ENVIRONMENT, endpoints, None if broker == "embedded" else links)
        self.config.write_text(_GENERAL.format(**self.ports) + section, encoding="utf-8")
        self.settings = load_settings(self.config)
        self.keys: dict[tuple[str, str], bytes] = {}
        self.images: dict[str, bytes] = {}  # by version name
        self.release_key = b""
        self.output: deque[str] = deque(maxlen=KEPT_LINES)  # of every service process so far
        self._service: asyncio.subprocess.Process | Forked | None = None
        self._reader: asyncio.Task[None] | None = None
        self.mosquittos: Mosquittos | None = None

    # -- what is there before anything runs ---------------------------------------------------------------------------

    async def make(self, *, reactivation: Reactivation = Reactivation.HOLD, with_release_key: bool = True) -> None:
        """Keys, CA, database, product, release key and one group."""
        self.settings.data_dir.mkdir(mode=0o700)
        KeyFile.create(self.settings.key_file)
        Authority.create(self.settings.ca_dir(ENVIRONMENT), ENVIRONMENT, datetime.now(UTC))
        self.settings.database_path.touch(0o600)
        self.settings.database_path.write_bytes(empty_database())
        async with self.database() as database:
            await products.create(database, PRODUCT_ID, PRODUCT, HARDWARE)
            if with_release_key:
                public = await asyncio.to_thread(releases.keygen, self.folder / "release.key")
                await releases.add_key(database, public, "test", now=datetime.now(UTC))
                self.release_key = public.public_key
        await self.add_group(Group(GROUP, PRODUCT_ID, default_ou=OU, default_environment=ENVIRONMENT,
                                   reactivation=reactivation))  # fmt: skip
        if self.broker == "mosquitto":
            self.mosquittos = Mosquittos(self.folder / "unused", load_issuer(self.settings.ca_dir(ENVIRONMENT)))
            self.mosquittos.plan = broker_plan(self.settings, ENVIRONMENT)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A second opening of the database, as a command has it."""
        database = await Database.open(
            self.settings.database_path, KeyFile.load(self.settings.key_file).sealer(), check=False
        )
        try:
            yield database
        finally:
            await database.close()

    async def add_group(self, group: Group) -> None:
        async with self.database() as database:
            await groups.create(database, group, random_bytes=os.urandom)

    async def add_version(self, name: str, seq: int, image: bytes, *, target: bool = True) -> str:
        """Sign and add one image; returns its version id."""
        path = self.folder / f"image-{name}.bin"
        path.write_bytes(image)
        self.images[name] = image
        key = self.folder / "release.key"
        signature = await asyncio.to_thread(
            releases.sign, path, key, product=PRODUCT, hardware=HARDWARE, name=name, seq=seq
        )
        async with self.database() as database:
            added = await versions.add(
                database, ImageFiles(self.settings.images_dir), product_id=PRODUCT_ID, name=name, image_path=path,
                signature=signature, target=target, now=datetime.now(UTC),
            )  # fmt: skip
        return added.version.version_id

    async def set_target(self, name: str) -> None:
        async with self.database() as database:
            await versions.set_target(database, PRODUCT_ID, name)

    async def register(
        self, serials: Iterable[str], group_id: str = GROUP, keys: Mapping[str, bytes] | None = None
    ) -> None:
        """Register these serials, each with its key of `keys` or a random one."""
        asked = []
        for serial in serials:
            self.keys[group_id, serial] = key = (keys or {}).get(serial) or os.urandom(32)
            asked.append(registration.Registration(group_id, serial, key=Secret(key)))
        async with self.database() as database:
            outcomes = await registration.register_page(database, asked, now=datetime.now(UTC), random_bytes=os.urandom)
        assert {one.result for one in outcomes} <= {registration.Result.REGISTERED}, outcomes

    def identity(self, serial: str, group_id: str = GROUP) -> Identity:
        """The registered device as the factory made it."""
        ends = self.settings.environments[ENVIRONMENT].endpoints
        end, there = ends.bootstrap, ends.warehouse
        ca = None
        if end.tls:
            ca = (self.settings.ca_dir(ENVIRONMENT) / "ca.pem").read_text("ascii")
        return Identity(
            group_id,
            serial,
            self.keys[group_id, serial],
            PRODUCT,
            HARDWARE,
            [Endpoint(end.host, end.port, end.tls, ca)],
            (self.release_key,),
            factory_seq=1,
            factory_name=FACTORY,
            allow_plain=not end.tls,
            warehouse=() if there is None else (Endpoint(there.host, there.port, there.tls, ca),),
        )

    async def command(self, *words: str) -> str:
        """Standard output of one `firstlight` command, which must succeed; in this process, for speed."""
        done = await asyncio.to_thread(CliRunner().invoke, app, ["--config", str(self.config), *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    # -- the service --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving_here(self) -> AsyncIterator[Application]:
        """The service in this very process and loop, once its links are connected."""
        stop, begun = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve_until(self.settings, stop, begun.set_result))
        await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        application: Application = begun.result()
        for link in application.links:
            async with asyncio.timeout(20):
                await link.connected.wait()
        try:
            yield application
        finally:
            stop.set()
            await task

    async def start_service(
        self, *, well: bool = True, level: str = "info", wrapper: tuple[str, ...] = (), module: str = "service",
        more: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start the process; with `well`, wait until it is connected to its brokers. `more`: of its environment."""
        logging = {"FIRSTLIGHT_LOG__LEVEL": level, "FIRSTLIGHT_LOG__FORMAT": "json"}
        environment = clean_environment() | logging | dict(more or {})
        words = ("-c", str(self.config), "serve", "--with-parent")
        if wrapper or more or module != "service":
            self._service = await asyncio.create_subprocess_exec(
                *(*wrapper, sys.executable, "-m", module, *words, str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
            )
        else:
            server = fork_server()
            self._service = await server.start([*words, str(server.pid)], environment)
        self._reader = asyncio.create_task(self._read(self._service))
        if well:
            await self.well()

    async def _read(self, process: asyncio.subprocess.Process | Forked) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.output.append(line.decode(errors="replace"))

    @property
    def pid(self) -> int:
        assert self._service is not None
        return self._service.pid

    async def well(self, within_s: float = 60.0) -> None:
        """Until /health says ok."""

        async def ok() -> bool:
            assert self._service is not None
            assert self._service.returncode is None, self.log()[-3000:]
            found = await self.ask("/health")
            return found is not None and found["ok"]

        await until(ok, within_s)

    async def ask(self, path: str) -> dict[str, Any] | None:
        """The body of one GET of the health endpoint; None while nothing answers."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["http"])
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                    answer = await reader.read()
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
            body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        except (OSError, TimeoutError, ValueError):
            return None
        return body

    async def stop_service(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit code."""
        process, self._service = self._service, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(30):
            code = await process.wait()
            assert self._reader is not None
            await self._reader
        return code

    async def ended(self) -> int:
        """Wait until the process ends by itself; its exit code."""
        assert self._service is not None
        code = await self._service.wait()
        assert self._reader is not None
        await self._reader
        return code

    def log(self) -> str:
        return "".join(self.output)

    def log_lines(self) -> list[dict[str, Any]]:
        """What was logged as JSON; every other line is an error of its own."""
        return [json.loads(line) for line in self.output if line.strip()]

    # -- the Mosquittos -----------------------------------------------------------------------------------------------

    async def start_broker(self, role: Role, *, rendered: bool = True) -> None:
        """Render, as the unit does before each start, and start."""
        assert self.mosquittos is not None
        if rendered:
            await self.render()
        await asyncio.to_thread(self.mosquittos.start, role)

    async def stop_broker(self, role: Role, number: int = signal.SIGTERM) -> None:
        assert self.mosquittos is not None
        await asyncio.to_thread(self.mosquittos.stop, role, number)

    async def render(self) -> None:
        assert self.mosquittos is not None
        async with self.database() as database:
            key = KeyFile.load(self.settings.key_file).service_private_key()
            store = SqlStore(database, domain_environments(self.settings))
            logins = [one async for one in expected_logins(Upkeep(database), store, ENVIRONMENT, key)]
            accounts = await account_logins(database, ENVIRONMENT)
            of, now = self.mosquittos, datetime.now(UTC)
            prepare(of.plan)
            if of.plan.x509 is not None:
                revoked = Revocations(database, ENVIRONMENT, lambda: now)
                await RevocationList(of.plan.crl, of.issuer, revoked, owner=of.plan.run_as).settle(now)
        await asyncio.to_thread(render, of.plan, of.issuer, logins, None, now, accounts=accounts)

    @property
    def dynsec_file(self) -> Path:
        assert self.mosquittos is not None
        return self.mosquittos.plan.dynsec(Role.OPERATIONAL)

    async def broker_logins(self) -> frozenset[str]:
        """Whom the running operational Mosquitto lets in. Only while the service is down: both are one admin."""
        assert self.mosquittos is not None
        assert self._service is None
        plan = self.mosquittos.plan
        control = DynsecControl("127.0.0.1", plan.operational_service_port, read_password(plan.admin_password_file))
        task = asyncio.create_task(control.run())
        try:
            return await MosquittoGate(control).snapshot()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- looking ------------------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.settings.database_path}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def rows(self, *, but: Iterable[str] = ("counter", "meta")) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, for a comparison of before and after. `meta` is the ticker's."""
        names = [row[0] for row in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: self.query(f'SELECT * FROM "{name}"') for name in names if name not in set(but)}

    def audit(self) -> None:
        """What the auditor finds; replies and the broker's list are for the tests that have them."""
        assert audit(self.settings.database_path, settled=False) == []

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self.stop_service(signal.SIGKILL)
        if self.mosquittos is not None:
            for role in [*self.mosquittos.processes]:
                await self.stop_broker(role, signal.SIGKILL)


@asynccontextmanager
async def made_site(
    folder: Path, broker: str = "embedded", *, certificates: bool = False, **more: Any
) -> AsyncIterator[Site]:
    """A site that is made; nothing runs yet. `certificates`: devices log in with those and not with API keys."""
    site = Site(folder, broker, certificates=certificates)
    try:
        await site.make(**more)
        yield site
    finally:
        await site.close()
    site.audit()


async def until(
    check: Callable[[], Awaitable[bool]] | Callable[[], bool], within_s: float = 20.0, look_s: float = 0.02
) -> None:
    """Wait until `check()` is true, looking often. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            found = check()
            if (await found) if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(look_s)


def seed_of_run() -> int:
    """FIRSTLIGHT_SEED where it is set, else a new one; printed, so that a run can be had again."""
    seed = int(os.environ.get("FIRSTLIGHT_SEED") or random.SystemRandom().getrandbits(32))
    print(f"\nFIRSTLIGHT_SEED={seed}", flush=True)
    return seed
