"""The composition root: builds every part of one service from its settings, runs them in one TaskGroup, drains.

Owns the order of starting and stopping, and nothing else: what the parts do is theirs. Above it only the commands.

    start: keys -> schema -> database -> environments -> embedded brokers -> health -> web -> tasks
    stop:  web -> intake off -> open batches committed and answered -> counters stored -> links -> brokers -> database

A broker that cannot be reached is no start error: its link keeps trying, and health says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from service.brokers.expiry import End, Watch
from service.credentials.authority import Authority, AuthorityError
from service.credentials.followed_keys import FollowedKeys
from service.credentials.keyfile import KeyFile, KeyFileError
from service.deployment import Compare, build_deployment
from service.domain.catalogue import Environment
from service.domain.credential import CredentialKind
from service.errors import ServiceError
from service.fleet.accounts_keeper import AccountsKeeper
from service.fleet.commander import Commander
from service.fleet.publisher import Publisher
from service.fleet.scheduler import Scheduler
from service.http.health import HealthServer
from service.http.hooks import Hooks
from service.http.providers import ask
from service.images.files import ImageFiles
from service.installation import domain_environments, mass_guard
from service.logins import expected_logins
from service.mqtt.port import Inbound, Link, Role
from service.newcomers import Newcomers
from service.operations import stats
from service.operations.commands import Commands
from service.operations.enrolment.table import Table
from service.operations.sealed import check_openable
from service.pipeline.bounds import Bounds
from service.pipeline.service import Pipeline, utc_now
from service.rotation import Rotation
from service.settings import Settings, SettingsError, WebSettings
from service.storage.database import Database
from service.storage.revocations import Revocations
from service.storage.schema import migrate
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep

if TYPE_CHECKING:
    from service.http.web import Web

log = logging.getLogger("firstlight")
DRAIN_TIMEOUT_S = 10.0  # what is not answered by then is asked again by its device
LINK_WATCH_S = 0.5
UNPROVEN_SHOWN = 200
STORAGE_CHECK_S = 2.0  # how long a question for health waits for the database


class StartError(Exception):
    """The service cannot start; the text is one line that says why."""


async def serve_until(
    settings: Settings, stop: asyncio.Event, started: Callable[[Application], None] = lambda _: None
) -> None:
    """Run one service until `stop` is set and everything is drained. Raises StartError.

    `started` is called once every task runs; links may still be connecting.
    """
    async with AsyncExitStack() as stack:
        try:
            application = await _start(settings, stack)
        except (SettingsError, KeyFileError, AuthorityError) as error:
            raise StartError(str(error)) from error
        except ServiceError as error:
            raise StartError(f"{error.public}: {error.detail}" if error.detail else error.public) from error
        except OSError as error:
            raise StartError(error.strerror or str(error)) from error
        await application.run(stop, started)


async def _start(settings: Settings, stack: AsyncExitStack) -> Application:
    # 1. What must be there and whole: keys, schema, database, authorities.
    followed = FollowedKeys(settings.key_file)
    environments = domain_environments(settings)
    authorities = _authorities(settings, environments)
    if settings.database_path.is_file():
        await asyncio.to_thread(migrate, settings.database_path)
        await asyncio.to_thread(check_openable, settings.database_path, followed.keys.seal_keys)
    database = await Database.open(settings.database_path, followed, changed_by=None)
    stack.push_async_callback(database.close)
    followed.look()  # a rotation that took the database for stopped has written its keys by now
    application = Application(settings, followed, database, environments, authorities)
    # 2. What listens. An address that is taken ends the start with nothing left behind.
    for deployment in application.deployments:
        stack.push_async_callback(deployment.stop)
        await deployment.start(application.compare(deployment.name), application.accounts.look_at)
    stack.push_async_callback(application.health.stop)
    await _listen(application.health)
    if settings.web is not None:
        application.web = _web(application, settings, settings.web)
        stack.callback(application.web.close)
    return application


class Application:
    """One service, built but not running."""

    def __init__(
        self,
        settings: Settings,
        followed: FollowedKeys,
        database: Database,
        environments: Mapping[str, Environment],
        authorities: Mapping[str, Authority],
    ) -> None:
        keys = followed.keys
        self.database = database
        self.environments = environments
        self.images = ImageFiles(settings.images_dir)
        self.store = SqlStore(database, environments)
        self.upkeep = Upkeep(database)
        self.health = HealthServer(
            settings.http.host,
            settings.http.port,
            {"/health": self.health_report, "/stats": self.stats_report, "/unproven": self.unproven_report},
        )
        self.deployments = [
            build_deployment(settings, name, self._deliver, Revocations(database, name, utc_now))
            for name in settings.served
        ]
        self.pipeline = self._build_pipeline(settings, keys, authorities)
        self.links = [link for deployment in self.deployments for link in deployment.links]
        self._attach_links()
        self._build_fleet(settings, environments)
        self.certificates = Watch(_ends(settings), utc_now)
        self._shared = bool(settings.environments.keys() - settings.served)
        # Which service key it is does not matter to logins: devices that it speaks to have certificates.
        self.newcomers = Newcomers(
            database, self.store, self.pipeline.granters, keys.service_private_key(), clock=utc_now
        )
        self.web: Web | None = None
        self.keys = followed
        self.rotation = Rotation(followed, database, self.pipeline.use_keys, ",".join(sorted(settings.served)))
        self._started_at = time.monotonic()
        self._draining = False

    def _build_pipeline(self, settings: Settings, keys: KeyFile, authorities: Mapping[str, Authority]) -> Pipeline:
        """What answers devices, over the deployments."""
        return Pipeline(
            store=self.store,
            upkeep=self.upkeep,
            gates={deployment.name: deployment.gate for deployment in self.deployments},
            images=self.images,
            keys=keys,
            authorities=authorities,
            bounds=_bounds(settings),
            root=settings.topic_root,
            ask_hook=Hooks().ask,
            elsewhere=settings.environments.keys() - settings.served,
        )

    def _attach_links(self) -> None:
        for link in self.links:
            self.pipeline.attach(link)
            link.on_connect = partial(self.pipeline.link_connected, link)

    def _build_fleet(self, settings: Settings, environments: Mapping[str, Environment]) -> None:
        """What serves operators and integrators, on the operational brokers."""
        links: dict[str, Link] = {link.environment: link for link in self.links if link.role is Role.OPERATIONAL}
        commands = Commands(self.database, environments, random_bytes=os.urandom, guard=mass_guard(settings))
        every = [*links.values()]
        root = settings.topic_root
        count = self.pipeline.record.count
        self.commander = Commander(self.database, commands, every, root=root, count=count, noted=commands.looks)
        self.accounts = AccountsKeeper(self.database, {one.name: one.gate for one in self.deployments})
        self.publisher = Publisher(self.database, links, self.commander.push, root=root)
        self.table = Table(self.database, settings.data_dir / "enrolment", ask, clock=utc_now, random_bytes=os.urandom)
        self.scheduler = Scheduler(self.database, self.table.jobs, clock=utc_now)

    def _deliver(self, message: Inbound) -> None:
        if self.commander.is_for_it(message.topic):
            self.commander.deliver(message)
        else:
            self.pipeline.deliver(message)

    def compare(self, environment: str) -> Compare:
        """How an environment's broker is made to let in exactly what the database says, by a new walk at each call."""
        service_key, granter = self.keys.service_private_key(), self.pipeline.granters[environment]
        return lambda: granter.reconcile(expected_logins(self.upkeep, self.store, environment, service_key))

    async def run(self, stop: asyncio.Event, started: Callable[[Application], None]) -> None:
        """Run everything until `stop` is set, then drain."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.pipeline.run(), name="pipeline"),
                group.create_task(self._watch_links(), name="links"),
                group.create_task(self.commander.run(), name="commander"),
                group.create_task(self.accounts.run(), name="accounts"),
                group.create_task(self.publisher.run(), name="publisher"),
                group.create_task(self.scheduler.run(), name="scheduler"),
                group.create_task(self.certificates.run(), name="certificates"),
                group.create_task(self.rotation.run(), name="rotation"),
            ]
            if self._shared:
                tasks.append(group.create_task(self.newcomers.run(), name="newcomers"))
            for deployment in self.deployments:
                for name, work in deployment.tasks(self.compare(deployment.name)).items():
                    tasks.append(group.create_task(work, name=name))
            addresses = {"health": f"http://{self.health.host}:{self.health.port}/health"}
            web = None
            if self.web is not None:
                web = group.create_task(self.web.run(), name="web")
                addresses["web"] = f"{self.web.scheme}://{self.web.host}:{self.web.port}"
            log.info("firstlight is running", extra=addresses)
            started(self)
            await stop.wait()
            self._draining = True
            if self.web is not None and web is not None:  # first: its requests need all the rest
                self.web.drain()
                await web
            await self._drain()
            for task in tasks:
                task.cancel()
        log.info("firstlight has stopped")

    async def _drain(self) -> None:
        log.info("stopping: no more messages are taken, open ones are finished")
        self.commander.closed = True
        if not await self.pipeline.drain(DRAIN_TIMEOUT_S):
            log.warning("not everything was finished within %.0f s; devices ask again", DRAIN_TIMEOUT_S)

    async def _watch_links(self) -> None:
        """Log what becomes of the links."""
        seen: dict[int, tuple[int, bool]] = {}
        await asyncio.sleep(LINK_WATCH_S)  # the time to connect at the start is no news
        while True:
            for link in self.links:
                now = (link.state.connects, link.connected.is_set())
                before = seen.get(id(link), (0, True))
                seen[id(link)] = now
                if link.role is Role.OPERATIONAL:
                    self.pipeline.link_state(link.environment, connected=now[1])
                name = f"{link.environment} {link.role.value}"
                if now[0] != before[0]:
                    log.info("link %s is connected", name)
                elif before[1] and not now[1]:
                    log.warning("link %s is not connected: %s", name, link.state.last_error or "connecting")
            await asyncio.sleep(LINK_WATCH_S)

    async def health_report(self, _query: Mapping[str, str]) -> dict[str, Any]:
        """What GET /health says; "ok" decides between 200 and 503."""
        links = {f"{link.environment} {link.role.value}": link for link in self.links}
        problems = [
            f"link {name}: {link.state.last_error or 'connecting'}"
            for name, link in links.items()
            if not link.connected.is_set()
        ]
        problems += self.certificates.ended
        if self._draining:
            problems.append("stopping")
        storage = await self._storage_problem()
        if storage is not None:
            problems.append(f"storage: {storage}")
        return {
            "service": "firstlight",
            "ok": not problems,
            "problems": problems,
            "warnings": self.certificates.warnings,
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "links": {
                name: {
                    "connected": link.connected.is_set(),
                    "connects": link.state.connects,
                    "received": link.state.received,
                    "sent": link.state.sent,
                    "last_error": link.state.last_error,
                }
                for name, link in links.items()
            },
        }

    async def stats_report(self, _query: Mapping[str, str]) -> dict[str, Any]:
        """What GET /stats says: counts by state and every counter, as the database has them."""
        found = await stats.collect(self.database)
        return {"service": "firstlight", **asdict(found)}

    async def unproven_report(self, query: Mapping[str, str]) -> dict[str, Any]:
        """What GET /unproven?group=...&serial=...&credentials=...,... says: steps under that name by whoever did not
        prove to bear it, and what was refused on these logins before it reached the rules.

        The newest 200 that this process remembers. Anybody can cause them, so they are in no database.
        """
        name = (query.get("group", ""), query.get("serial", ""))
        logins = set(query.get("credentials", "").split(",")) - {""}
        found = [
            asdict(one)
            for one in self.pipeline.record.unproven
            if (one.group_id, one.serial) == name or one.credential_id in logins
        ]
        return {"service": "firstlight", "steps": found[-UNPROVEN_SHOWN:]}

    async def _storage_problem(self) -> str | None:
        try:
            async with asyncio.timeout(STORAGE_CHECK_S):
                await self.upkeep.catalogue_rev()
        except ServiceError as error:
            return error.cause
        except TimeoutError:
            return "no answer in time"
        return None


def _ends(settings: Settings) -> dict[str, End]:
    """Where the brokers of this service's environments show a certificate."""
    return {
        f"{name} {end.host}:{end.port}": End(end.host, end.port)
        for name in sorted(settings.served)
        for end in settings.environments[name].endpoints.every()
        if end.tls
    }


def _bounds(settings: Settings) -> Bounds:
    day_s = 86400
    return Bounds(
        events_kept_s=settings.history.events_days * day_s,
        commands_kept_s=settings.history.commands_days * day_s,
        audit_kept_s=settings.history.audit_days * day_s,
    )


def _authorities(settings: Settings, environments: Mapping[str, Environment]) -> dict[str, Authority]:
    """The CA of every environment that issues certificates. Raises AuthorityError."""
    return {
        name: Authority.load(settings.ca_dir(name))
        for name, environment in environments.items()
        if CredentialKind.X509 in environment.endpoints
    }


def _web(application: Application, settings: Settings, web: WebSettings) -> Web:
    """The HTTP interfaces, listening. Raises StartError."""
    # FastAPI takes half a second to import: only who has them pays for it.
    from service.http.services import Services  # noqa: PLC0415
    from service.http.web import Web, WebError  # noqa: PLC0415
    from service.interfaces import INTERFACES  # noqa: PLC0415

    services = Services(
        settings=settings,
        environments=application.environments,
        database=application.database,
        keys=application.keys,
        images=application.images,
        pipeline=application.pipeline,
        looks=application.commander.looks,
        clock=utc_now,
        random_bytes=os.urandom,
    )
    built = Web(web, INTERFACES, services)
    try:
        built.listen()
    except WebError as error:
        raise StartError(str(error)) from error
    return built


async def _listen(health: HealthServer) -> None:
    try:
        await health.start()
    except OSError as error:
        raise StartError(f"cannot listen on {health.host}:{health.port} (http): {error.strerror or error}") from error
