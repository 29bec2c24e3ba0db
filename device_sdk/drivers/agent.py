"""`firstlight-device`: one real device from a small JSON file.

Owns the command line, the state directory's lock, the lines it prints and the restart after an installation; what the
device does is the core's business. No line holds a secret. docs/device-sdk.md lists options, lines and exit codes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_sdk.core import actions, status
from device_sdk.core.client import Client
from device_sdk.core.identity import Policy
from device_sdk.core.staging import StagingClient, first_client
from device_sdk.drivers.config import ConfigError, DeviceConfig, read_config
from device_sdk.drivers.crypto import FullCrypto, SigningKey, SigningKeyError, load_signing_key
from device_sdk.drivers.failpoints import passing
from device_sdk.drivers.items import FileItems
from device_sdk.drivers.product import CommandProduct
from device_sdk.drivers.slots import FileSlots
from device_sdk.drivers.store import FileFlash

EXIT_DONE = 0  # stopped by a signal, or --once and nothing is left to do
EXIT_USAGE = 2  # argparse's own
EXIT_CONFIG = 3
EXIT_STATE = 4  # the state directory: no space, no permission, or another agent uses it
EXIT_TIMEOUT = 5  # --timeout passed before --once was done
EXIT_BOXED = 11  # staged in the warehouse: switch the device off
EXIT_RESTART = 10  # --reboot exit: start me again, a new image is to run

HEALTH_TIMEOUT_S = 60


class StateError(Exception):
    """The state directory cannot be used."""


class Printer:
    """One line for each step, plain or JSON, written at once; lost where it cannot be written."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self._as_json = as_json
        self._verbose = verbose
        self._last: tuple[Any, ...] | None = None

    def note(self, note: actions.Note) -> None:
        if note.level != "debug" or self._verbose:
            self.line(note.level, note.event, note.detail)

    def state(self, now: status.Status) -> None:
        """A line when state, place, version or the tenth of the progress changed."""
        tenth = None if now.progress is None else now.progress // 10
        shown = (now.state, now.place, now.version, tenth)
        if shown != self._last:
            self._last = shown
            fields = {"state": now.state, "place": now.place, "version": now.version, "progress": now.progress}
            self.line("info", "state", " ".join(f"{k}={v}" for k, v in fields.items() if v is not None), **fields)

    def line(self, level: str, event: str, detail: str, **fields: Any) -> None:
        if self._as_json:
            text = json.dumps({"level": level, "event": event, "detail": detail, **fields})
        else:
            text = f"{level:<7} {event}: {detail}" if detail else f"{level:<7} {event}"
        with contextlib.suppress(OSError):  # nobody reads, or the disk is full: the device goes on without its lines
            print(text, flush=True)  # noqa: T201  # the command's output


def main(arguments: list[str] | None = None) -> None:
    """The command `firstlight-device`; leaves by SystemExit with one of the codes above."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    printer = Printer(as_json=options.json, verbose=options.verbose)
    try:
        config = _configured(options)
        state_dir = options.state_dir or config.state_dir
        with _locked(state_dir):
            code = Agent(config, state_dir, options, printer).run()
    except ConfigError as error:
        printer.line("error", "configuration", str(error))
        raise SystemExit(EXIT_CONFIG) from None
    except (StateError, OSError) as error:
        printer.line("error", "state_directory", str(error))
        raise SystemExit(EXIT_STATE) from None
    if code == EXIT_RESTART:
        printer.line("info", "restart", options.reboot)
        passing("agent.before_reboot")
        if options.reboot == "exec":
            os.execv(sys.executable, [sys.executable, "-m", "device_sdk.drivers.agent", *given])  # noqa: S606
    raise SystemExit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="firstlight-device", description="Run one Firstlight device.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file: who the device is")
    parser.add_argument("--state-dir", type=Path, help="records and image slots (default: state_dir of the file)")
    parser.add_argument("--once", action="store_true", help="end when the device is online and has nothing left to do")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="with --once: give up after this time (code 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--verbose", action="store_true", help="print debug lines too")
    parser.add_argument("--allow-plaintext", action="store_true", help="accept brokers without TLS (trials only)")
    parser.add_argument("--driver", choices=("aio", "threaded"), default="aio", help="asyncio or a plain thread")
    parser.add_argument(
        "--reboot",
        choices=("exec", "exit"),
        default="exec",
        help=f"after an installation: start this command anew, or end with code {EXIT_RESTART}",
    )
    parser.add_argument(
        "--item-command",
        metavar="COMMAND",
        help="an item of the warehouse works when `COMMAND NAME VERSION FILE` says 0",
    )
    parser.add_argument("--health-command", metavar="COMMAND", help="a new image is good when this ends with code 0")
    parser.add_argument(
        "--settings-command", metavar="COMMAND", help="takes over the settings in the file named as last argument"
    )
    parser.add_argument(
        "--defer-command", metavar="COMMAND", help="ends with code 75 while an update must wait; prints SECONDS REASON"
    )
    return parser


def _configured(options: argparse.Namespace) -> DeviceConfig:
    config = read_config(options.config)
    if not options.allow_plaintext and any(not one.tls for one in (*config.bootstrap, *config.warehouse)):
        raise ConfigError("bootstrap or warehouse: an endpoint has tls false, and --allow-plaintext was not given")
    return config


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Only one agent uses a state directory at a time."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{state_dir}: used by another process") from None
        yield


class Agent:
    """One power-up of the device: from the boot loader's choice to a stop or a reboot."""

    def __init__(self, config: DeviceConfig, state_dir: Path, options: argparse.Namespace, printer: Printer) -> None:
        self._options = options
        self._printer = printer
        self._slots = FileSlots(state_dir / "slots", health_check=_health_check(options.health_command))
        self._slots.boot()
        self._client = first_client(
            config.identity(allow_plain=options.allow_plaintext),
            Policy(root=config.topic_root),
            FileFlash(state_dir / "records"),
            self._slots,
            FullCrypto(x509_credentials=config.x509, signing_key=_signing_key(config)),
            os.urandom,
            CommandProduct(state_dir, settings_command=options.settings_command, defer_command=options.defer_command),
            FileItems(state_dir / "items", check_command=options.item_command),
        )
        self._timed_out = False

    def run(self) -> int:
        """An exit code."""
        try:
            outcome = self._run_aio() if self._options.driver == "aio" else self._run_threaded()
        finally:
            self._slots.close()
        if outcome == "reboot":
            return EXIT_RESTART
        if outcome == "shutdown":
            return EXIT_BOXED
        return EXIT_TIMEOUT if self._timed_out else EXIT_DONE

    def _run_aio(self) -> str:
        return asyncio.run(self._main())

    async def _main(self) -> str:
        from device_sdk.drivers.aio import Driver  # noqa: PLC0415  # each driver needs its own extra

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if self._options.timeout is not None:
            loop.call_later(self._options.timeout, self._give_up, stop.set)
        return await Driver(
            self._client, on_note=self._printer.note, on_change=lambda client: self._changed(client, stop.set)
        ).run(stop)

    def _run_threaded(self) -> str:
        from device_sdk.drivers.threaded import ThreadedDriver  # noqa: PLC0415  # each driver needs its own extra

        driver = ThreadedDriver(
            self._client, on_note=self._printer.note, on_change=lambda client: self._changed(client, driver.stop)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: driver.stop())
        timer: threading.Timer | None = None
        if self._options.timeout is not None:
            timer = threading.Timer(self._options.timeout, self._give_up, [driver.stop])
            timer.daemon = True
            timer.start()
        try:
            return driver.run()
        finally:
            if timer is not None:
                timer.cancel()

    def _changed(self, client: Client | StagingClient, stop: Callable[[], None]) -> None:
        now = client.status
        self._printer.state(now)
        if self._options.once and now.state in (status.ONLINE, status.RETIRED):
            stop()

    def _give_up(self, stop: Callable[[], None]) -> None:
        self._timed_out = True
        stop()


def _signing_key(config: DeviceConfig) -> SigningKey | None:
    if config.private_key_pem is None:
        return None
    try:
        return load_signing_key(config.private_key_pem)
    except SigningKeyError as error:
        raise ConfigError(f"private_key_file: {error}") from None


def _health_check(command: str | None) -> Callable[[], bool]:
    if command is None:
        return lambda: True
    words = shlex.split(command)

    def healthy() -> bool:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(words, check=False, timeout=HEALTH_TIMEOUT_S).returncode == 0  # noqa: S603
        return False

    return healthy


if __name__ == "__main__":
    main()
