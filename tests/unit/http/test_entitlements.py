"""What a user buys is granted once by a SOAP service that fails, hangs and repeats; 200 only when it was granted."""

from __future__ import annotations

import asyncio
import base64
import logging
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from service.errors import Secret, ServiceError
from service.operations.partners import offers, purchases, services
from service.operations.partners.offers import ProviderKind
from service.storage.box_tables import purchase
from tests.support.access_provider import access_provider
from tests.support.partner_site import EMAIL, NAME, partner_site

BUY = f"/api/user/{EMAIL}/product/hbo/buy/option/monthly"


@pytest.fixture
def provider():
    with access_provider() as made:
        yield made


@pytest.fixture
async def site(tmp_path, provider):
    async with partner_site(tmp_path) as made:
        kinds = {"ca": ProviderKind.CONDITIONAL_ACCESS, "dvb": ProviderKind.DVB}
        for name, kind in kinds.items():
            secret = Secret(b"its-password")
            await offers.set_provider(
                made.database, name, kind=kind, url=provider.url, account="us", secret=secret, timeout_s=1
            )
        await offers.set_offer(made.database, NAME, "hbo", "monthly", provider="ca", package="HBO-1")
        await offers.set_offer(made.database, NAME, "basic", "dvb", provider="dvb", package="DVB-BASIC")
        yield made


async def buy(site, path=BUY):
    return await site.client.get(path, headers={"Service-Token": site.token})


async def states(site):
    async with site.database.read() as connection:
        return list((await connection.execute(select(purchase.c.state).order_by(purchase.c.created_at))).scalars())


async def lapse(site):
    """The lease of a try that nobody ended runs out."""
    async with site.database.write() as transaction:
        await transaction.connection.execute(update(purchase).values(lease_expires_at=1))


async def test_what_the_provider_granted_is_bought_and_bought_once(site, provider):
    first = await buy(site)
    assert first.status_code == 200
    (order,) = provider.granted
    assert first.json() == {"id": order, "product_id": "hbo", "option_id": "monthly", "reference": f"ref-{order}"}
    assert provider.granted[order] == ("1", "HBO-1")
    assert provider.authorization[0].startswith("Basic ")
    assert (await buy(site)).json() == first.json()
    assert provider.asked == ["GrantEntitlement"]  # the second try asked nobody


async def test_a_dvb_package_goes_by_the_same_call_to_its_own_provider(site, provider):
    path = f"/api/user/{EMAIL}/product/basic/buy/option/dvb"
    answer = await site.client.get(path, params={"service_token": site.token})
    assert answer.status_code == 200
    assert [package for _, package in provider.granted.values()] == ["DVB-BASIC"]


@pytest.mark.parametrize(
    ("mode", "status", "code", "state"),
    [
        ("refuses", 502, 9502, "refused"),
        ("fails", 502, 9503, "unknown"),
        ("garbled", 502, 9503, "unknown"),
        ("redirects", 502, 9503, "unknown"),
        ("hangs", 504, 9504, "unknown"),
    ],
)
async def test_a_provider_that_does_not_grant_is_told_as_such_and_a_retry_buys(
    site, provider, mode, status, code, state
):
    provider.mode = mode
    answer = await buy(site)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await states(site) == [state]
    provider.mode = "works"
    assert (await buy(site)).status_code == 200
    assert provider.grants == 1
    assert (await states(site))[-1] == "bought"


@pytest.mark.parametrize("mode", ["grants_and_hangs", "grants_and_breaks"])
async def test_a_grant_whose_answer_was_lost_is_found_and_not_asked_for_again(site, provider, mode):
    provider.mode = mode
    assert (await buy(site)).status_code in (502, 504)
    provider.mode = "refuses"  # whoever asked again would be refused
    answer = await buy(site)
    assert answer.status_code == 200
    assert provider.asked[-1] == "GetEntitlement"
    assert provider.grants == 1


async def test_a_service_that_died_while_asking_buys_nothing_twice(site, provider):
    provider.mode = "grants_and_hangs"
    task = asyncio.create_task(buy(site))
    async with asyncio.timeout(10):
        while provider.grants == 0:
            await asyncio.sleep(0.005)
    meanwhile = await buy(site)
    assert (meanwhile.status_code, meanwhile.json()["error"]["code"]) == (409, 9409)
    assert (await task).status_code == 504
    async with site.database.write() as transaction:  # as if it had been killed before it could say so
        await transaction.connection.execute(update(purchase).values(state="asking", lease_expires_at=1))
    provider.mode = "works"
    assert (await buy(site)).status_code == 200
    assert provider.grants == 1


async def test_many_retries_at_once_buy_once(site, provider):
    answers = await asyncio.gather(*(buy(site) for _ in range(10)))
    assert {one.status_code for one in answers} <= {200, 409}
    assert (await buy(site)).status_code == 200
    assert provider.grants == 1
    async with site.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(purchase))).scalar() == 1


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/user/nobody@example.com/product/hbo/buy/option/monthly", 400, 1414),
        ("/api/user/nobody/product/hbo/buy/option/monthly", 400, 1436),
        (f"/api/user/{EMAIL}/product/hbo/buy/option/yearly", 404, 9404),
    ],
)
async def test_what_cannot_be_bought_has_its_code(site, provider, path, status, code):
    answer = await buy(site, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert provider.asked == []


async def test_what_is_offered_no_more_is_bought_no_more_and_stays_with_who_has_it(site, provider):
    assert (await buy(site)).status_code == 200
    await offers.remove_offer(site.database, NAME, "hbo", "monthly")
    assert (await buy(site)).status_code == 200
    await services.add_user(site.database, NAME, "other@example.com", now=datetime.now(UTC))
    answer = await buy(site, BUY.replace(EMAIL, "other@example.com"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 9404)
    assert provider.grants == 1


async def test_what_has_ended_is_bought_again_and_the_provider_asked_again(site, provider):
    first = (await buy(site)).json()
    await purchases.end(site.database, NAME, first["id"], now=datetime.now(UTC))
    (before,) = await purchases.list_page(site.database, NAME)
    await purchases.end(site.database, NAME, first["id"], now=datetime.now(UTC) + timedelta(days=1))  # changes nothing
    assert await purchases.list_page(site.database, NAME) == [before]
    again = (await buy(site)).json()
    assert again["id"] != first["id"]
    assert (await buy(site)).json() == again
    assert provider.grants == 2
    assert provider.asked == ["GrantEntitlement"] * 2
    shown = await purchases.list_page(site.database, NAME, email=EMAIL.upper())
    assert [(one.purchase_id, one.state, one.reference) for one in shown] == [
        (first["id"], "ended", first["reference"]),
        (again["id"], "bought", again["reference"]),
    ]
    assert await purchases.list_page(site.database, NAME, after=first["id"]) == shown[1:]
    assert await purchases.list_page(site.database, NAME, email="other@example.com") == []


async def test_only_what_may_be_live_can_end(site, provider):
    async def refused(purchase_id, service=NAME):
        with pytest.raises(ServiceError) as error:
            await purchases.end(site.database, service, purchase_id, now=datetime.now(UTC))
        return error.value.cause

    provider.mode = "refuses"
    await buy(site)
    provider.mode = "fails"
    await buy(site)
    async with site.database.write() as transaction:  # as if somebody were still being asked
        lease = int(datetime.now(UTC).timestamp() + 60) * 1000
        await transaction.connection.execute(update(purchase).values(lease_expires_at=lease))
    no, running = await purchases.list_page(site.database, NAME)
    assert [await refused(one.purchase_id) for one in (no, running)] == ["purchase_refused", "purchase_running"]
    await lapse(site)
    await services.create(site.database, "radio", "boxes", now=datetime.now(UTC), random_bytes=lambda n: b"r" * n)
    assert await refused(running.purchase_id, "radio") == await refused("nothing") == "purchase_unknown"
    await purchases.end(site.database, NAME, running.purchase_id, now=datetime.now(UTC))
    provider.mode = "works"
    assert (await buy(site)).json()["id"] not in (no.purchase_id, running.purchase_id)


async def test_a_purchase_needs_the_token(site, provider):
    assert (await site.client.get(BUY, headers={"Service-Token": "wrong"})).status_code == 401
    assert (await site.client.get(BUY)).json()["error"]["code"] == 1426
    assert provider.asked == []


@pytest.mark.parametrize("mode", ["refuses", "fails", "garbled", "redirects", "grants_and_breaks", "hangs"])
async def test_the_provider_s_password_and_the_token_are_in_no_log_and_no_answer(site, provider, mode, caplog):
    caplog.set_level(logging.DEBUG)
    provider.mode = mode
    answer = await buy(site)
    assert answer.status_code in (502, 504)
    assert provider.authorization[0] == f"Basic {base64.b64encode(b'us:its-password').decode()}"
    whole = logging.Formatter()
    said = answer.text + "".join(str(vars(one)) + whole.format(one) for one in caplog.records if not _of_test(one))
    assert "firstlight.web" in said
    for secret in ("its-password", provider.authorization[0][6:], site.token):
        assert secret not in said


def _of_test(record):
    """The test's own client, which logs what it sends."""
    return record.name.startswith(("httpx", "httpcore"))


async def test_the_provider_s_password_is_sealed(site):
    content = site.database.path.read_bytes() + site.database.path.with_name("firstlight.db-wal").read_bytes()
    assert b"its-password" not in content
