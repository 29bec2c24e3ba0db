"""`firstlight partner` from end to end: who grants what is bought, what can be bought, and what was."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import insert

from service.cli import group, partner, product
from service.credentials.keyfile import KeyFile
from service.storage.box_tables import partner_user, purchase
from service.storage.database import Database
from tests.support.command_line import CliRunner
from tests.unit.cli.test_nouns import installed  # noqa: F401 - a fixture

runner = CliRunner()
URL = "https://ca.example/soap"


@pytest.fixture
def run(installed):  # noqa: F811
    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    for name, noun in {"product": product.app, "group": group.app, "partner": partner.app}.items():
        app.add_typer(noun, name=name)

    def call(line, code=0, **environment):
        found = runner.invoke(app, line.split(" "), env=environment)
        assert found.exit_code == code, found.output
        return json.loads(found.stdout) if "--json" in line else found.output

    call("product create settop --name Settop --hardware rev-a")
    call("group create boxes --product settop --key-kind public_key --ou acme --environment local")
    call("partner service create tv --group boxes")
    return call


def providers(run):
    return {one.pop("name"): one for one in run("partner provider list --json")}


def test_a_provider_that_is_set_again_keeps_what_is_not_given(run):
    run(
        f"partner provider set ca --url {URL} --kind dvb --account us --timeout-s 5",
        FIRSTLIGHT_PROVIDER_SECRET="its-password",
    )
    whole = {"kind": "dvb", "url": URL, "account": "us", "has_password": True, "timeout_s": 5}
    assert providers(run) == {"ca": whole}
    run("partner provider set ca")
    assert providers(run) == {"ca": whole}
    run("partner provider set ca --url https://elsewhere.example/soap")
    run("partner provider set ca --timeout-s 7")
    assert providers(run) == {"ca": {**whole, "url": "https://elsewhere.example/soap", "timeout_s": 7}}
    run("partner provider set ca --account ")
    assert providers(run)["ca"] | {"account": None, "has_password": False} == providers(run)["ca"]
    assert "its-password" not in run("partner provider list") + json.dumps(providers(run))


def test_a_new_provider_needs_a_url_and_has_defaults(run):
    assert "give its URL" in run("partner provider set ca --kind dvb", code=1)
    run(f"partner provider set ca --url {URL}")
    assert providers(run) == {
        "ca": {"kind": "conditional_access", "url": URL, "account": None, "has_password": False, "timeout_s": 10}
    }
    for wrong in ("--url http://ca.example/soap", "--url https://us:word@ca.example/", "--timeout-s 61"):
        run(f"partner provider set ca {wrong}", code=1)


def test_offers_are_listed_and_removed(run):
    run(f"partner provider set ca --url {URL}")
    run("partner offer set tv cinema yearly --provider ca --package CINEMA-12")
    run("partner offer set tv cinema monthly --provider ca --package CINEMA-1")
    found = run("partner offer list tv --json")
    assert [(one["product_id"], one["option_id"], one["package"]) for one in found] == [
        ("cinema", "monthly", "CINEMA-1"),
        ("cinema", "yearly", "CINEMA-12"),
    ]
    assert "CINEMA-12" in run("partner offer list tv")
    run("partner offer remove tv cinema yearly")
    assert len(run("partner offer list tv --json")) == 1
    assert "no such product" in run("partner offer remove tv cinema yearly", code=1)
    run("partner offer list radio", code=1)


async def a_purchase(data):
    """One that is bought, as a running service would have left it."""
    keys = KeyFile.load(data / "keys.json")
    database = await Database.open(data / "firstlight.db", keys.sealer(), changed_by=None)
    async with database.write() as transaction:
        user = {"user_id": 1, "service": "tv", "email": "stb_user@example.com", "email_key": "stb_user@example.com"}
        await transaction.connection.execute(insert(partner_user), [user | {"created_at": 1}])
        sale = {"purchase_id": "p-1", "user_id": 1, "product_id": "cinema", "option_id": "monthly", "provider": "ca"}
        bought = {"package": "CINEMA-1", "state": "bought", "created_at": 1, "reference": "ref-1"}
        await transaction.connection.execute(insert(purchase), [sale | bought])
    await database.close()


def test_purchases_are_listed_and_ended(run, installed):  # noqa: F811
    asyncio.run(a_purchase(installed))
    (one,) = run("partner purchase list tv --json")
    assert (one["purchase_id"], one["email"], one["state"]) == ("p-1", "stb_user@example.com", "bought")
    assert run("partner purchase list tv --email other@example.com --json") == []
    run("partner purchase end tv p-2", code=1)
    run("partner purchase end tv p-1")
    (one,) = run("partner purchase list tv --json")
    assert one["state"] == "ended"
    assert one["ended_at"] is not None
    assert "ended" in run("partner purchase list tv")
