"""The doctor: canaries that try what must be allowed and what must not, on the brokers of one environment.

Owns the checks and their words. A check is judged by messages that arrive, never by SUBACK: Mosquitto grants every
subscription and filters at delivery. "Nothing arrives" is shown by a permitted message that follows on the same way.
Temporary logins are granted through the gate and revoked at the end, whatever happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiomqtt

from device_sdk.wire import ids, topics
from service.brokers.canary import Canary, Door
from service.brokers.gate import CANARY_PREFIX, AccountLogin, BrokerGate, GateError, Login
from service.brokers.mosquitto.accounts import acls_of, clients_of, is_account
from service.brokers.mosquitto.acl import AclError, parse_acl, too_wide
from service.brokers.mosquitto.plan import ADMIN_USER, OWN_USERS, SERVICE_USER, BrokerPlan
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import MOUNT, SPACES, Role, root_of

DEAD_WITHIN_S = 2.0
WIDE = ("#", "+/#", "$share/doctor/#", "$SYS/#")
TRAPS: tuple[tuple[tuple[int, int, int], str], ...] = (  # fixed in, what it is
    ((2, 0, 12), "the mount point of a warehouse stays on what units receive: they take both"),
    ((2, 0, 15), "expired and queued messages are miscounted: rely on answers, not on the queue"),
    ((2, 0, 16), "the dynamic-security file is saved in place and can be emptied by a crash: render before each start"),
    ((2, 0, 16), "a last will may be aimed at $CONTROL: the ACL refuses it at delivery"),
    ((2, 0, 22), "older than what is recommended"),
    ((2, 1, 0), "a missing or damaged ACL file at a reload opens the broker where the guard plugin is not loaded"),
)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    reason: str = ""  # what was seen, for a failure; a hint otherwise


@dataclass(frozen=True, slots=True)
class Patient:
    """One environment as the doctor meets it. `plan` adds the checks of files, where they are on this machine."""

    environment: str
    doors: dict[Role, Door]  # of devices
    service_doors: dict[Role, Door]
    service_login: dict[Role, tuple[str | None, Secret | None]]
    gate: BrokerGate
    token: Callable[[], str]  # 32 fresh random hex
    plan: BrokerPlan | None = None
    root: str = topics.ROOT


async def examine(patient: Patient, *, brief: bool = False) -> AsyncIterator[Check]:
    """Every check, in order, as it is done. `brief`: only that it works: subscribe, publish, grant and drop."""
    if patient.plan is not None and not brief:
        for check in files(patient.plan):
            yield check
    for role in Role:
        if role not in patient.doors:
            continue
        try:
            async for check in _broker(patient, role, brief=brief):
                yield check
        except (aiomqtt.MqttError, GateError, OSError) as error:
            yield Check(f"{role.value}: checks ran to their end", ok=False, reason=str(error))


# --- files ------------------------------------------------------------------------------------------------------


def files(plan: BrokerPlan) -> list[Check]:
    """What can be seen without a connection: the guard, the ACL files, identities that should not be there."""
    found = [
        check for role in plan.roles for check in (_configuration(plan, role), _acl(plan, role), _logins(plan, role))
    ]
    return [version_traps(_installed()), *found]


def version_traps(said: str) -> Check:
    """What is known of this Mosquitto; `said` is the first line of `mosquitto -h`. Never a failure.

    A broker that keeps no retained messages does not publish its version, so the program here is asked.
    """
    digits = said.removeprefix("mosquitto version ").split(".")
    if len(digits) != 3 or not all(part.isdigit() for part in digits):
        return Check("the broker's version", ok=True, reason="not known: there is no mosquitto program on this machine")
    version = (int(digits[0]), int(digits[1]), int(digits[2]))
    traps = [f"before {'.'.join(map(str, fixed))}: {trap}" for fixed, trap in TRAPS if version < fixed]
    return Check(said, ok=True, reason="; ".join(traps))


def _installed() -> str:
    program = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n", 1)[0].strip()


def _configuration(plan: BrokerPlan, role: Role) -> Check:
    name = f"{role.value}: the guard plugin and the ACL file are in the configuration"
    text, problem = _read(plan.config(role))
    keys = {line.split(" ", 1)[0] for line in text.splitlines()}
    missing = {"plugin", "plugin_opt_config_file", "acl_file", "max_packet_size"} - keys
    return Check(name, ok=not problem and not missing, reason=problem or ", ".join(sorted(missing)))


def _acl(plan: BrokerPlan, role: Role) -> Check:
    name = f"{role.value}: the ACL file is whole and lets nobody reach further than his own topics"
    text, problem = _read(plan.acl(role))
    if problem:
        return Check(name, ok=False, reason=problem)
    try:
        wide = too_wide(parse_acl(text))
    except AclError as error:
        return Check(name, ok=False, reason=str(error))
    seen = "; ".join(f"{rule.access} {rule.topic} for {rule.user or 'everybody'}" for rule in wide)
    return Check(name, ok=not wide, reason=f"load-test or foreign rule: {seen}" if wide else "")


def _logins(plan: BrokerPlan, role: Role) -> Check:
    name = f"{role.value}: no login of the plugin has a role but the admin's, and all defaults are shut"
    text, problem = _read(plan.dynsec(role))
    try:
        document = json.loads(text or "{}")
        known = {x["rolename"]: acls_of(x) for x in document.get("roles", [])}
        roled = [
            x["username"]
            for x in document["clients"]
            if (x.get("roles") or x.get("groups")) and not is_account(x, known, plan.root)
        ]
        open_defaults = [key for key, allowed in document["defaultACLAccess"].items() if allowed]
    except (ValueError, KeyError, TypeError) as error:
        return Check(name, ok=False, reason=problem or f"{plan.dynsec(role)}: damaged ({type(error).__name__})")
    odd = [user for user in roled if user != ADMIN_USER] + [f"default {key}" for key in open_defaults]
    return Check(name, ok=not odd and len(document["defaultACLAccess"]) == 4, reason=", ".join(odd))


def accounts_in_file(plan: BrokerPlan, wanted: Sequence[AccountLogin]) -> Check:
    """Whether the plugin's file lets in exactly the operators and integrators that it should, with their keys.

    The broker writes it at each change, so where the service runs this is also what the broker has.
    """
    name = "operational: the accounts in the plugin's file are those of the database"
    text, problem = _read(plan.dynsec(Role.OPERATIONAL))
    try:
        clients = {one["username"]: one.get("textname") for one in json.loads(text or "{}")["clients"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Check(name, ok=False, reason=problem or f"damaged ({type(error).__name__})")
    have = {one: mark for one, mark in clients.items() if not ids.is_hex_id(one) and one not in OWN_USERS}
    expected = {session["username"]: session["textname"] for login in wanted for session in clients_of(login)}
    odd = sorted(one for one in have | expected if have.get(one, "") != expected.get(one))
    return Check(name, ok=not odd, reason=", ".join(odd))


def _read(path: Path) -> tuple[str, str]:
    try:
        return path.read_text(), ""
    except (OSError, UnicodeDecodeError) as error:
        return "", f"{path}: {error}"


# --- connections ------------------------------------------------------------------------------------------------


async def _broker(patient: Patient, role: Role, *, brief: bool = False) -> AsyncIterator[Check]:
    username, password = patient.service_login[role]
    async with Canary(patient.service_doors[role], patient.token(), username, password) as service:
        yield Check(f"{role.value}: the service gets in", ok=True)
        one, two = (CANARY_PREFIX + patient.token()[len(CANARY_PREFIX) :] for _ in range(2))
        async with _logged_in(patient, role, one, two) as connect:
            trial = _Trial(patient, role, service, connect, one, two)
            reaches = await _guarded(trial.allowed)
            yield reaches
            if not reaches.ok:
                return  # every further check would only wait for what does not come
            if brief:
                if role is Role.OPERATIONAL:
                    yield await _guarded(trial.revoked)
                return
            for attempt in (trial.foreign, trial.wildcard, trial.last_will, trial.slash, trial.retained):
                yield await _guarded(attempt)
            if role is Role.OPERATIONAL:
                yield await _guarded(trial.strangers)
                yield await _guarded(trial.control)
                yield await _guarded(trial.revoked)


Connect = Callable[..., Canary]


@contextlib.asynccontextmanager
async def _logged_in(patient: Patient, role: Role, *names: str) -> AsyncIterator[Connect]:
    """How a device of that name connects; operational ones have a login for as long as this lasts."""
    door = patient.doors[role]
    if role is not Role.OPERATIONAL:
        yield lambda name, **more: Canary(door, name, **more)
        return
    logins = {}
    for name in names:
        key = Secret((patient.token() + patient.token()).encode())
        digest = hashlib.sha256(key.reveal()).digest()
        logins[name] = Login(name, CredentialKind.API_KEY, key, digest)
    await patient.gate.grant([*logins.values()])
    try:
        yield lambda name, **more: Canary(door, name, name, logins[name].api_key, **more)
    finally:
        await patient.gate.revoke([*logins.values()])


async def _guarded(attempt: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await attempt()
    except aiomqtt.MqttError as error:
        return Check(getattr(attempt, "__name__", "check").replace("_", " "), ok=False, reason=str(error))


class _Trial:
    """The checks on one broker, each with connections of its own."""

    def __init__(self, patient: Patient, role: Role, service: Canary, connect: Connect, one: str, two: str) -> None:
        self._patient = patient
        self._role = role
        self._service = service
        self._connect = connect
        self._one, self._two = one, two
        self._space = SPACES[role]
        self._service_root = root_of(role, patient.root)
        self._number = 0

    def _check(self, words: str, problems: list[str]) -> Check:
        return Check(f"{self._role.value}: {words}", ok=not problems, reason="; ".join(problems))

    def _mark(self) -> bytes:
        self._number += 1
        return f"doctor {self._one} {self._number}".encode()

    def _up(self, owner: str) -> str:
        return topics.up(self._space, owner, "doctor", self._patient.root)

    def _down(self, owner: str) -> str:
        return topics.down(self._space, owner, "doctor", self._patient.root)

    def _seen(self, topic: str) -> str:
        """As the device means it: in a warehouse an older Mosquitto leaves the mark there."""
        return topic.removeprefix(MOUNT) if self._role is Role.WAREHOUSE else topic

    async def _requests_arrive(self, device: Canary, owner: str) -> list[str]:
        """A request of `device` comes to the service: what it said before has been dealt with."""
        mark = self._mark()
        await device.say(self._up(owner), mark)
        return [] if await self._service.heard(mark) else ["the device's own request did not come to the service"]

    async def _answers_arrive(self, device: Canary, owner: str) -> list[str]:
        mark = self._mark()
        await self._service.say(topics.down(self._space, owner, "doctor", self._service_root), mark)
        return [] if await device.heard(mark) else ["the service's answer did not come to the device"]

    async def allowed(self) -> Check:
        await self._service.subscribe(topics.up_filter(self._space, self._service_root))
        async with self._connect(self._one) as device:
            await device.subscribe(topics.down_filter(self._space, self._one, self._patient.root))
            problems = await self._requests_arrive(device, self._one) + await self._answers_arrive(device, self._one)
        return self._check("a device reaches the service and gets its answer", problems)

    async def foreign(self) -> Check:
        async with self._connect(self._one) as device, self._connect(self._two) as victim:
            await victim.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            forged = {self._mark(): topic for topic in (self._up(self._two), self._down(self._two))}
            for mark, topic in forged.items():
                await device.say(topic, mark)
            problems = await self._requests_arrive(device, self._one) + await self._answers_arrive(victim, self._two)
            problems += [f"{t} could be written" for m, t in forged.items() if self._service.has(m) or victim.has(m)]
        return self._check("a device cannot write another's requests or answers", problems)

    async def wildcard(self) -> Check:
        async with self._connect(self._one) as snoop, self._connect(self._two) as other:
            await snoop.subscribe(*WIDE, topics.down_filter(self._space, self._one, self._patient.root))
            await other.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            problems = await self._requests_arrive(other, self._two) + await self._answers_arrive(other, self._two)
            problems += await self._answers_arrive(snoop, self._one)
            problems += [
                f"received {topic}" for topic in {self._seen(t) for t, _ in snoop.received} - {self._down(self._one)}
            ]
        return self._check("a second device on # receives nothing", problems)

    async def last_will(self) -> Check:
        mark = self._mark()
        async with self._connect(self._two) as victim:
            await victim.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            async with (
                self._connect(self._one, will=aiomqtt.Will(self._down(self._two), mark)) as device,
                self._connect(self._one) as again,  # ends the first without its DISCONNECT
            ):
                await device.ended_within(DEAD_WITHIN_S)
                problems = await self._requests_arrive(again, self._one)
            problems += await self._answers_arrive(victim, self._two)
            problems += ["it was delivered"] if victim.has(mark) else []
        return self._check("a last will does not reach another device", problems)

    async def slash(self) -> Check:
        """Under a pattern that ends in `#`, the client id `{victim}/dn` may write the victim's answers."""
        if self._role is Role.OPERATIONAL:
            return self._check("the client id is the user name, whatever a client asks for", [])
        mark, problems = self._mark(), []
        async with self._connect(self._two) as victim:
            await victim.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            for odd in (f"{self._two}/dn", "+"):
                with contextlib.suppress(aiomqtt.MqttError):
                    async with self._connect(odd) as device:
                        await device.say(self._down(self._two), mark)
            problems += await self._requests_arrive(victim, self._two) + await self._answers_arrive(victim, self._two)
            problems += ["it wrote another's answers"] if victim.has(mark) else []
        return self._check("a client id with a slash or a wildcard gains nothing", problems)

    async def retained(self) -> Check:
        mark = self._mark()
        async with self._connect(self._one) as device:
            with contextlib.suppress(aiomqtt.MqttError):
                await device.say(self._up(self._one), mark, retain=True)
            await device.ended_within(0.2)
        username, password = self._patient.service_login[self._role]
        door = self._patient.service_doors[self._role]
        async with Canary(door, self._patient.token(), username, password) as later:
            await later.subscribe(topics.up_filter(self._space, self._service_root))
            async with self._connect(self._two) as device:
                sentinel = self._mark()
                await device.say(self._up(self._two), sentinel)
                problems = [] if await later.heard(sentinel) else ["nothing arrives at all"]
            problems += ["it was kept"] if later.has(mark) else []
        return self._check("a retained message is not kept", problems)

    async def strangers(self) -> Check:
        door, name = self._patient.doors[self._role], self._patient.token()
        wrong = Secret(name.encode())
        problems = []
        attempts: list[tuple[str, Canary]] = [
            ("an anonymous client", Canary(door, name)),
            ("an unknown login", Canary(door, name, name, wrong)),
            ("a wrong password", Canary(door, self._one, self._one, wrong)),
            ("the service's login with a wrong password", Canary(door, name, SERVICE_USER, wrong)),
        ]
        for who, canary in attempts:
            with contextlib.suppress(aiomqtt.MqttError):
                async with canary:
                    problems.append(f"{who} got in")
        return self._check("nobody gets in without the right login", problems)

    async def control(self) -> Check:
        name = self._patient.token()
        command = {"command": "createClient", "username": name, "password": name}
        async with self._connect(self._one) as device:
            with contextlib.suppress(aiomqtt.MqttError):
                await device.say("$CONTROL/dynamic-security/v1", json.dumps({"commands": [command]}).encode())
                await device.say("$SYS/broker/version", b"doctor")
            await device.ended_within(0.2)
        known = await self._patient.gate.snapshot()
        return self._check("a device cannot make logins", ["it did"] if known is not None and name in known else [])

    async def revoked(self) -> Check:
        login = Login(self._two, CredentialKind.API_KEY)
        problems = []
        async with self._connect(self._two) as device:
            await self._patient.gate.revoke([login])
            if not await device.ended_within(DEAD_WITHIN_S):
                problems.append("its session lives on")
        with contextlib.suppress(aiomqtt.MqttError):
            async with self._connect(self._two):
                problems.append("it gets in again")
        return self._check("a revoked device is out within 2 s", problems)
