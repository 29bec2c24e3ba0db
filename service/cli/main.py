"""The `firstlight` command: puts the nouns together.

Owns nothing but the list of commands and the options common to all of them; one file per noun holds the rest.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli import (
    account,
    administrators,
    asking,
    audit,
    backup,
    batch,
    broker,
    command,
    configuration,
    context,
    demo,
    device,
    device_type,
    doctor,
    enrolment,
    environment,
    equipment,
    events,
    group,
    init,
    jobs,
    keys,
    labels,
    manifest,
    onboard,
    openapi,
    order,
    ou,
    partner,
    product,
    release,
    serve,
    site,
    stats,
    status,
    stb,
    trace,
    verbs,
    warehouse,
)
from service.cli import version as version_noun


class _Named(TyperGroup):
    """Notes which command was asked for: the audit calls a change by it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found, words = self.commands, list[str]()
        for word in args:
            if word not in found:
                break
            words.append(word)
            found = getattr(found[word], "commands", {})
        context.command_name.set(" ".join(words) or "change")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="firstlight",
    cls=_Named,
    help="Device provisioning over MQTT: from factory key to confirmed firmware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version("firstlight"))
        raise typer.Exit


@app.callback()
def _common(
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="FIRSTLIGHT_CONFIG", help="The configuration file.")
    ] = Path("firstlight.toml"),
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    context.chosen_config.set(config)


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("trace")(trace.trace)
app.command("audit")(audit.audit)
app.command("events")(events.events)
app.command("stats")(stats.stats)
app.command("labels")(labels.labels)
app.command("onboard")(asking.with_more(onboard.onboard, "dry_run", "request_id", "expires_at"))
app.command("openapi")(openapi.openapi)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
for _noun, _commands in {
    "account": account.app,
    "batch": batch.app,
    "command": command.app,
    "broker": broker.app,
    "product": product.app,
    "environment": environment.app,
    "group": group.app,
    "ou": ou.app,
    "device": device.app,
    "version": version_noun.app,
    "release": release.app,
    "keys": keys.app,
    "partner": partner.app,
    "stb": stb.app,
    "device-type": device_type.app,
    "site": site.app,
    "order": order.app,
    "equipment": equipment.app,
    "manifest": manifest.app,
    "warehouse": warehouse.app,
    "admin": administrators.app,
    "daemon": jobs.daemon_app,
    "job": jobs.job_app,
    "config": configuration.app,
    "enrolment": enrolment.app,
}.items():
    app.add_typer(_commands, name=_noun)

verbs.mount(app)
app.command("restage")(equipment.restage)


if __name__ == "__main__":
    app()
