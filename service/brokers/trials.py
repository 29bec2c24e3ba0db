"""What the doctor's canaries try on one broker, each check with connections of its own.

Owns the attempts and what must come of them. A check is judged by messages that arrive, never by SUBACK: Mosquitto grants
every subscription and filters at delivery. "Nothing arrives" is shown by a permitted message that follows on the same way.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

import aiomqtt

from device_sdk.wire import topics
from service.brokers.canary import Canary, Door
from service.brokers.certified import CertificateDoor, Certified, foreign_authority, let_in
from service.brokers.gate import BrokerGate, Login
from service.brokers.mosquitto.plan import SERVICE_USER, BrokerPlan
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import MOUNT, SPACES, Role, root_of

DEAD_WITHIN_S = 2.0
GONE_WITHIN_S = 0.2  # a connection that the broker ends on the spot
WIDE = ("#", "+/#", "$share/doctor/#", "$SYS/#")


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
    certificates: CertificateDoor | None = None


P = ParamSpec("P")
Attempt = Callable[Concatenate["Trial", P], Awaitable[list[str]]]  # what was seen that should not be
Checked = Callable[Concatenate["Trial", P], Awaitable[Check]]


def _says(words: str) -> Callable[[Attempt[P]], Checked[P]]:
    """What an attempt shows when nothing is seen. A connection that breaks in between is a thing seen."""

    def of(attempt: Attempt[P]) -> Checked[P]:
        @functools.wraps(attempt)
        async def checked(trial: Trial, /, *args: P.args, **kwargs: P.kwargs) -> Check:
            try:
                problems = await attempt(trial, *args, **kwargs)
            except aiomqtt.MqttError as error:
                problems = [str(error)]
            return Check(f"{trial.role.value}: {words}", ok=not problems, reason="; ".join(problems))

        return checked

    return of


Connect = Callable[..., Canary]  # of a name; `client_id` for another one than that


class Trial:
    """The checks on one broker, each with connections of its own."""

    def __init__(
        self, patient: Patient, role: Role, service: Canary, connect: Connect = Canary, one: str = "", two: str = ""
    ) -> None:
        """`connect` lets the canaries `one` and `two` in; not needed for those with certificates."""
        self._patient = patient
        self.role = role
        self._service = service
        self._connect = connect
        self._one, self._two = one, two
        self._space = SPACES[role]
        self._service_root = root_of(role, patient.root)
        self._number = 0

    def _mark(self) -> bytes:
        self._number += 1
        return f"doctor {self._one} {self._number}".encode()

    def _up(self, owner: str) -> str:
        return topics.up(self._space, owner, "doctor", self._patient.root)

    def _down(self, owner: str) -> str:
        return topics.down(self._space, owner, "doctor", self._patient.root)

    def _seen(self, topic: str) -> str:
        """As the device means it: in a warehouse an older Mosquitto leaves the mark there."""
        return topic.removeprefix(MOUNT) if self.role is Role.WAREHOUSE else topic

    async def _requests_arrive(self, device: Canary, owner: str) -> list[str]:
        """A request of `device` comes to the service: what it said before has been dealt with."""
        mark = self._mark()
        await device.say(self._up(owner), mark)
        return [] if await self._service.heard(mark) else ["the device's own request did not come to the service"]

    async def _answers_arrive(self, device: Canary, owner: str) -> list[str]:
        mark = self._mark()
        await self._service.say(topics.down(self._space, owner, "doctor", self._service_root), mark)
        return [] if await device.heard(mark) else ["the service's answer did not come to the device"]

    @_says("a device reaches the service and gets its answer")
    async def allowed(self) -> list[str]:
        await self._service.subscribe(topics.up_filter(self._space, self._service_root))
        async with self._connect(self._one) as device:
            await device.subscribe(topics.down_filter(self._space, self._one, self._patient.root))
            return await self._requests_arrive(device, self._one) + await self._answers_arrive(device, self._one)

    @_says("a device cannot write another's requests or answers")
    async def foreign(self) -> list[str]:
        async with self._connect(self._one) as device, self._connect(self._two) as victim:
            await victim.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            forged = {self._mark(): topic for topic in (self._up(self._two), self._down(self._two))}
            for mark, topic in forged.items():
                await device.say(topic, mark)
            problems = await self._requests_arrive(device, self._one) + await self._answers_arrive(victim, self._two)
            problems += [f"{t} could be written" for m, t in forged.items() if self._service.has(m) or victim.has(m)]
        return problems

    @_says("a second device on # receives nothing")
    async def wildcard(self) -> list[str]:
        async with self._connect(self._one) as snoop, self._connect(self._two) as other:
            await snoop.subscribe(*WIDE, topics.down_filter(self._space, self._one, self._patient.root))
            await other.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            problems = await self._requests_arrive(other, self._two) + await self._answers_arrive(other, self._two)
            problems += await self._answers_arrive(snoop, self._one)
            problems += [
                f"received {topic}" for topic in {self._seen(t) for t, _ in snoop.received} - {self._down(self._one)}
            ]
        return problems

    @_says("a last will does not reach another device")
    async def last_will(self) -> list[str]:
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
        return problems

    @_says("a client id with a slash or a wildcard gains nothing")
    async def slash(self) -> list[str]:
        """Under a pattern that ends in `#`, the client id `{victim}/dn` may write the victim's answers."""
        mark, problems = self._mark(), []
        async with self._connect(self._two) as victim:
            await victim.subscribe(topics.down_filter(self._space, self._two, self._patient.root))
            for odd in (f"{self._two}/dn", "+"):
                with contextlib.suppress(aiomqtt.MqttError):
                    async with self._connect(self._one, client_id=odd) as device:
                        await device.say(self._down(self._two), mark)
            problems += await self._requests_arrive(victim, self._two) + await self._answers_arrive(victim, self._two)
            problems += ["it wrote another's answers"] if victim.has(mark) else []
        return problems

    @_says("a device cannot take another's client id")
    async def taken_over(self) -> list[str]:
        """A device that asks for another's client id."""
        async with self._connect(self._two) as victim:
            return await self._attacked(victim, self._two, self._connect(self._one, client_id=self._two))

    async def _attacked(self, victim: Canary, owner: str, attacker: Canary) -> list[str]:
        """Whether `victim` is still there after `attacker`, who has asked for its client id, was let in or not."""
        await victim.subscribe(topics.down_filter(self._space, owner, self._patient.root))
        with contextlib.suppress(aiomqtt.MqttError):
            async with attacker:
                pass
        if await victim.ended_within(GONE_WITHIN_S):
            return ["it was put out"]
        return await self._requests_arrive(victim, owner) + await self._answers_arrive(victim, owner)

    @_says("a retained message is not kept")
    async def retained(self) -> list[str]:
        mark = self._mark()
        async with self._connect(self._one) as device:
            with contextlib.suppress(aiomqtt.MqttError):
                await device.say(self._up(self._one), mark, retain=True)
            await device.ended_within(GONE_WITHIN_S)
        username, password = self._patient.service_login[self.role]
        door = self._patient.service_doors[self.role]
        async with Canary(door, self._patient.token(), username, password) as later:
            await later.subscribe(topics.up_filter(self._space, self._service_root))
            async with self._connect(self._two) as device:
                sentinel = self._mark()
                await device.say(self._up(self._two), sentinel)
                problems = [] if await later.heard(sentinel) else ["nothing arrives at all"]
            problems += ["it was kept"] if later.has(mark) else []
        return problems

    @_says("nobody gets in without the right login")
    async def strangers(self) -> list[str]:
        door, name = self._patient.doors[self.role], self._patient.token()
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
        return problems

    @_says("a device cannot make logins")
    async def control(self) -> list[str]:
        name = self._patient.token()
        command = {"command": "createClient", "username": name, "password": name}
        async with self._connect(self._one) as device:
            with contextlib.suppress(aiomqtt.MqttError):
                await device.say("$CONTROL/dynamic-security/v1", json.dumps({"commands": [command]}).encode())
                await device.say("$SYS/broker/version", b"doctor")
            await device.ended_within(GONE_WITHIN_S)
        known = await self._patient.gate.snapshot()
        return ["it did"] if known is not None and name in known else []

    @_says("a revoked device is out within 2 s")
    async def revoked(self) -> list[str]:
        login = Login(self._two, CredentialKind.API_KEY)
        problems = []
        async with self._connect(self._two) as device:
            await self._patient.gate.revoke([login])
            if not await device.ended_within(DEAD_WITHIN_S):
                problems.append("its session lives on")
        with contextlib.suppress(aiomqtt.MqttError):
            async with self._connect(self._two):
                problems.append("it gets in again")
        return problems

    # --- client certificates ----------------------------------------------------------------------------------------

    @_says("a device with a certificate reaches the service and gets its answer")
    async def certified_allowed(self, device: Certified) -> list[str]:
        """With a certificate of this CA: in, and as whom the certificate says, whatever client id is asked for."""
        await self._service.subscribe(topics.up_filter(self._space, self._service_root))
        async with device.connect(self._patient.token()) as canary:
            await canary.subscribe(topics.down_filter(self._space, device.name, self._patient.root))
            problems = await self._requests_arrive(canary, device.name)
            problems += await self._answers_arrive(canary, device.name)
        return problems

    @_says("a device with a certificate cannot take another's client id")
    async def certified_taken_over(self, device: Certified, victim: Certified) -> list[str]:
        async with victim.connect() as canary:
            return await self._attacked(canary, victim.name, device.connect(victim.name))

    @_says("nobody gets in without a certificate of this CA")
    async def certified_strangers(self, door: CertificateDoor) -> list[str]:
        name = self._patient.token()
        attempts = {
            "a certificate of another CA": door.issue(name, foreign_authority()).connect(),
            "a client without a certificate": Canary(door.without_certificate(), name),
        }
        return [f"{who} got in" for who, canary in attempts.items() if await let_in(canary)]

    @_says("a revoked certificate is out within 2 s")
    async def certified_revoked(self, door: CertificateDoor, device: Certified) -> list[str]:
        problems = []
        async with device.connect() as canary:
            await door.remember(device.issued)
            await self._patient.gate.revoke([device.login])
            if not await canary.ended_within(DEAD_WITHIN_S):
                problems.append("its session lives on")
        if await let_in(device.connect()):
            problems.append("it gets in again")
        return problems
