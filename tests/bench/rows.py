"""The rows of the bench: what is measured, against what, and in which order it must run.

Each activation storm has a service of its own and then its floor, for which that service is stopped, because both would
answer. The storm with certificates does so several times, and its row is the middle one: on a machine that others use
too, one storm and one floor may each meet another speed. Everything else runs against one service.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass

from device_sdk.wire import limits
from service.brokers.gate import Login
from service.brokers.mosquitto.control import DynsecControl
from service.brokers.mosquitto.gate import MosquittoGate
from service.brokers.mosquitto.render import read_password
from service.domain.credential import CredentialKind
from service.errors import Secret
from tests.bench import c_clients
from tests.bench.machine import memory_mib
from tests.bench.report import Row
from tests.bench.site import GROUP, Site
from tests.bench.wiring import Beside, run_module

CHUNK_SIZES = (4096, 16384)
MIB = 1024 * 1024
DELAY_S = 0.05
WINDOWS_OF_A_LONG_LINE = 16
WARM_UP_DEVICES = 300  # before a storm; its signing process is there afterwards
FRAME_HEADER_BYTES = 20


@dataclass(frozen=True)
class Options:
    rows: frozenset[str]
    devices: int = 2000
    rounds: int = 5
    api_key_devices: int = 300
    stream_devices: int = 50
    at_once: int = 250
    seconds: float = 5.0
    memory_seconds: float = 60.0
    image_mib: int = 256


class Bench:
    def __init__(self, site: Site, options: Options) -> None:
        self.site, self.options = site, options
        self.rows: list[Row] = []

    async def run(self) -> list[Row]:
        wanted = self.options.rows
        await self.site.furnish(self.options.image_mib * MIB)
        if wanted & {"stream", "delay", "memory"}:
            async with self.site.running_service() as pid:
                if "stream" in wanted:
                    await self.stream()
                if "delay" in wanted:
                    await self.delay()
                if "memory" in wanted:
                    await self.memory(pid)
        if "storm" in wanted:
            rounds = [await self._storm(self.options.devices, csr=True) for _ in range(self.options.rounds)]
            self.rows.append(storm_row("certificates", rounds))
        if "api-keys" in wanted:
            await self.api_keys()
        if wanted & {"stream", "storm", "api-keys"}:
            await self._c_clients()
        return self.rows

    async def api_keys(self) -> None:
        row = storm_row("API keys, grants included", [await self._storm(self.options.api_key_devices, csr=False)])
        row.details["grant"] = grant = await self._grant_cost()
        row.note += f"; a grant alone {grant['single_ms']} ms, in hundreds {grant['hundred_ms']} ms each"
        self.rows.append(row)

    async def _storm(self, devices: int, *, csr: bool) -> tuple[dict, dict]:
        """What came of one storm, and of its floor directly after it."""
        warm_up, serials = await self.site.register(WARM_UP_DEVICES if csr else 1), await self.site.register(devices)
        async with self.site.running_service():
            await run_module("tests.bench.storm", self._storm_input(warm_up, csr=csr, verify=True), 900)
            measured = await run_module("tests.bench.storm", self._storm_input(serials, csr=csr, verify=True), 900)
        links = {"links": self.site.brokers.floor_links(), "grant_bytes": measured["grant_bytes"]}
        async with Beside("tests.bench.echo", links, ready_lines=2):
            floor = await run_module("tests.bench.storm", self._storm_input(serials, csr=csr, verify=False), 300)
        return measured, floor

    async def stream(self) -> None:
        measures = [
            {**_measure(devices, size, self.options.seconds), "mode": mode}
            for devices in (1, self.options.stream_devices)
            for size in CHUNK_SIZES
            for mode in ("paho", "service", "aiomqtt")
        ]
        results = await self._stream(self.options.stream_devices, measures)
        for floor, got, slower in zip(results[::3], results[1::3], results[2::3], strict=True):
            name = f"stream, {_devices(got['devices'])}, {got['chunk_size'] // 1024} KiB chunks"
            note = f"aiomqtt's own publish(): {slower['mb_per_s']} MB/s{_stream_note(got)}"
            floor_name = "bare loop on paho-mqtt"
            self.rows.append(Row(name, got["mb_per_s"], floor["mb_per_s"], "MB/s", note, floor_name, got))

    async def delay(self) -> None:
        measures = []
        for size in CHUNK_SIZES:
            plain = {**_measure(1, size, self.options.seconds), "mode": "service"}
            one_by_one = {**plain, "delay_s": DELAY_S, "windows": 1, "window_chunks": 1}
            far = {**plain, "delay_s": DELAY_S, **_windows_of_a_long_line(size)}
            measures += [{**plain, "delay_s": 0.0}, far, one_by_one]
        results = await self._stream(1, measures)
        for near, far, waiting in zip(results[::3], results[1::3], results[2::3], strict=True):
            note = f"one chunk per request: {waiting['mb_per_s']} MB/s{_trouble(far)}"
            name = f"stream, 1 device, {far['chunk_size'] // 1024} KiB chunks, 50 ms each way"
            row = Row(name, far["mb_per_s"], near["mb_per_s"], "MB/s", note, floor_name="no delay, same proxy")
            row.details = {"stop_and_wait": waiting, **far}
            self.rows.append(row)

    async def memory(self, pid: int) -> None:
        devices = self.options.stream_devices
        before = memory_mib(pid)
        measure = {**_measure(devices, CHUNK_SIZES[1], self.options.memory_seconds), "mode": "service"}
        streaming = asyncio.create_task(self._stream(devices, [measure]))
        highest = before["rss_mib"]
        while not streaming.done():
            await asyncio.sleep(1)
            highest = max(highest, memory_mib(pid)["rss_mib"])
        got, after = (await streaming)[0], memory_mib(pid)
        seconds = self.options.memory_seconds
        note = f"{seconds:.0f} s at {got['mb_per_s']} MB/s, image {self.options.image_mib} MiB; peak {after['peak_mib']} MiB"
        name = f"memory of the service, {_devices(devices)}"
        details = {"before": before, "after": after, **got}
        self.rows.append(Row(name, highest, None, "MiB", note + _trouble(got), details=details))

    async def _stream(self, devices: int, measures: list[dict]) -> list[dict]:
        given = {
            "bootstrap": {"host": "localhost", "port": self.site.ports["bootstrap"], "tls": self.site.ca_file},
            "ca_file": self.site.ca_file,
            "group_id": GROUP,
            "group_secret": self.site.group_secret.hex(),
            "serials": await self.site.register(devices),
            "floor_link": self.site.brokers.floor_links()["c"],
            "measures": measures,
        }
        results: list[dict] = (await run_module("tests.bench.stream", given, 900))["measures"]
        return results

    def _storm_input(self, serials: list[str], *, csr: bool, verify: bool) -> dict:
        return {
            "links": self.site.brokers.load_links(),
            "group_id": GROUP,
            "group_secret": self.site.group_secret.hex(),
            "serials": serials,
            "csr": csr,
            "at_once": self.options.at_once,
            "verify": verify,
        }

    async def _grant_cost(self) -> dict:
        """Milliseconds of a grant at the broker as it is now, one alone and each of a hundred in one message."""
        plan = self.site.brokers.plan
        control = DynsecControl(
            plan.service_host, plan.operational_service_port, read_password(plan.admin_password_file)
        )
        running = asyncio.create_task(control.run())
        try:
            await asyncio.wait_for(control.connected.wait(), 10)
            gate, single, hundred = (
                MosquittoGate(control),
                [_login() for _ in range(50)],
                [_login() for _ in range(100)],
            )
            started = time.perf_counter()
            for login in single:
                await gate.grant([login])
            middle = time.perf_counter()
            await gate.grant(hundred)
            ended = time.perf_counter()
            logins = len(await gate.snapshot())
            await gate.revoke([*single, *hundred])
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        cost = {"single_ms": (middle - started) / len(single), "hundred_ms": (ended - middle) / len(hundred)}
        return {**{name: round(value * 1000, 2) for name, value in cost.items()}, "logins": logins}

    async def _c_clients(self) -> None:
        link = self.site.brokers.load_links()["c"]
        for size, messages in ((256, 40_000), (4096 + FRAME_HEADER_BYTES, 20_000), (16384 + FRAME_HEADER_BYTES, 8_000)):
            name = f"Mosquitto's C client to C client, {size} bytes"
            found = await c_clients.rate(link, size, messages)
            if found is None:
                self.rows.append(Row(name, 0.0, None, "MB/s", "not installed"))
                continue
            note = f"{found['messages_per_s']:,} messages/s, {found['lost']:,} lost of {messages:,}"
            self.rows.append(Row(name, found["mb_per_s"], None, "MB/s", note, details=found))


def _measure(devices: int, chunk_size: int, seconds: float) -> dict:
    """A megabyte in each of four windows for one device, which may have more than two where the line stands idle; 64
    chunks in each of two for many, who fill the line together.
    """
    window, windows = (MIB // chunk_size, 4) if devices == 1 else (64, 2)
    return {
        "devices": devices,
        "chunk_size": chunk_size,
        "window_chunks": window,
        "windows": windows,
        "seconds": seconds,
    }


def _windows_of_a_long_line(chunk_size: int) -> dict:
    """Sixteen, as many as the SDK comes to when it sees the line stand idle between two, of all that may be outstanding.

    Larger and fewer would leave more of the line empty: what has come of a window is asked for anew when it is whole.
    """
    most = min(limits.MAX_OUTSTANDING_CHUNKS, limits.MAX_OUTSTANDING_BYTES // chunk_size)
    return {"windows": WINDOWS_OF_A_LONG_LINE, "window_chunks": most // WINDOWS_OF_A_LONG_LINE}


def _login() -> Login:
    key = Secret(secrets.token_hex(32).encode())
    return Login(secrets.token_hex(16), CredentialKind.API_KEY, api_key=key)


def storm_row(kind: str, rounds: list[tuple[dict, dict]]) -> Row:
    """Of storms and their floors the one whose ratio is in the middle; of an even number the lower of the two."""
    rows = sorted((_storm_row(kind, *one) for one in rounds), key=lambda row: row.rate / row.floor)
    row = rows[(len(rows) - 1) // 2]
    if len(rows) > 1:
        row.note += f"; the middle of {', '.join(f'{one.ratio:.2f}' for one in rows)}"
    row.details["rounds"] = [{"service": measured, "floor": floor} for measured, floor in rounds]
    return row


def _storm_row(kind: str, measured: dict, floor: dict) -> Row:
    note = f"p50 {measured['p50_s']} s, p99 {measured['p99_s']} s (floor {floor['p50_s']}, {floor['p99_s']})"
    if measured["confirmed"] < measured["asked"]:
        note += f"; only {measured['confirmed']} of {measured['asked']} confirmed"
    if measured["repeats"] or measured["refused"]:
        note += f"; repeats {measured['repeats']}, refused {measured['refused']}"
    title = f"activation, {measured['asked']} devices, {kind}"
    return Row(title, measured["per_second"], floor["per_second"], "/s", note)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _stream_note(got: dict) -> str:
    share = got["slowest_device_bytes"] * got["devices"] / max(got["bytes"], 1)
    return (f"; slowest device at {share:.0%} of the mean" if got["devices"] > 1 else "") + _trouble(got)


def _trouble(got: dict) -> str:
    found = f"; lost windows {got['lost_windows']}" if got.get("lost_windows") else ""
    return found + (f"; refused {got['refused']}" if got.get("refused") else "")
