"""Accounts of operators and integrators in the dynamic-security plugin: a login and a role for each, topics literal.

Owns the commands that make and unmake them, and the look at a login that tells whether it is such an account. A
pattern would hold for devices too, and a role that many share makes Mosquitto's start slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device_sdk.wire import ids
from service.brokers.gate import AccountLogin
from service.brokers.mosquitto.control import Command
from service.mqtt import account_topics


def create(login: AccountLogin, root: str) -> list[Command]:
    """Role, then login; its client id is its name."""
    return [
        {
            "command": "createRole",
            "rolename": role_of(login.name),
            "acls": [
                {"acltype": kind, "topic": topic, "allow": True} for kind, topic in _acls(login.name, login.space, root)
            ],
        },
        {
            "command": "createClient",
            "username": login.name,
            "password": login.key.reveal().decode(),
            "clientid": login.name,
            "roles": [{"rolename": role_of(login.name)}],
        },
    ]


def delete_role(name: str) -> Command:
    return {"command": "deleteRole", "rolename": role_of(name)}


def role_of(name: str) -> str:
    return f"account-{name}"


def is_account(client: Mapping[str, Any], roles: Mapping[str, set[tuple[str, str]]], root: str) -> bool:
    """Whether a login of the plugin's file is an account with its own role and nothing beyond its own topics.

    `roles`: what each role allows, as (kind, topic).
    """
    name = client["username"]
    if ids.is_hex_id(name) or client.get("groups") or client.get("clientid") != name:
        return False
    if [role["rolename"] for role in client["roles"]] != [role_of(name)]:
        return False
    allowed = roles.get(role_of(name), set())
    return any(allowed == set(_acls(name, space, root)) for space in (account_topics.OPERATORS, account_topics.EVENTS))


def _acls(name: str, space: str, root: str) -> list[tuple[str, str]]:
    own = f"{root}/{space}/{name}"
    if space == account_topics.OPERATORS:
        return [
            ("publishClientSend", f"{own}/up/+"),
            ("publishClientReceive", f"{own}/dn/+"),
            ("subscribePattern", f"{own}/dn/#"),
        ]
    return [("publishClientReceive", f"{own}/+"), ("subscribePattern", f"{own}/#")]
