"""The dynamic-security plugin's file, rendered from the database, and how it stores a password.

Owns the file's form. The file is a cache: Mosquitto up to 2.0.15 truncates it in place when it saves and can lose it
in a crash, so it is written anew before every start. Device clients get no role and no group (a shared one makes
Mosquitto's start quadratic); what they may do stands in the ACL file. Operators and integrators, who are few, have a
role each. All four defaults are false: nobody receives
anything by the plugin, and a lost ACL file shuts the broker instead of opening it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Sequence

from device_sdk.wire import topics
from service.brokers.gate import AccountLogin, Login
from service.brokers.mosquitto.accounts import clients_of, role
from service.brokers.mosquitto.plan import ADMIN_USER, DOCTOR_USER, SERVICE_USER
from service.domain.credential import CredentialKind
from service.errors import Secret

ITERATIONS = 101  # Mosquitto 2.0's own number; enough for random 256-bit keys
SALT_BYTES = 12
_NOTHING = dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), False)
_CONTROL = "$CONTROL/dynamic-security/#"
_ADMIN_ROLE = {
    "rolename": "admin",
    "acls": [
        {"acltype": kind, "topic": _CONTROL, "allow": True}
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")
    ],
}


def render_dynsec(
    service_password: Secret,
    admin_password: Secret | None,
    logins: Iterable[Login],
    salt: Callable[[int], bytes] = secrets.token_bytes,
    *,
    doctor_password: Secret | None = None,
    accounts: Sequence[AccountLogin] = (),
    root: str = topics.ROOT,
) -> bytes:
    """The whole file. `admin_password` None leaves the admin out: the bootstrap Mosquitto is only guarded by it."""
    clients = [_client(SERVICE_USER, service_password, salt)]
    if admin_password is not None:
        clients.append(
            {**_client(ADMIN_USER, admin_password, salt), "clientid": ADMIN_USER, "roles": [{"rolename": "admin"}]}
        )
    if doctor_password is not None:  # at any client id: two doctors at a time do not disturb each other either
        clients.append({**_client(DOCTOR_USER, doctor_password, salt), "roles": [{"rolename": "admin"}]})
    clients += [
        {**_client(login.credential_id, login.api_key, salt), "clientid": login.credential_id}
        for login in logins
        if login.kind is CredentialKind.API_KEY and login.api_key is not None
    ]
    clients += [
        {**_client(client["username"], login.key, salt), **client} for login in accounts for client in clients_of(login)
    ]
    document = {
        "defaultACLAccess": _NOTHING,
        "clients": clients,
        "groups": [],
        "roles": [
            *([_ADMIN_ROLE] if admin_password is not None else []),
            *(role(login, root) for login in accounts),
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def password_hash(password: Secret, salt: bytes) -> bytes:
    """PBKDF2-HMAC-SHA512, 64 bytes, as the plugin computes it."""
    return hashlib.pbkdf2_hmac("sha512", password.reveal(), salt, ITERATIONS, 64)


def _client(username: str, password: Secret, salt: Callable[[int], bytes]) -> dict[str, object]:
    raw_salt = salt(SALT_BYTES)
    return {
        "username": username,
        "roles": [],
        "password": base64.b64encode(password_hash(password, raw_salt)).decode(),
        "salt": base64.b64encode(raw_salt).decode(),
        "iterations": ITERATIONS,
    }
