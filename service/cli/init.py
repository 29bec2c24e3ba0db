"""`firstlight init`: makes an installation, once.

Owns the order in which its parts are made; keyfile.py, authority.py, schema.py and the broker renderer make them. The
configuration file is written last: as long as it is missing, `init` may be run again and keeps what is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import pwd
import shutil
import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.render import render
from service.cli import config_text
from service.cli.context import CommandError, JsonOption, emit, fail, guarded, open_database, warn
from service.credentials.authority import Authority, AuthorityError
from service.credentials.keyfile import KeyFile
from service.installation import broker_plan
from service.operations import releases
from service.settings import CONFIG_NAME, Settings, make_settings
from service.storage.schema import migrate
from service.whole_files import AS_UMASK, create_whole

Broker = Literal["embedded", "mosquitto"]
KEEPS_RELEASE_KEY = "The release key lies on this machine: good for trials, but whoever has it can sign firmware."


def init(
    directory: Annotated[Path, typer.Argument(help="Where the installation shall lie.")] = Path(),
    broker: Annotated[
        Broker, typer.Option(help="embedded: for trials; mosquitto: its files are written.")
    ] = "embedded",
    host: Annotated[str, typer.Option(help="The brokers' name or address, as devices see it.")] = "127.0.0.1",
    environment: Annotated[str, typer.Option(help="The name of the first environment.")] = "local",
    with_release_key: Annotated[
        bool, typer.Option("--with-release-key", help="Also keep a release key here (for trials: it belongs offline).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make keys, CA, database, the broker's files and a commented firstlight.toml."""
    check_words(host, environment)
    config = directory / CONFIG_NAME
    if config.exists():
        fail(f"{config} exists already; nothing was changed")
    text = (
        config_text.embedded(environment, host)
        if broker == "embedded"
        else config_text.mosquitto(environment, host, mosquitto_user())
    )
    settings = make_settings(tomllib.loads(text), directory)
    made = guarded(
        lambda: _make(settings, environment, release_key=directory / "release.key" if with_release_key else None)
    )
    _write_new(config, text)
    made.append(f"{config}: the configuration, with comments")
    if with_release_key:
        made.append(KEEPS_RELEASE_KEY)
    commands = _next_commands(broker, directory, settings, environment)
    emit(
        {"config": config, "environment": environment, "broker": broker, "made": made, "next": commands},
        as_json=as_json,
        text=lambda: print("\n".join([*made, "", "Next:", *(f"  {one}" for one in commands)])),
    )


async def _make(settings: Settings, environment: str, *, release_key: Path | None) -> list[str]:
    """Make what is missing; returns a line for each part. Raises KeyFileError, CommandError, ServiceError."""
    lines = []
    settings.data_dir.mkdir(
        parents=True, exist_ok=True, mode=0o711
    )  # the brokers' user gets to its folder, sees no other
    # 1. The service's keys.
    if settings.key_file.exists():
        KeyFile.load(settings.key_file)
        lines.append(f"{settings.key_file}: kept")
    else:
        KeyFile.create(settings.key_file)
        lines.append(f"{settings.key_file}: the service's keys (back them up; without them the database is lost)")
    # 2. The environment's certificate authority.
    lines.append(make_authority(settings.ca_dir(environment), environment))
    # 3. The database, in the newest schema.
    schema = await asyncio.to_thread(migrate, settings.database_path)
    lines.append(f"{settings.database_path}: the database, schema {schema}")
    settings.images_dir.mkdir(exist_ok=True, mode=0o700)
    # 4. The brokers' files.
    if settings.environments[environment].broker == "mosquitto":
        plan = broker_plan(settings, environment)
        render(plan, load_issuer(settings.ca_dir(environment)), (), None, datetime.now(UTC))
        if plan.run_as is not None and (shut := shut_to(plan.run_as, plan.directory)) is not None:
            warn(
                f"the user {plan.run_as}, which Mosquitto becomes, cannot get into {shut}: be an ordinary user, or choose another folder"
            )
        lines.append(f"{plan.directory}: the configuration of both Mosquittos, their certificate and passwords")
    # 5. A release key, if asked for.
    if release_key is not None:
        public = releases.keygen(release_key)
        async with open_database(settings) as database:
            await releases.add_key(database, public, "local", now=datetime.now(UTC))
        lines.append(f"{release_key}: a release key, {public.key_id}")
    return lines


def make_authority(directory: Path, environment: str) -> str:
    try:
        if (directory / "ca.pem").exists():
            Authority.load(directory)
            return f"{directory}: kept"
        Authority.create(directory, environment, datetime.now(UTC))
    except AuthorityError as error:
        raise CommandError(str(error)) from error
    return f"{directory}: the certificate authority of {environment}"


def shut_to(user: str, path: Path) -> Path | None:
    """The first folder on the way to this one that a user may not enter; None where it gets in."""
    who = pwd.getpwnam(user)
    groups = os.getgrouplist(user, who.pw_gid)
    for folder in (*reversed(path.absolute().parents), path):
        found = folder.stat()
        bit = stat.S_IXUSR if found.st_uid == who.pw_uid else stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        if not found.st_mode & bit and who.pw_uid != 0:
            return folder
    return None


def mosquitto_user() -> str | None:
    """The user that Debian's Mosquitto becomes, where root makes the installation and there is one."""
    try:
        return pwd.getpwnam("mosquitto").pw_name if os.geteuid() == 0 else None
    except KeyError:
        return None


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        create_whole(path, text.encode(), mode=AS_UMASK)
    except FileExistsError:
        fail(f"{path} exists already; it was not replaced")


def check_words(host: str, environment: str) -> None:
    if not environment or not all(c.isascii() and (c.isalnum() or c in "-_") for c in environment):
        fail("--environment: letters, digits, - and _ only")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not host or not all(c.isascii() and (c.isalnum() or c in "-.") for c in host):
            fail("--host: a host name or an address")


def _next_commands(broker: Broker, directory: Path, settings: Settings, environment: str) -> list[str]:
    where = "" if directory == Path() else f" -c {directory / CONFIG_NAME}"
    product = f"firstlight{where} product create thermometer --name Thermometer --hardware rev-a"
    group = f"firstlight{where} group create plant-7 --product thermometer --environment {environment} --ou acme"
    if broker == "embedded":
        return [product, group, f"firstlight{where} serve"]
    plan = broker_plan(settings, environment)
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"  # where Debian has it, outside an ordinary user's PATH
    return [
        *(f"{program} -c {plan.config(role)} &" for role in plan.roles),
        f"firstlight{where} serve &",
        f"firstlight{where} doctor",
        product,
        group,
    ]
