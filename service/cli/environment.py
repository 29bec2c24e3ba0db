"""`firstlight environment`: add, list and check the deployments that this installation serves.

Owns the section that is written into firstlight.toml and the order in which an environment's parts are made; the
checks themselves are brokers/doctor.py's, and for embedded brokers a hello of a device that nobody knows.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import aiomqtt
import typer

from device_sdk.wire import topics
from service.brokers.canary import WAIT_S, Canary, Door
from service.brokers.doctor import examine
from service.brokers.mosquitto.certificates import load_issuer
from service.brokers.mosquitto.render import render
from service.brokers.trials import Check
from service.cli import authorities, bootstrap, config_text, context
from service.cli.broker import show
from service.cli.doctor import patient_of
from service.cli.init import Broker, check_words, make_authority, mosquitto_user
from service.errors import Secret
from service.installation import broker_plan
from service.operations import audits
from service.settings import EnvironmentSettings, Settings, SettingsError, make_settings
from service.whole_files import write_whole

app = typer.Typer(help="Environments: deployments with brokers of their own.", no_args_is_help=True)
app.add_typer(bootstrap.app, name="bootstrap")
authorities.add_to(app)

PORT_STEP = 100
MAX_ENVIRONMENTS = 64


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Such as prod-eu.")],
    broker: Annotated[
        Broker, typer.Option(help="embedded: for trials; mosquitto: its files are written.")
    ] = "mosquitto",
    host: Annotated[str, typer.Option(help="The brokers' name or address, as devices see it.")] = "127.0.0.1",
    port_offset: Annotated[
        int | None, typer.Option(min=0, max=40000, help="Added to the usual ports; else the next that are free here.")
    ] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Add an environment to the configuration, with its certificate authority and its brokers' files.

    A running service does not know it: start it anew, or start another one with `serve --environment NAME`.
    """
    check_words(host, name)
    of, config = context.settings(), context.config_path()
    if name in of.environments:
        context.fail(f"there is an environment {name}")
    if len(of.environments) >= MAX_ENVIRONMENTS:
        context.fail(f"there are {MAX_ENVIRONMENTS} environments already")
    offset = _free_offset(of) if port_offset is None else port_offset
    section = (
        config_text.embedded_section(name, host, offset)
        if broker == "embedded"
        else config_text.mosquitto_section(name, host, mosquitto_user(), offset)
    )
    text, settings = _extended(config, section)
    taken = _ports(of.environments.values()) & _ports([settings.environments[name]])
    if taken and host in ("127.0.0.1", "localhost"):
        context.fail(f"ports {', '.join(map(str, sorted(taken)))} belong to another environment; give --port-offset")
    lines = context.guarded(lambda: _make(settings, name))
    _replace(config, text)  # last: what is in the configuration is whole
    made = {"broker": broker, "host": host}
    context.run(lambda database: audits.note(database, {"environment": name}, after=made))
    lines.append(f"{config}: section environments.{name}")
    found = {"environment": name, **made, "port_offset": offset, "made": lines}
    context.emit(found, as_json=as_json, text=lambda: _show_added(settings, name, lines))


def _extended(config: Path, section: str) -> tuple[str, Settings]:
    """The configuration with this section behind it, not written yet; and what it then says."""
    text = config.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + section
    try:
        return text, make_settings(tomllib.loads(text), config.parent)
    except (SettingsError, tomllib.TOMLDecodeError) as error:
        context.fail(f"{config} cannot take another section: {error}")


def _show_added(settings: Settings, name: str, lines: list[str]) -> None:
    config = context.config_path()
    print("\n".join(lines))
    print("\nNext:")
    if settings.environments[name].broker == "mosquitto":
        plan = broker_plan(settings, name)
        print("  " + " ".join(f"mosquitto -c {plan.config(role)} &" for role in plan.roles))
    print(f"  firstlight -c {config} serve      (or, beside the service that runs: serve --environment {name})")
    print(f"  firstlight -c {config} environment check {name}")


@app.command("list")
def list_(as_json: context.JsonOption = False) -> None:
    """The environments of the configuration, with where devices connect; warehouse: where units are staged, if at all."""
    of = context.settings()
    found = [_line(name, one) for name, one in of.environments.items()]
    columns = ["environment", "broker", "bootstrap", "api_key", "x509", "warehouse"]
    context.emit(
        {"environments": found},
        as_json=as_json,
        text=lambda: context.table("Environments", columns, [[one[c] or "-" for c in columns] for one in found]),
    )


@app.command()
def check(
    environment: Annotated[str | None, typer.Argument(help="One environment; without it, all.")] = None,
    as_json: context.JsonOption = False,
) -> None:
    """Connect and prove subscribe, publish, and that a login that is granted works and one that is dropped does not.

    Exit code 1 when a check fails. `firstlight doctor` tries more: also what must not be allowed.
    """
    of = context.settings()
    names = context.environments(of, environment)
    show(context.guarded(lambda: _check_all(of, names)), as_json=as_json)


async def _check_all(of: Settings, names: list[str]) -> list[tuple[str, Check]]:
    found: list[tuple[str, Check]] = []
    for name in names:
        if of.environments[name].broker == "embedded":
            found += [(name, one) for one in await _embedded(of.environments[name])]
            continue
        async with patient_of(of, name) as patient:
            found += [(name, one) async for one in examine(patient, brief=True)]
    return found


async def _embedded(of: EnvironmentSettings) -> list[Check]:
    """The embedded brokers let nobody in but devices and the service that runs them: a device's first words are tried."""
    assert of.endpoints.api_key is not None
    ends = of.endpoints.bootstrap, of.endpoints.api_key
    bootstrap, operational = (Door(end.host, end.port) for end in ends)
    return [await _says_hello(bootstrap), await _keeps_out(operational)]


async def _says_hello(door: Door) -> Check:
    words = "bootstrap: a device subscribes, says hello and is answered"
    session = secrets.token_hex(16)
    hello = b'{"id":"check","group_id":"check","serial":"check","nonce":"AAAAAAAAAAAAAAAAAAAAAA"}'
    try:
        async with Canary(door, session) as canary:
            await canary.subscribe(topics.down_filter(topics.BOOTSTRAP, session))
            await canary.say(topics.up(topics.BOOTSTRAP, session, "hello"), hello)
            answered = await canary.heard_on(topics.down(topics.BOOTSTRAP, session, "hello"))
    except (aiomqtt.MqttError, OSError) as error:
        return Check(words, ok=False, reason=f"{door.host}:{door.port}: {error}; is the service running?")
    return Check(words, ok=answered, reason="" if answered else f"no answer in {WAIT_S:g} s")


async def _keeps_out(door: Door) -> Check:
    words = "operational: nobody gets in without a login"
    name = secrets.token_hex(16)
    try:
        async with Canary(door, name, name, Secret(name.encode())):
            return Check(words, ok=False, reason="a login that nobody was granted got in")
    except aiomqtt.MqttCodeError:
        return Check(words, ok=True)
    except (aiomqtt.MqttError, OSError) as error:
        refused = "authori" in str(error).lower() or "code:" in str(error).lower()
        return Check(words, ok=refused, reason="" if refused else f"{door.host}:{door.port}: {error}")


async def _make(settings: Settings, name: str) -> list[str]:
    lines = [make_authority(settings.ca_dir(name), name)]
    if settings.environments[name].broker == "mosquitto":
        plan = broker_plan(settings, name)
        await asyncio.to_thread(render, plan, load_issuer(settings.ca_dir(name)), (), None, datetime.now(UTC))
        lines.append(f"{plan.directory}: the configuration of both Mosquittos, their certificate and passwords")
    return lines


def _free_offset(of: Settings) -> int:
    taken = _ports(of.environments.values())
    bases = {
        config_text.BOOTSTRAP_PORT, config_text.API_KEY_PORT, config_text.X509_PORT,
        config_text.SERVICE_BOOTSTRAP_PORT, config_text.SERVICE_OPERATIONAL_PORT,
        config_text.EMBEDDED_BOOTSTRAP_PORT, config_text.EMBEDDED_API_KEY_PORT,
    }  # fmt: skip
    return next(
        offset
        for offset in range(0, PORT_STEP * (MAX_ENVIRONMENTS + 1), PORT_STEP)
        if not {base + offset for base in bases} & taken
    )


def _ports(environments: Any) -> set[int]:
    found = set()
    for one in environments:
        ends = one.endpoints.every()
        links = [one.links.of(role) for role in one.roles] if one.links is not None else []
        found |= {end.port for end in (*ends, *links)}
    return found


def _line(name: str, one: EnvironmentSettings) -> dict[str, str | None]:
    of = one.endpoints
    ends = {"bootstrap": of.bootstrap, "api_key": of.api_key, "x509": of.x509, "warehouse": of.warehouse}
    shown = {
        what: None if end is None else f"{end.host}:{end.port}{' TLS' if end.tls else ''}" for what, end in ends.items()
    }
    return {"environment": name, "broker": one.broker, **shown}


def _replace(path: Path, text: str) -> None:
    """With the mode that it has."""
    write_whole(path, text.encode(), prepare=lambda file: os.fchmod(file, path.stat().st_mode & 0o777))
