"""Writes everything that one environment's Mosquittos read, from the database and the environment's CA.

Owns the configuration texts and the order of writing. Runs before every start of a broker (`ExecStartPre`), so a file
that a crash emptied is whole again. Passwords, the server's key and its certificate are kept while they serve.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path

from service.brokers.gate import AccountLogin, Login
from service.brokers.mosquitto import certificates
from service.brokers.mosquitto.acl import parse_acl, render_acl
from service.brokers.mosquitto.certificates import Issuer
from service.brokers.mosquitto.dynsec import render_dynsec
from service.brokers.mosquitto.files import alone, write_for
from service.brokers.mosquitto.plan import BrokerPlan, Listener
from service.errors import Secret
from service.mqtt.port import MOUNT, Role

MAX_PACKET_BYTES = 262_144
_HEADER = "# Rendered by `firstlight broker render`; changes here are lost. What each line is for: docs/brokers.md\n"


def render(
    plan: BrokerPlan,
    issuer: Issuer,
    logins: Iterable[Login],
    revoked: Collection[int] | None,
    now: datetime,
    token: Callable[[], str] = lambda: secrets.token_hex(32),
    *,
    accounts: Sequence[AccountLogin] = (),
) -> list[Path]:
    """Write all files of one environment; returns their paths. Raises OSError, AclError.

    `logins` are the API keys that are valid now, `revoked` the serial numbers of certificates that are refused,
    `accounts` the operators and integrators that this environment lets in. `revoked` None: the list of certificates is
    somebody else's (revocation.py) and left as it is; where there is none yet, it begins empty.
    """
    prepare(plan)
    with alone(plan.directory, plan.run_as):
        return _write_all(plan, issuer, logins, revoked, now, token, accounts)


def prepare(plan: BrokerPlan) -> None:
    """Make the folders. Raises OSError."""
    for folder in (plan.directory, *(plan.folder(role) for role in plan.roles), plan.ca.parent):
        _folder(folder, plan.run_as)


def _write_all(
    plan: BrokerPlan,
    issuer: Issuer,
    logins: Iterable[Login],
    revoked: Collection[int] | None,
    now: datetime,
    token: Callable[[], str],
    accounts: Sequence[AccountLogin],
) -> list[Path]:
    written: list[Path] = []

    def write(path: Path, data: bytes, *, for_broker: bool = True) -> None:
        write_for(plan.run_as if for_broker else None, path, data)
        written.append(path)

    # 1. Passwords: random, made once, readable by the service only.
    admins = plan.admin_password_file, plan.doctor_password_file
    for path in (*(plan.password_file(role) for role in plan.roles), *admins):
        if not path.exists():
            write(path, token().encode() + b"\n", for_broker=False)
    # 2. The server's certificate, while it lasts.
    write(plan.ca, certificates.pem(issuer))
    old, key = (path.read_bytes() if path.exists() else b"" for path in (plan.certificate, plan.private_key))
    if not certificates.still_serves(old, key, issuer, plan.hostnames, now):
        certificate, key = certificates.server_certificate(issuer, plan.hostnames, now)
        write(plan.private_key, key)
        write(plan.certificate, certificate)
    if plan.x509 is not None and (revoked is not None or not plan.crl.exists()):
        write(plan.crl, certificates.revocation_list(issuer, revoked or (), now))
    # 3. Who may log in, and what each may do; then the configuration that names both.
    for role in plan.roles:
        acl = render_acl(role, plan.root)
        parse_acl(acl)
        write(plan.acl(role), acl.encode())
        write(plan.dynsec(role), _dynsec(plan, role, logins, accounts))
        write(plan.config(role), configuration(plan, role).encode())
    return written


def _dynsec(plan: BrokerPlan, role: Role, logins: Iterable[Login], accounts: Sequence[AccountLogin]) -> bytes:
    """Logins are the operational broker's; elsewhere the service alone has one."""
    own = read_password(plan.password_file(role))
    if role is not Role.OPERATIONAL:
        return render_dynsec(own, None, ())
    return render_dynsec(
        own,
        read_password(plan.admin_password_file),
        logins,
        doctor_password=read_password(plan.doctor_password_file),
        accounts=accounts,
        root=plan.root,
    )


def read_password(path: Path) -> Secret:
    """The first line of a password file. Raises OSError."""
    return Secret(path.read_bytes().split(b"\n", 1)[0].strip())


def configuration(plan: BrokerPlan, role: Role) -> str:
    bodies = {Role.BOOTSTRAP: _bootstrap, Role.OPERATIONAL: _operational, Role.WAREHOUSE: _warehouse}
    return _HEADER + _common(plan, role) + bodies[role](plan)


def _common(plan: BrokerPlan, role: Role) -> str:
    user = f"user {plan.run_as}\n" if plan.run_as is not None else ""
    return (
        f"{user}"
        f"pid_file {plan.pid_file(role)}\n"
        "per_listener_settings false\n"
        f"allow_anonymous {'false' if role is Role.OPERATIONAL else 'true'}\n"
        "# The plugin holds the logins and is the guard: without it a lost ACL file opens the broker to everybody.\n"
        f"plugin {plan.plugin}\n"
        f"plugin_opt_config_file {plan.dynsec(role)}\n"
        f"acl_file {plan.acl(role)}\n"
        "# Nothing rests on the broker's memory: clean sessions, no retained messages, nothing on its disk.\n"
        "persistence false\n"
        "retain_available false\n"
        f"max_packet_size {MAX_PACKET_BYTES}\n"
        "max_queued_messages 2000\n"
        "max_inflight_messages 512\n"
        "max_keepalive 600\n"
        "set_tcp_nodelay true\n"
        "sys_interval 10\n"
        "connection_messages false\n"
        "log_dest stderr\n"
        "log_type error\n"
        "log_type warning\n"
        "log_type notice\n"
    )


def _bootstrap(plan: BrokerPlan) -> str:
    return (
        "persistent_client_expiration 1h\n"
        "memory_limit 268435456\n"
        "\n# Devices on their first way in: TLS, no name; the client id is the session.\n"
        + _listener(plan.bootstrap, plan.bootstrap_max_connections)
        + _tls(plan)
        + _loopback(plan, Role.BOOTSTRAP)
    )


def _warehouse(plan: BrokerPlan) -> str:
    assert plan.warehouse is not None
    return (
        "persistent_client_expiration 1h\n"
        "memory_limit 268435456\n"
        "\n# Units in the warehouse, on its network only: TLS, no name; the client id is the session. Whatever they write\n"
        "# stands below the mount point, which no listener of another Mosquitto has.\n"
        + _listener(plan.warehouse, plan.bootstrap_max_connections)
        + f"mount_point {MOUNT}\n"
        + _tls(plan)
        + _loopback(plan, Role.WAREHOUSE)
    )


def _operational(plan: BrokerPlan) -> str:
    text = "persistent_client_expiration 1d\n"
    if plan.api_key is not None:
        text += "\n# Devices with an API key: user name = client id = credential id.\n"
        text += _listener(plan.api_key, plan.max_connections) + "use_username_as_clientid true\n" + _tls(plan)
    if plan.x509 is not None:
        text += "\n# Devices with a certificate: its CN = client id = credential id.\n"
        text += _listener(plan.x509, plan.max_connections) + "use_username_as_clientid true\n" + _tls(plan)
        text += f"cafile {plan.ca}\nrequire_certificate true\nuse_identity_as_username true\ncrlfile {plan.crl}\n"
    return text + _loopback(plan, Role.OPERATIONAL)


def _listener(listener: Listener, max_connections: int) -> str:
    return f"listener {listener.port} {listener.host}\nmax_connections {max_connections}\n"


def _tls(plan: BrokerPlan) -> str:
    return f"certfile {plan.certificate}\nkeyfile {plan.private_key}\ntls_version tlsv1.2\n"


def _loopback(plan: BrokerPlan, role: Role) -> str:
    return (
        "\n# The service itself, at a fresh random client id each time, and the plugin's admin.\n"
        f"listener {plan.service_port(role)} {plan.service_host}\n"
    )


def _folder(path: Path, owner: str | None) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    if owner is not None and os.geteuid() == 0:
        shutil.chown(path, owner)
