"""Both Mosquittos of the bench: the rendered configuration of the project, and one login more for the load test.

Owns the load-test identity. It exists only in the folder of this run: an account in a password file and ACL lines that let
it speak for every device. `firstlight doctor` fails where it finds such lines.
"""

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from device_sdk.wire import topics
from service.brokers.mosquitto.certificates import Issuer
from service.mqtt.port import EVERYWHERE, Role
from tests.support.mosquitto import Mosquittos

LOAD_USER = "firstlight-load"
SPACES = {Role.BOOTSTRAP: topics.BOOTSTRAP, Role.OPERATIONAL: topics.OPERATIONAL}


class BenchBrokers(Mosquittos):
    def __init__(self, directory: Path, issuer: Issuer | None = None) -> None:
        super().__init__(directory, issuer)
        self.load_password = secrets.token_hex(16)

    def admit_load_test(self) -> None:
        """Appends the load-test identity to the rendered files; call it after `render`, before `start`."""
        for role, space in SPACES.items():
            folder = self.plan.folder(role)
            accounts = folder / "load.passwd"
            accounts.write_text(account(LOAD_USER, self.load_password))
            _append(self.plan.config(role), f"password_file {accounts}\n")
            filter_ = f"{topics.ROOT}/{space}/#"
            _append(self.plan.acl(role), f"\nuser {LOAD_USER}\ntopic readwrite {filter_}\n")

    def load_links(self) -> dict[str, dict]:
        """How the load generator connects, by topic space: keyword arguments of MiniClient.connect."""
        return {space: self._link(role, "client_id", "host") for role, space in SPACES.items()}

    def floor_links(self) -> dict[str, dict]:
        """How a floor connects, by topic space: keyword arguments of aiomqtt.Client."""
        return {space: self._link(role, "identifier", "hostname") for role, space in SPACES.items()}

    def _link(self, role: Role, client_id: str, host: str) -> dict:
        login = {"username": LOAD_USER, "password": self.load_password}
        return {host: "127.0.0.1", "port": self.plan.service_port(role), client_id: secrets.token_hex(16), **login}


def account(user: str, password: str) -> str:
    """One line of a Mosquitto password file. Source: mosquitto_passwd(1), hash 7 = PBKDF2-SHA512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101, 64)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def running(brokers: BenchBrokers) -> Iterator[BenchBrokers]:
    """Starts both, and stops them at the end."""
    try:
        for role in EVERYWHERE:
            brokers.start(role)
        yield brokers
    finally:
        for role in [*brokers.processes]:
            brokers.stop(role)
