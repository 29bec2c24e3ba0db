"""The `firstlight` command: puts the nouns together.

Owns nothing but the options common to all of them; nouns.py knows where each is, one file per noun holds the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import invocation, nouns


class _Firstlight(nouns.Outlined):
    """Notes which command was asked for: the audit calls a change by it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = nouns.every_noun()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found: Any = self.commands
        words: list[str] = []
        for word in args:
            if word.startswith("-") or word not in found:
                break
            words.append(word)
            found = getattr(found[word], "commands", {})
        invocation.command_name.set(" ".join(words) or "change")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="firstlight",
    cls=_Firstlight,
    help="Device provisioning over MQTT: from factory key to confirmed firmware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - what it needs takes longer than help does

        print(version("firstlight"))
        raise typer.Exit


@app.callback()
def _common(
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="FIRSTLIGHT_CONFIG", help="The configuration file.")
    ] = invocation.CONFIG,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    invocation.chosen_config.set(config)


if __name__ == "__main__":
    app()
