"""The gate to an operational Mosquitto: API keys by the dynamic-security plugin, certificates by CRL and kick.

Owns how a credential becomes valid and dead there. The database is the truth: the plugin's list is compared with it each
minute and after every reconnect (pipeline/granter.py), the list of certificates beside it (revocation.py), and `render` writes
both before each start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from device_sdk.wire import ids, topics
from service.brokers.gate import AccountLogin, GateError, Login
from service.brokers.mosquitto.accounts import AccountBook, check
from service.brokers.mosquitto.control import Command, DynsecControl
from service.brokers.mosquitto.plan import OWN_USERS
from service.brokers.mosquitto.revocation import Reload, RevocationList
from service.domain.credential import CredentialKind

PAGE = 1000  # clients asked for in one listClients
RELOAD_TIMEOUT_S = 10.0
PROGRAM = "mosquitto"  # what Linux calls its process


class MosquittoGate:
    """All calls may be repeated. `crl` None: this broker takes no certificates."""

    def __init__(
        self,
        control: DynsecControl,
        crl: RevocationList | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        root: str = topics.ROOT,
    ) -> None:
        self._control = control
        self._crl = crl
        self._now = now
        self._accounts = AccountBook(control, self._others, root)

    async def grant(self, logins: Sequence[Login]) -> None:
        """Raises GateError. A certificate needs no grant: the CA's signature is it."""
        keys = [login for login in logins if login.kind is CredentialKind.API_KEY]
        answers = await self._control.ask([_create(login) for login in keys])
        # One that is there already has this very key: a credential id and its key come from the same claim. It is left
        # alone, because modifyClient would end the session of a device that is online.
        check(answers, "Client already exists")

    async def revoke(self, logins: Sequence[Login]) -> None:
        """Raises GateError."""
        keys = [login.credential_id for login in logins if login.kind is CredentialKind.API_KEY]
        if keys:
            await self._delete(keys)
        certified = [login for login in logins if login.kind is CredentialKind.X509]
        if certified:
            await self._revoke_certificates(certified)

    async def set_accounts(self, wanted: Sequence[AccountLogin]) -> tuple[int, int]:
        """Raises GateError. At each new connection and every minute the broker is asked what it has of them."""
        return await self._accounts.put(wanted)

    async def compare_certificates(self) -> str:
        """Make the list of refused certificates what the database says; what was wrong with it, "" for nothing.

        Raises GateError, ServiceError.
        """
        return "" if self._crl is None else await self._crl.compare(self._now())

    async def _others(self) -> list[str]:
        return [name for name in await self._clients() if not ids.is_hex_id(name)]

    async def snapshot(self) -> frozenset[str]:
        """The API key logins that the broker has now. Raises GateError."""
        return frozenset(name for name in await self._clients() if ids.is_hex_id(name))

    async def _clients(self) -> frozenset[str]:
        """Every login but the service's and the admin's, in pages."""
        found: set[str] = set()
        offset = 0
        while True:
            page = {"command": "listClients", "verbose": False, "count": PAGE, "offset": offset}
            (answer,) = await self._control.ask([page])
            check([answer])
            names = answer["data"]["clients"]
            found.update(names)
            offset += len(names)
            if not names or offset >= answer["data"]["totalCount"]:
                return frozenset(found - OWN_USERS)

    async def _revoke_certificates(self, logins: Sequence[Login]) -> None:
        if self._crl is None:
            raise GateError("this broker takes no certificates")
        # 1. New connections are refused from the reload on.
        await self._crl.add({int(x.certificate_serial, 16) for x in logins if x.certificate_serial}, self._now())
        # 2. One answered question: the broker's loop has been round since, so the reload is done.
        await self._control.ask([{"command": "getDefaultACLAccess"}])
        # 3. The live session stays after a reload of the CRL; a login that is made and deleted ends it.
        names = [login.credential_id for login in logins]
        password = secrets.token_hex(32)
        created = [{"command": "createClient", "username": x, "password": password, "clientid": x} for x in names]
        check(await self._control.ask(created), "Client already exists")
        await self._delete(names)

    async def _delete(self, names: Sequence[str]) -> None:
        commands = [{"command": "deleteClient", "username": name} for name in names if name not in OWN_USERS]
        check(await self._control.ask(commands), "Client not found")


def reload_by_signal(pid_file: Path) -> Reload:
    """SIGHUP to the Mosquitto in `pid_file`. The service must be allowed to signal it: the same user, or root.

    A broker that was killed leaves its file behind, and its number may be another process's by now: what is not called
    mosquitto is left alone. Needs Linux 5.3; elsewhere there is `reload_by_command`.
    """

    async def reload() -> None:
        try:
            await asyncio.to_thread(_hang_up, pid_file)
        except (OSError, ValueError, OverflowError) as error:
            raise GateError(f"the broker of {pid_file} cannot be told to reload: {error}") from error

    return reload


def reload_by_command(*command: str) -> Reload:
    """Run a command that reloads the broker, where the service may not signal it."""

    async def reload() -> None:
        try:
            process = await asyncio.create_subprocess_exec(*command)
            async with asyncio.timeout(RELOAD_TIMEOUT_S):
                code = await process.wait()
        except (OSError, TimeoutError) as error:
            raise GateError(f"{command[0]} failed: {error}") from error
        if code != 0:
            raise GateError(f"{command[0]} ended with {code}")

    return reload


class NoGate:
    """For a broker that somebody else tells (`broker = "none"`): nothing to do, nothing known."""

    async def grant(self, logins: Sequence[Login]) -> None:
        """Nothing: the broker's own means have to know the credential."""

    async def revoke(self, logins: Sequence[Login]) -> None:
        """Nothing: the service itself ignores a dropped credential in any case."""

    async def set_accounts(self, wanted: Sequence[AccountLogin]) -> tuple[int, int]:
        """Nothing: whoever runs the broker makes its accounts."""
        del wanted
        return 0, 0

    async def snapshot(self) -> None:
        """It keeps no list."""
        return


def _hang_up(pid_file: Path) -> None:
    """Raises OSError, ValueError or OverflowError, and then nobody was signalled."""
    pid = int(pid_file.read_text())
    if not hasattr(os, "pidfd_open"):
        raise OSError("this system cannot tell whose process it is; set a reload command")
    # 1. Hold the process: what follows is about this one, even if it ends and its number is given to another.
    process = os.pidfd_open(pid)
    try:
        # 2. Read by number, hence perhaps of a successor; but then the one that is held is gone and step 3 fails.
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name != PROGRAM:
            raise ValueError(f"process {pid} is not a Mosquitto but {name!r}")
        # 3. ProcessLookupError when it ended meanwhile.
        signal.pidfd_send_signal(process, signal.SIGHUP)
    finally:
        os.close(process)


def _create(login: Login) -> Command:
    if login.api_key is None:
        raise GateError(f"no API key at hand for {login.credential_id}")
    password = login.api_key.reveal().decode()
    name = login.credential_id
    return {"command": "createClient", "username": name, "password": password, "clientid": name}
