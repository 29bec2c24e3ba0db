"""The doctor: canaries that try what must be allowed and what must not, on the brokers of one environment.

Owns the order of the checks, those of files, and the canaries' logins: they are granted through the gate and revoked at
the end, whatever happens. What canaries try is in trials.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt

from device_sdk.wire import ids
from service.brokers import expiry
from service.brokers.canary import Canary
from service.brokers.certified import certified
from service.brokers.gate import CANARY_PREFIX, AccountLogin, GateError, Login
from service.brokers.mosquitto.accounts import acls_of, clients_of, is_account
from service.brokers.mosquitto.acl import AclError, parse_acl, too_wide
from service.brokers.mosquitto.plan import ADMINS, OWN_USERS, BrokerPlan
from service.brokers.trials import Check, Connect, Patient, Trial
from service.domain.credential import CredentialKind
from service.errors import Secret
from service.mqtt.port import Role

TRAPS: tuple[tuple[tuple[int, int, int], str], ...] = (  # fixed in, what it is
    ((2, 0, 12), "the mount point of a warehouse stays on what units receive: they take both"),
    ((2, 0, 15), "expired and queued messages are miscounted: rely on answers, not on the queue"),
    ((2, 0, 16), "the dynamic-security file is saved in place and can be emptied by a crash: render before each start"),
    ((2, 0, 16), "a last will may be aimed at $CONTROL: the ACL refuses it at delivery"),
    ((2, 0, 22), "older than what is recommended"),
    ((2, 1, 0), "a missing or damaged ACL file at a reload opens the broker where the guard plugin is not loaded"),
)


async def examine(patient: Patient, *, brief: bool = False) -> AsyncIterator[Check]:
    """Every check, in order, as it is done. `brief`: only that it works: subscribe, publish, grant and drop."""
    if patient.plan is not None and not brief:
        for check in files(patient.plan):
            yield check
    for role in Role:
        if role in patient.doors:
            checks = _broker(patient, role, brief=brief)
        elif role is Role.OPERATIONAL and patient.certificates is not None:
            checks = _certificates_alone(patient)
        else:
            continue
        try:
            if not brief:
                for end in _ends(patient, role):
                    yield await expiry.check(role.value, end, datetime.now(UTC))
            async for check in checks:
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
    name = f"{role.value}: no login of the plugin has a role but the admins', and all defaults are shut"
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
    odd = [user for user in roled if user not in ADMINS] + [f"default {key}" for key in open_defaults]
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
        one, two = (_canary_name(patient) for _ in range(2))
        async with _logged_in(patient, role, one, two) as connect:
            trial = Trial(patient, role, service, connect, one, two)
            reaches = await trial.allowed()
            yield reaches
            if not reaches.ok:
                return  # every further check would only wait for what does not come
            attempts = [] if brief else [trial.foreign, trial.wildcard, trial.last_will, trial.slash]
            attempts += [] if brief or role is not Role.OPERATIONAL else [trial.taken_over]
            attempts += [] if brief else [trial.retained]
            attempts += [] if brief or role is not Role.OPERATIONAL else [trial.strangers, trial.control]
            for attempt in attempts:
                yield await attempt()
            if role is Role.OPERATIONAL:
                if not brief:
                    async for check in _certificates(patient, trial):
                        yield check
                yield await trial.revoked()


async def _certificates_alone(patient: Patient) -> AsyncIterator[Check]:
    """Of an environment where devices log in with certificates only."""
    username, password = patient.service_login[Role.OPERATIONAL]
    async with Canary(patient.service_doors[Role.OPERATIONAL], patient.token(), username, password) as service:
        yield Check("operational: the service gets in", ok=True)
        async for check in _certificates(patient, Trial(patient, Role.OPERATIONAL, service)):
            yield check


async def _certificates(patient: Patient, trial: Trial) -> AsyncIterator[Check]:
    """The listener for client certificates, where there is one."""
    door = patient.certificates
    if door is None:
        return
    async with certified(door, patient.gate.revoke, *(_canary_name(patient) for _ in range(2))) as (one, two):
        reaches = await trial.certified_allowed(one)
        yield reaches
        if reaches.ok:
            yield await trial.certified_taken_over(one, two)
            yield await trial.certified_strangers(door)
            yield await trial.certified_revoked(door, two)


def _ends(patient: Patient, role: Role) -> list[expiry.End]:
    """Where this broker shows a certificate to devices."""
    door = patient.doors.get(role)
    ends = [expiry.End(door.host, door.port)] if door is not None and door.tls is not None else []
    if role is Role.OPERATIONAL and patient.certificates is not None:
        ends.append(expiry.End(patient.certificates.host, patient.certificates.port))
    return ends


def _canary_name(patient: Patient) -> str:
    return CANARY_PREFIX + patient.token()[len(CANARY_PREFIX) :]


@contextlib.asynccontextmanager
async def _logged_in(patient: Patient, role: Role, *names: str) -> AsyncIterator[Connect]:
    """How a device of that name connects; operational ones have a login for as long as this lasts."""
    door = patient.doors[role]
    if role is not Role.OPERATIONAL:
        yield lambda name, client_id=None, **more: Canary(door, client_id or name, **more)
        return
    logins = {}
    for name in names:
        key = Secret((patient.token() + patient.token()).encode())
        digest = hashlib.sha256(key.reveal()).digest()
        logins[name] = Login(name, CredentialKind.API_KEY, key, digest)
    await patient.gate.grant([*logins.values()])
    try:
        yield lambda name, client_id=None, **more: Canary(door, client_id or name, name, logins[name].api_key, **more)
    finally:
        await patient.gate.revoke([*logins.values()])
