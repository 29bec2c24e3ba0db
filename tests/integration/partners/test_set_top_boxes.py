"""docs/partners/set-top-boxes.md, step by step: from the factory's list to a box that signs in and an entitlement."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.mqtt.port import Role
from tests.support.access_provider import access_provider
from tests.support.installation import free_ports
from tests.support.plain_box import PlainBox
from tests.support.plain_client import RefusedError
from tests.support.site import ENVIRONMENT, OU, PRODUCT_ID, Site, made_site

EMAIL, SERIAL, GROUP = "stb_user@example.com", "DNA-STB0001", "boxes"
PASSWORD = "its-password-at-the-provider"


@pytest.mark.mosquitto
async def test_a_box_is_made_sold_signs_in_and_is_entitled(tmp_path: Path) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(8)]
    async with made_site(tmp_path / "site", "mosquitto", certificates=True) as site:
        (port,) = free_ports(1)
        with site.config.open("a", encoding="utf-8") as file:
            file.write(f"[web]\nport = {port}\n")
        for role in (Role.BOOTSTRAP, Role.OPERATIONAL):
            await site.start_broker(role)
        await site.start_service(level="debug")
        with access_provider() as provider:
            token = await procedure(site, f"http://127.0.0.1:{port}", provider.url, keys)
            assert [package for _, package in provider.granted.values()] == ["CINEMA-1", "DVB-1", "CINEMA-1"]
        assert await site.stop_service() == 0
        said = site.log()
    assert "link_user" in said
    for secret in (token, PASSWORD, base64.b64encode(f"us:{PASSWORD}".encode()).decode(), EMAIL):
        assert secret not in said


async def procedure(site: Site, url: str, provider_url: str, keys: list[Ed25519PrivateKey]) -> str:
    """The service's token."""
    texts = [base64.b64encode(public(one)).decode() for one in keys]
    # 1. Once: a group for the boxes, the service, and from where it asks.
    place = ("--ou", OU, "--environment", ENVIRONMENT)
    await site.command("group", "create", GROUP, "--product", PRODUCT_ID, "--key-kind", "public_key", *place)
    made = await site.command("partner", "service", "create", "tv", "--group", GROUP, "--json")
    await site.command("partner", "service", "allow-ip", "tv", "127.0.0.1")
    token = json.loads(await site.command("partner", "service", "rotate", "tv", "--json"))["token"]
    first = json.loads(made)["token"]
    old = httpx.post(f"{url}/api/management/user", headers={"Service-Token": first}, trust_env=False)
    assert (old.status_code, old.content) == (401, b"")
    # 2. At manufacture: the factory's list, here with the first key only.
    listed = site.folder / "boxes.csv"
    listed.write_text(f"serial_no,public_keys\n{SERIAL},{texts[0]}\n", encoding="utf-8")
    assert "imported" in await site.command("stb", "import", str(listed), "--service", "tv")
    async with httpx.AsyncClient(base_url=url, headers={"Service-Token": token}, trust_env=False) as client:
        # 3. The user: by hand, or by the business system, which finds one that is there.
        by_hand = json.loads(await site.command("partner", "user", "add", "tv", EMAIL, "--json"))
        user = await client.post("/api/management/user", data={"email": EMAIL})
        assert user.json() == {"id": str(by_hand["user_id"]), "email": EMAIL}
        # 4. The sale.
        sale = {"serial_no": SERIAL, "email": EMAIL, "public_keys": ";".join(texts), "mac": "00:11:22:33:44:55"}
        sold = await client.post("/api/management/stb/link_user", data=sale)
        assert sold.status_code == 200, sold.text
        assert sold.json()["user"] == user.json()
        again = await client.post("/api/management/stb/link_user", data=sale)
        assert (again.status_code, again.json()["error"]["code"]) == (400, 1433)
        # 5. Sign-in: the box proves its sixth key in an ordinary activation.
        await signs_in(site, keys[5], 5)
        # 6. The purchase.
        await site.command(
            "partner", "provider", "set", "ca", "--url", provider_url, "--account", "us", "--secret", PASSWORD
        )
        offer = ("tv", "cinema", "monthly", "--provider", "ca", "--package", "CINEMA-1")
        await site.command("partner", "offer", "set", *offer)
        path = f"/api/user/{EMAIL}/product/cinema/buy/option/monthly"
        bought = [(await client.get(path)).json() for _ in range(2)]
        assert bought[0] == bought[1]
        assert bought[0]["reference"].startswith("ref-")
        # ... and a DVB package by the same call, from its own provider.
        await site.command("partner", "provider", "set", "dvb", "--url", provider_url, "--kind", "dvb")
        await site.command("partner", "offer", "set", "tv", "basic", "dvb", "--provider", "dvb", "--package", "DVB-1")
        assert (await client.get(f"/api/user/{EMAIL}/product/basic/buy/option/dvb")).status_code == 200
        # A subscription that has ended is bought again, under a new number.
        sales = json.loads(await site.command("partner", "purchase", "list", "tv", "--email", EMAIL, "--json"))
        assert [one["package"] for one in sales] == ["CINEMA-1", "DVB-1"]
        await site.command("partner", "purchase", "end", "tv", bought[0]["id"])
        assert (await client.get(path)).json()["id"] not in [one["purchase_id"] for one in sales]
        # A box that came back is sold again.
        await site.command("stb", "unlink", SERIAL, "--service", "tv")
        assert (await client.post("/api/management/stb/link_user", data=sale)).status_code == 200
    return token


async def signs_in(site: Site, key: Ed25519PrivateKey, index: int) -> None:
    served = json.loads(await site.command("keys", "public", "--json"))["service_public_key"]
    end = site.settings.environments[ENVIRONMENT].endpoints.bootstrap
    trusting = ssl.create_default_context(cafile=str(site.settings.ca_dir(ENVIRONMENT) / "ca.pem"))

    def a_box(signer: Ed25519PrivateKey) -> PlainBox:
        return PlainBox(GROUP, SERIAL, signer, index, base64.b64decode(served), tls=trusting)

    with pytest.raises(RefusedError, match="REFUSED"):  # a key of nobody's
        await asyncio.to_thread(a_box(Ed25519PrivateKey.generate()).activate, end.host, end.port)
    box = a_box(key)
    await asyncio.to_thread(box.activate, end.host, end.port)
    await asyncio.to_thread(box.connect)
    online = await asyncio.to_thread(box.online)
    await asyncio.to_thread(box.link.close)
    assert (online["ou"], online["environment"]) == (OU, ENVIRONMENT)
    shown = json.loads(await site.command("device", "show", f"{GROUP}/{SERIAL}", "--json"))
    assert shown["state"] == "confirmed"


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
