"""docs/partners/warehouse.md from its first line to its last: its commands as they stand there, and three tablets.

The tablets are written from the protocol document alone (support/plain_tablet.py). On the embedded broker, and in the
long run on Mosquittos with TLS.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import shlex
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.mqtt.port import Role
from service.operations import releases
from tests.support.plain_client import RefusedError
from tests.support.plain_tablet import Tablet
from tests.support.site import ENVIRONMENT, Site

PAGE = Path(__file__).parents[3] / "docs" / "partners" / "warehouse.md"
FILES = {
    "runtime.bin": os.urandom(50_000),  # an image of its own
    "point-of-sale.bin": os.urandom(20_000),
    "menu.bin": b"soup of the day" * 700,  # in two pieces
    "payment-ca.pem": b"-----BEGIN CERTIFICATE-----",
    "licence.key": b"licence-" + os.urandom(16).hex().encode(),
    "keystore.p12": os.urandom(48_000),  # a secret that is an image of its own
}
SETTINGS = {
    "features": {"kiosk": True, "locale": "fi"},
    "payment": {"terminal": "T-77"},
    "network": {"ssid": "hall", "key": "salt-and-sea"},
}


class Reader:
    """The page's commands, heading by heading, run where its files are."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        text = PAGE.read_text("utf-8")
        parts = re.split(r"^## (\d+)\. .*$", text, flags=re.MULTILINE)[1:]
        self.steps = {int(number): body for number, body in zip(parts[::2], parts[1::2], strict=True)}
        self.left = [(number, line) for number, body in self.steps.items() for line in self._commands(body)]
        blocks = [block for number in (2, 3) for block in fences(self.steps[number])]
        build, settings, orders = (
            next(one for one in blocks if one.startswith(start)) for start in ("[[item]]", "{", "order,type")
        )
        for name, content in {"build.toml": build, "hall-1.json": settings, "orders.csv": orders}.items():
            (folder / name).write_text(content)
        for name, data in FILES.items():
            (folder / name).write_bytes(data)

    async def step(self, number: int, *, code: int = 0, until: str | None = None) -> list[str]:
        """Run every command of that heading, in order; what each has written. Nothing before it may be left.

        `until`: a command's word after which the device acts.
        """
        said = []
        while self.left and self.left[0][0] <= number:
            at, line = self.left.pop(0)
            assert at == number, f"{line} was not run"
            words = shlex.split(line)[1:]
            said.append(await self.run(*words, code=code))
            if until in words:
                break
        assert said, f"no command in step {number}"
        return said

    async def run(self, *words: str, code: int = 0) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["--config", str(self.site.config), *words])
        assert done.exit_code == code, (words, done.output)
        return done.stdout

    async def unit(self, serial: str) -> dict:
        return json.loads(await self.run("equipment", "show", serial, "--json"))

    @staticmethod
    def _commands(body: str) -> list[str]:
        return [line for block in fences(body) for line in block.splitlines() if line.startswith("firstlight ")]


def fences(body: str) -> list[str]:
    """What stands in its blocks of code."""
    return re.findall(r"^```\w*\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def warehouse_site(folder: Path, broker: str):
    """A service with a third, the warehouse's, broker; nothing of the page in its database."""
    site = Site(folder, broker, warehouse=True)
    try:
        await site.make(with_release_key=False)  # the page makes the first one
        if broker == "mosquitto":
            for role in Role:
                await site.start_broker(role)
        async with site.serving_here():
            yield site
    finally:
        await site.close()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The page names its files without a folder."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def ca_of(site: Site) -> ssl.SSLContext:
    """What the factory burns in to know the brokers by."""
    return ssl.create_default_context(cafile=str(site.settings.ca_dir(ENVIRONMENT) / "ca.pem"))


def burned(secret: bytes, serial: str) -> bytes:
    """What the factory puts into a unit of a derived group."""
    return hmac.new(secret, serial.encode(), hashlib.sha256).digest()


@pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("mosquitto", marks=[pytest.mark.mosquitto, pytest.mark.long])]
)
async def test_the_page_leads_from_a_device_type_to_tablets_in_the_hall(tmp_path, here, broker):
    async with warehouse_site(tmp_path / "site", broker) as site:
        page = Reader(site, here)
        call = asyncio.to_thread
        # 1 to 3. What is made before any device is started.
        said = await page.step(1)
        secret = base64.b64decode(re.search(r"group secret \(shown this once\): (\S+)", said[1])[1])
        built = await page.step(2)
        assert "6 items" in built[0]
        assert await page.step(3)
        # 4. Received and handed over.
        said = await page.step(4)
        assert "3 changed" in said[2]
        assert "handed_over" in said[3]
        release_key = releases.read_public_key(here / "release.key.pub").public_key
        tls = ca_of(site) if broker == "mosquitto" else None
        wired, wired_too, wireless = (
            Tablet("tablets", serial, burned(secret, serial), release_key, wired=serial != "T-0003", tls=tls)
            for serial in ("T-0001", "T-0002", "T-0003")
        )
        door, elsewhere = ("localhost", site.ports["warehouse"]), ("localhost", site.ports["bootstrap"])
        # 5. The one-time initial call, there and nowhere else.
        with pytest.raises(RefusedError, match="NOT_IN_WAREHOUSE"):
            await call(wired.stage, *elsewhere)
        for tablet in (wired, wired_too, wireless):
            await call(tablet.stage, *door)
        assert [one["name"] for one in wired.manifest["items"]] == [
            "runtime", "payment-ca", "point-of-sale", "menu", "licence", "keystore",
        ]  # fmt: skip
        # The keystore is sealed for each of them: to another one it is no image at all.
        sealed_for = [tablet.manifest["items"][-1]["sealed"] for tablet in (wired, wired_too, wireless)]
        assert len(set(sealed_for)) == 3
        with pytest.raises(RefusedError, match="IMAGE_UNKNOWN"):
            await call(wireless.fetch_image_of, wired.manifest["items"][-1])
        (listed,) = await page.step(5)
        assert listed.count("staged") == 3
        # 6. Items, one of which fails on one tablet.
        assert await call(wired.install_all) == [one["name"] for one in wired.manifest["items"]]
        assert sorted(data for _, data in wired.flash.values()) == sorted(FILES.values())
        await call(wireless.install_all)
        assert await call(wired_too.install_all, ["menu"]) == ["runtime", "payment-ca", "point-of-sale"]
        with pytest.raises(RefusedError, match="ALREADY_STAGED"):
            await call(wired.stage, *door)
        (watched,) = await page.step(6, code=1)
        assert "T-0002 failed: menu 12 (flash_worn)" in watched
        assert "2 of 3 out of box" in watched
        # 7. The failed one is on the list, and calls once more.
        failed, restaged = await page.step(7)
        assert "flash_worn" in failed
        assert "1 changed" in restaged
        await call(wired_too.stage, *door)
        assert len(await call(wired_too.install_all)) == 6
        assert json.loads(await page.run("warehouse", "failures", "SO-1001", "--json")) == []
        # 8. Shipped.
        assert "3 changed" in (await page.step(8))[0]
        # 9. At the customer's: a wire first or the network first.
        assert (wired.settings, wireless.settings) == ({}, {"network": SETTINGS["network"]})
        for tablet in (wired, wired_too, wireless):
            await call(tablet.first_boot)
            assert (tablet.settings, tablet.memory["settings_rev"]) == (SETTINGS, 1)
        shown, sites = await page.step(9)
        assert "at_site" in shown
        assert "3 at_site" in sites
        been = [one["step"] for one in (await page.unit("T-0002"))["been"]]
        assert been == ["received", "handed_over", "staged", "restaged", "staged", "out_of_box", "shipped", "at_site"]
        # 10. Settings change; one tablet is cut off by them.
        await page.step(10)
        changed = {**SETTINGS, "features": {"kiosk": True}, "payment": {"terminal": "T-78"}}
        for tablet in (wired, wireless):
            assert await call(tablet.pushed_rev) == 2
            assert await call(tablet.handshake)
            assert tablet.settings == changed
        await call(wired_too.handshake, False)
        assert wired_too.settings == SETTINGS
        unit = await page.unit("T-0002")
        assert (unit["settings_rev"], unit["settings_state"], unit["settings_cause"]) == (2, "failed", "cut_off")
        assert "cut_off" in await page.run("warehouse", "failures", "SO-1001")
        # 11. One comes back, and has a second life at another site.
        await page.step(11, until="restage")
        await call(wired_too.link.close)
        erased = Tablet("tablets", "T-0002", burned(secret, "T-0002"), release_key, tls=tls)
        await call(erased.stage, *door)
        assert len(await call(erased.install_all)) == 6
        assert "1 changed" in (await page.step(11))[0]
        await call(erased.first_boot)
        assert erased.settings == {"payment": {"terminal": "T-90"}}
        been = [(one["step"], one["site"]) for one in (await page.unit("T-0002"))["been"]]
        assert been[-7:] == [
            ("received", "hall-1"), ("handed_over", "hall-2"), ("restaged", "hall-2"), ("staged", "hall-2"),
            ("out_of_box", "hall-2"), ("shipped", "hall-2"), ("at_site", "hall-2"),
        ]  # fmt: skip
        # 12. Its order is done, and another one is not wanted.
        *_, orders = await page.step(12)
        states = dict(re.findall(r"(SO-\d+)\W+hall-\d\W+(\w+)", orders))
        assert states == {"SO-1001": "open", "SO-1002": "closed", "SO-1003": "cancelled"}
        assert "1 refused" in await page.run("order", "close", "SO-1001", code=1)
        assert page.left == []
        for tablet in (wired, erased, wireless):
            await call(tablet.link.close)
        nothing_tells_a_secret(site, secret)


def nothing_tells_a_secret(site: Site, group_secret: bytes) -> None:
    """The licence, the keystore, the group's secret and the hall's network key stand in no file of the service."""
    for path in site.settings.data_dir.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for one in (FILES["licence.key"], FILES["keystore.p12"][:64], group_secret, b"salt-and-sea"):
                assert one not in data, path
