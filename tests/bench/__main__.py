"""`make bench`: a table of rates, each beside its floor from the same run. Options: `make bench ARGS='--help'`."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.machine import describe
from tests.bench.report import Row, as_json, table
from tests.bench.rows import Bench, Options
from tests.bench.site import Site
from tests.support.mosquitto import SEARCH

ROWS = ("stream", "delay", "memory", "storm", "api-keys")


def parse(words: list[str]) -> argparse.Namespace:
    defaults = Options(rows=frozenset())
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this row; may be repeated")
    parser.add_argument("--devices", type=int, default=defaults.devices, help="of the storm with certificates")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="of that storm and its floor")
    parser.add_argument("--api-key-devices", type=int, default=defaults.api_key_devices)
    parser.add_argument("--stream-devices", type=int, default=defaults.stream_devices)
    parser.add_argument("--at-once", type=int, default=defaults.at_once, help="devices on their way at a time")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="of each stream measure")
    parser.add_argument("--memory-seconds", type=float, default=defaults.memory_seconds)
    parser.add_argument("--image-mib", type=int, default=defaults.image_mib)
    parser.add_argument("--quick", action="store_true", help="a short run of everything, for trying out")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    return parser.parse_args(words)


def options(given: argparse.Namespace) -> Options:
    rows = frozenset(given.row or ROWS)
    if given.quick:
        return Options(rows, 200, 1, 50, 10, given.at_once, 1.5, 5.0, 16)
    return Options(
        rows,
        given.devices,
        given.rounds,
        given.api_key_devices,
        given.stream_devices,
        given.at_once,
        given.seconds,
        given.memory_seconds,
        given.image_mib,
    )


async def measure(chosen: Options) -> tuple[list[Row], bool]:
    """The rows, and whether they are all there."""
    with tempfile.TemporaryDirectory(prefix="firstlight-bench-") as folder:
        site = Site(Path(folder))
        site.make()
        with site.running_brokers():
            bench = Bench(site, chosen)
            try:
                return await bench.run(), True
            except Exception as error:
                print(f"bench: stopped by {error!r}", file=sys.stderr)
                if (Path(folder) / "service.log").exists():
                    print(site.service_log()[-3000:], file=sys.stderr)
                if not bench.rows:
                    raise
                return bench.rows, False


def main() -> int:
    given = parse(sys.argv[1:])
    if shutil.which("mosquitto", path=SEARCH) is None:
        print("bench: Mosquitto is not installed; nothing to measure against", file=sys.stderr)
        return 1
    machine = describe()
    rows, complete = asyncio.run(measure(options(given)))
    print(json.dumps(as_json(rows, machine)) if given.json else table(rows, machine))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
