"""Accounts of operators and integrators in the dynamic-security plugin: a role for each, topics literal, and a login
for each session that it may have at a time.

Owns their form there, how they are made and unmade, and the look at what the broker has of them. A pattern would hold
for devices too, and a role that many share makes Mosquitto's start slow. The plugin tells nobody a password, not even
its hash, so each login bears a mark that is computed from its key: by it an account that is right is left alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from device_sdk.wire import ids
from service.brokers.gate import AccountLogin, GateError
from service.brokers.mosquitto.control import Answer, Command, DynsecControl
from service.mqtt import account_topics

LOOK_AGAIN_S = 60.0  # how long it lasts until an account that somebody else has changed is as it should be
Acls = set[tuple[str, str]]  # (kind, topic), all of them allowed
Listed = Callable[[], Awaitable[Iterable[str]]]  # every login that is no device's, the service's or the admin's


def role_of(name: str) -> str:
    return f"account-{name}"


def mark_of(login: AccountLogin) -> str:
    """Says whether a login has the key that it should have; says nothing of the key, which has 256 random bits."""
    return "key " + hashlib.sha256(b"firstlight account key" + login.key_sha256).hexdigest()[:16]


def clients_of(login: AccountLogin) -> list[dict[str, Any]]:
    """One login for each session, without its password."""
    return [
        {"username": name, "clientid": name, "textname": mark_of(login), "roles": [{"rolename": role_of(login.name)}]}
        for name in account_topics.session_names(login.name)
    ]


def role(login: AccountLogin, root: str) -> dict[str, Any]:
    acls = [{"acltype": kind, "topic": topic, "allow": True} for kind, topic in _acls(login.name, login.space, root)]
    return {"rolename": role_of(login.name), "acls": acls}


def create(login: AccountLogin, root: str) -> list[Command]:
    """Role, then logins."""
    password = login.key.reveal().decode()
    return [
        {"command": "createRole", **role(login, root)},
        *({"command": "createClient", "password": password, **client} for client in clients_of(login)),
    ]


def delete(name: str) -> list[Command]:
    """Logins, which ends their sessions, then the role."""
    return [
        *({"command": "deleteClient", "username": session} for session in account_topics.session_names(name)),
        {"command": "deleteRole", "rolename": role_of(name)},
    ]


def is_account(client: Mapping[str, Any], roles: Mapping[str, Acls], root: str) -> bool:
    """Whether a login of the plugin is a session of an account, with that one's role and nothing beyond its topics.

    `roles`: what each role allows.
    """
    return any(
        is_session_of(client, roles, root, account_topics.account_of(client["username"]), space)
        for space in (account_topics.OPERATORS, account_topics.EVENTS)
    )


def is_session_of(client: Mapping[str, Any], roles: Mapping[str, Acls], root: str, account: str, space: str) -> bool:
    name = client["username"]
    return (
        not ids.is_hex_id(name)
        and name in account_topics.session_names(account)
        and client.get("clientid") == name
        and not client.get("groups")
        and [one["rolename"] for one in client.get("roles", [])] == [role_of(account)]
        and roles.get(role_of(account)) == set(_acls(account, space, root))
    )


def acls_of(role: Mapping[str, Any]) -> Acls:
    """What a role of the plugin allows; a rule that is no plain permission counts as one of its own."""
    return {(acl["acltype"] if acl.get("allow") else "?", acl["topic"]) for acl in role.get("acls", [])}


class AccountBook:
    """What one broker has of accounts; `put` makes it what is wanted."""

    def __init__(
        self, control: DynsecControl, listed: Listed, root: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._control = control
        self._listed = listed
        self._root = root
        self._monotonic = monotonic
        self._have: dict[str, AccountLogin | None] = {}  # None: there, and not as it should be
        self._looked: tuple[int, float] | None = None  # over which connection, and when

    async def put(self, wanted: Sequence[AccountLogin]) -> tuple[int, int]:
        """Let in exactly these; returns (granted, revoked). Raises GateError."""
        if not self._control.connected.is_set():
            raise GateError("not connected")
        after = {login.name: login for login in wanted}
        connects, now = self._control.connects, self._monotonic()
        if self._looked is None or self._looked[0] != connects or now - self._looked[1] >= LOOK_AGAIN_S:
            self._have = await self._look(after)
            self._looked = (connects, now)
        gone = [name for name, login in self._have.items() if login is None or after.get(name) != login]
        new = [login for name, login in after.items() if self._have.get(name) != login]
        # What is new is deleted first too: an earlier try may have been cut off in between.
        for name in dict.fromkeys([*gone, *(login.name for login in new)]):
            check(await self._control.ask(delete(name)), "Client not found", "Role not found")
            self._have.pop(name, None)
        for login in new:
            check(await self._control.ask(create(login, self._root)), "Client already exists", "Role already exists")
            self._have[login.name] = login
        return len(new), len(gone)

    async def _look(self, wanted: Mapping[str, AccountLogin]) -> dict[str, AccountLogin | None]:
        """What is there, by account: the one that is wanted if all of it is as it should be, else None."""
        sessions: dict[str, list[str]] = {}
        for name in sorted(await self._listed()):
            sessions.setdefault(account_topics.account_of(name), []).append(name)
        found: dict[str, AccountLogin | None] = dict.fromkeys(sessions)
        for account, login in wanted.items():
            if tuple(sessions.get(account, ())) == account_topics.session_names(account):
                questions: list[Command] = [{"command": "getRole", "rolename": role_of(account)}]
                questions += [{"command": "getClient", "username": name} for name in sessions[account]]
                if _is_right(login, await self._control.ask(questions), self._root):
                    found[account] = login
        return found


def _is_right(login: AccountLogin, answers: Sequence[Answer], root: str) -> bool:
    if any("error" in answer for answer in answers):
        return False
    (role, *clients) = ({**answer["data"]} for answer in answers)
    known = {role_of(login.name): acls_of(role["role"])}
    return all(
        is_session_of(one["client"], known, root, login.name, login.space)
        and one["client"].get("textname") == mark_of(login)
        and not one["client"].get("disabled")
        for one in clients
    )


def check(answers: Sequence[Answer], *but: str) -> None:
    """Raise GateError for the first command that was refused, except with one of these words."""
    for answer in answers:
        error = answer.get("error")
        if error and error not in but:
            raise GateError(f"the broker refused {answer.get('command')}: {error}")


def _acls(name: str, space: str, root: str) -> list[tuple[str, str]]:
    own = f"{root}/{space}/{name}"
    if space == account_topics.OPERATORS:
        return [
            ("publishClientSend", f"{own}/up/+"),
            ("publishClientReceive", f"{own}/dn/+"),
            ("subscribePattern", f"{own}/dn/#"),
        ]
    return [("publishClientReceive", f"{own}/+"), ("subscribePattern", f"{own}/#")]
