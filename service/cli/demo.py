"""`firstlight demo`: the whole way of a fleet, from factory keys to confirmed firmware, in a temporary folder.

Owns the command's options and exit code; service/demo does the work.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.context import CommandError, allow_many_connections, fail, guarded
from service.demo.options import MAX_DEVICES, DemoOptions, parse_broker, parse_size
from service.settings import ENV_PREFIX

if TYPE_CHECKING:
    from service.demo.run import Summary


def demo(
    devices: Annotated[int, typer.Option(min=1, max=MAX_DEVICES, help="How many devices power up.")] = 20,
    image_size: Annotated[str, typer.Option(help="Size of the target image, for example 2MiB.")] = "2MiB",
    broker: Annotated[str | None, typer.Option(help="A running broker, mqtt://host:port, instead of our own.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which the demo has failed.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="The last line of output is a JSON summary.")] = False,
) -> None:
    """Devices power up, activate, take the target firmware and confirm it; five are moved to another environment and
    one is replaced. Exit code 0 only if all did.
    """
    try:
        options = DemoOptions(
            devices=devices,
            image_bytes=parse_size(image_size),
            timeout_s=timeout,
            broker=None if broker is None else parse_broker(broker),
        )
    except ValueError as error:
        fail(str(error), code=2)
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[name]  # the demo is an installation of its own
    allow_many_connections()
    summary = guarded(lambda: _run(options))
    print(
        f"\n{summary.confirmed} of {summary.devices} devices confirmed the target in {summary.seconds:.1f} s: "
        f"{summary.activations_per_second:g} activations/s, {summary.bytes / 1e6:.1f} MB of firmware at "
        f"{summary.megabytes_per_second:g} MB/s"
    )
    if summary.lives is not None:
        what = "and a replacement took over its thing" if summary.lives.replaced else "and the replacement did not"
        print(f"{summary.lives.moved} of {summary.lives.sent} devices moved to another environment, {what}")
    if as_json:
        print(json.dumps(dataclasses.asdict(summary)))
    if not summary.complete:
        raise typer.Exit(1)


async def _run(options: DemoOptions) -> Summary:
    # Simulator and operations take a second to import: only this command needs them.
    from service.demo.process import DemoError  # noqa: PLC0415
    from service.demo.run import run_demo  # noqa: PLC0415

    try:
        return await run_demo(options)
    except (DemoError, OSError) as error:
        raise CommandError(str(error)) from error
