"""A run in which service and brokers are killed at random moments while devices activate and take their firmware.

Owns the plan of the kills (all from one seed), what is done to the broker's memory between kill and start, and the
judgement at the end: every device confirmed, every device let in again, the auditor content.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from device_sdk.core.identity import Policy
from device_sdk.drivers.crypto import FullCrypto
from device_sdk.simulator import FaultPlan, Fleet, PowerPlan
from service.brokers.mosquitto.certificates import revoked_serials
from service.mqtt.port import EVERYWHERE, Role
from tests.support import auditor
from tests.support.renamer import Renamer
from tests.support.site import ENVIRONMENT, GROUP, Site, made_site, until

SERVICE = "service"
RENAMED = "simple-1"  # a device that only has itself renamed, which the simulator's never do
RENDER, STALE, DELETED, TORN = "rendered", "stale", "deleted and rendered", "torn and rendered"


@dataclass(frozen=True, slots=True)
class Plan:
    """`pause_s`: between a start and the next kill, at random up to this; `down_s`: between a kill and the start."""

    devices: int
    kills: int
    pause_s: float
    down_s: float
    image_bytes: int
    within_s: float  # for everything after the last kill
    jitter_s: float
    policy: Policy
    faults: FaultPlan | None = None
    power: PowerPlan | None = None
    broker: str = "mosquitto"  # "embedded": they die with the service
    certificates: bool = False


@dataclass(slots=True)
class Result:
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)  # what the operational broker came back with
    seconds: float = 0.0
    replies: int = 0
    boots: int = 0
    power_cuts: int = 0
    bytes: int = 0

    def line(self, devices: int) -> str:
        of = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        memory = ", ".join(f"{name} {count}" for name, count in sorted(self.memory.items()))
        return (
            f"chaos: seed {self.seed}: {devices} devices confirmed, {self.kills.total()} kills ({of}; dynsec {memory}),"
            f" {self.power_cuts} power cuts, {self.boots} boots, {self.replies} replies audited,"
            f" {self.bytes / 1e6:.0f} MB written, {self.seconds:.0f} s"
        )


async def run_chaos(folder: Path, plan: Plan, seed: int, say: Callable[[str], None] = lambda _: None) -> Result:
    """Raises AssertionError with what was broken."""
    rng = random.Random(seed)
    result = Result(seed)
    async with made_site(folder, plan.broker, certificates=plan.certificates) as site:
        serials = [f"T-{number:04}" for number in range(plan.devices)]
        await site.register([*serials, RENAMED])
        await site.add_version("2.0", 2, rng.randbytes(plan.image_bytes))
        target = await site.add_version("3.0", 3, rng.randbytes(plan.image_bytes), target=False)
        if site.mosquittos is not None:
            for role in EVERYWHERE:
                await site.start_broker(role)
            shutil.copy(site.dynsec_file, folder / "stale.json")
        await site.start_service(level="warning")
        notes: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=25))
        fleet = Fleet(
            [site.identity(serial) for serial in serials],
            seed=rng.getrandbits(64),
            policy=plan.policy,
            faults=plan.faults,
            power_plan=plan.power,
            jitter_s=plan.jitter_s,
            target=target,
            crypto=FullCrypto(x509_credentials=True) if plan.certificates else None,
            on_note=lambda who, note: notes[who.serial].append(
                f"{time.monotonic() - started:.1f} {note.level} {note.event} {note.detail}"
            ),
        )
        started, stop = time.monotonic(), asyncio.Event()
        renamer = Renamer(site, RENAMED)
        async with asyncio.TaskGroup() as group:
            group.create_task(fleet.run(stop))
            if not plan.certificates:
                group.create_task(renamer.run(stop))
            try:
                await _kill_all(site, plan, rng, result, say)
                await _confirmed(site, fleet, plan, say)
                await _all_let_in_again(site, fleet, plan)
            except AssertionError as error:
                stuck = [serial for serial in serials if serial in str(error)]
                for serial in stuck[:4]:
                    error.add_note("\n".join([_history(site, serial), *notes[serial]]))
                raise
            finally:
                stop.set()
        result.seconds = time.monotonic() - started
        summary = fleet.summary()
        result.boots, result.power_cuts, result.bytes = summary.boots, summary.power_cuts, summary.bytes
        result.replies = await _judge(site, fleet, renamer)
    return result


async def _kill_all(site: Site, plan: Plan, rng: random.Random, result: Result, say: Callable[[str], None]) -> None:
    """Each part in turn at first, then any; the last target comes when most kills are over."""
    parts, weights = ([SERVICE, Role.OPERATIONAL, Role.BOOTSTRAP], [5, 4, 2]) if site.mosquittos else ([SERVICE], [1])
    whom = parts[: plan.kills]
    whom += rng.choices(parts, weights=weights, k=plan.kills - len(whom))
    head, tail = whom[:3], whom[3:]
    rng.shuffle(head)
    for number, part in enumerate([*head, *tail]):
        if number == plan.kills * 6 // 10:
            await site.set_target("3.0")
        await asyncio.sleep(rng.uniform(0.05, plan.pause_s))  # the random moment, not a wait for something
        if part is SERVICE:
            await site.stop_service(signal.SIGKILL)
            await asyncio.sleep(rng.uniform(0, plan.down_s))
            await site.start_service(well=False, level="warning")
        else:
            await _kill_broker(site, plan, Role(part), rng, result)
        result.kills[str(part)] += 1
        say(f"kill {number + 1} of {plan.kills}: {part}")


async def _kill_broker(site: Site, plan: Plan, role: Role, rng: random.Random, result: Result) -> None:
    await site.stop_broker(role, signal.SIGKILL)
    memory = rng.choice([RENDER, STALE, DELETED, TORN]) if role is Role.OPERATIONAL else RENDER
    file = site.dynsec_file
    if not file.read_bytes():
        result.memory["emptied by the kill itself"] += 1
    if memory == DELETED:
        file.unlink()
    elif memory == TORN:  # what the crash of a Mosquitto that is saving leaves behind
        data = file.read_bytes()
        file.write_bytes(data[: rng.choice([0, rng.randint(0, len(data))])])
    elif memory == STALE:  # every grant since is forgotten, and nobody renders: the running service must notice
        shutil.copy(site.folder / "stale.json", file)
    if role is Role.OPERATIONAL:
        result.memory[memory] += 1
    await asyncio.sleep(rng.uniform(0, plan.down_s))
    await site.start_broker(role, rendered=memory != STALE)


async def _confirmed(site: Site, fleet: Fleet, plan: Plan, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + plan.within_s
    while missing := [device for device in fleet.devices if not device.confirmed.is_set()]:
        if time.monotonic() > deadline:
            told = "\n".join(f"{one.identity.serial}: {one.status}" for one in missing[:20])
            raise AssertionError(f"{len(missing)} devices are not confirmed:\n{told}\n{site.log()[-3000:]}")
        say(f"{len(missing)} devices are not confirmed yet")
        await asyncio.wait([asyncio.create_task(missing[0].confirmed.wait())], timeout=5)
    everyone = {(one.identity.group_id, one.identity.serial) for one in fleet.devices}
    try:
        await until(lambda: auditor.confirmed_devices(site.settings.database_path) == everyone, 30)
    except TimeoutError:
        unlike = sorted(everyone - auditor.confirmed_devices(site.settings.database_path))
        told = [_history(site, serial) for _, serial in unlike[:5]]
        raise AssertionError(f"{len(unlike)} devices run the target, but the service does not know: {told}") from None


def _history(site: Site, serial: str) -> str:
    device = site.query("SELECT fw_state, fw_cause, fw_version_id FROM device WHERE serial = ?", serial)
    steps = site.query("SELECT verb, step, cause, detail FROM trace WHERE serial = ? ORDER BY step_id", serial)
    return "\n".join([f"\n{serial}: {device}", *map(str, steps[-15:])])


async def _all_let_in_again(site: Site, fleet: Fleet, plan: Plan) -> None:
    """After one more loss of the operational broker's memory, every device gets an answer on its credential."""
    embedded = site.mosquittos is None
    if embedded:
        await site.stop_service(signal.SIGKILL)
    else:
        await site.stop_broker(Role.OPERATIONAL, signal.SIGKILL)
    since = time.monotonic()  # a device may be back before the start is known to be over
    if embedded:
        await site.start_service(level="warning")
    else:
        site.dynsec_file.write_bytes(b"")
        await site.start_broker(Role.OPERATIONAL)
    serials = {device.identity.serial for device in fleet.devices}

    def back() -> bool:
        return serials <= {r.serial for r in fleet.replies if r.at > since and r.verb == "online" and r.ok}

    try:
        await until(back, plan.within_s)
    except TimeoutError:
        heard = {r.serial for r in fleet.replies if r.at > since and r.verb == "online" and r.ok}
        raise AssertionError(f"locked out: {sorted(serials - heard)}") from None


async def _judge(site: Site, fleet: Fleet, renamer: Renamer) -> int:
    """The auditor's findings must be none. Returns how many replies it looked at."""
    database = site.settings.database_path
    await until(lambda: site.query("SELECT 1 FROM credential WHERE state = 'dropped' AND revoked_at IS NULL") == [], 30)
    assert await site.stop_service() == 0
    logins = None if site.mosquittos is None else await site.broker_logins()
    told = [*auditor.told_by(fleet.replies), *renamer.told]
    assert renamer.told or site.settings.environments[ENVIRONMENT].endpoints.api_key is None
    refused = None
    if site.mosquittos is not None and site.mosquittos.plan.x509 is not None:
        refused = revoked_serials(site.mosquittos.plan.crl.read_bytes())
    found = auditor.audit(database, told, logins=logins, refused=refused)
    assert found == [], found
    rows = site.query(
        "SELECT d.serial, count(*) FROM credential c JOIN device d USING (device_id)"
        " WHERE c.state = 'confirmed' AND d.group_id = ? AND d.serial <> ? GROUP BY d.serial",
        GROUP,
        renamer.serial,
    )
    assert dict(rows) == {device.identity.serial: 1 for device in fleet.devices}
    for line in site.output:
        assert "Traceback" not in line, line[:4000]
        assert '"level": "error"' not in line.lower(), line[:4000]
    return len(told)
