"""Enrolment with a provider that speaks JSON: from the dispatch of an order to what the provider answered."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from service.errors import ServiceError
from service.operations import audits, configuration
from service.operations.enrolment import dispatch, providers, reconcile, requesting, transformation, wishes
from service.storage.enrolment_tables import enrolment_device, enrolment_state, enrolment_transaction
from service.storage.warehouse_tables import sales_order
from tests.support.commands import rows_of
from tests.support.enrolment import ENROLLED, FAILED, PENDING, SENT, EnrolmentSite, enrolment_site
from tests.support.storage import GROUP
from tests.support.warehouse import Warehouse


@pytest.fixture
async def site(database, commands, tmp_path, clock) -> EnrolmentSite:
    return await enrolment_site(database, commands, tmp_path / "enrolment", clock)


def wish(site: EnrolmentSite) -> dict[str, object]:
    return {"by": "local", "now": site.clock()}


async def cause(action) -> str:
    with pytest.raises(ServiceError) as refused:
        await action
    return refused.value.cause


async def test_a_dispatched_order_is_enrolled_step_by_step(site: EnrolmentSite) -> None:
    taken = await site.dispatch("T-1", "T-2", permissions=["lock"])
    assert (taken.bound, taken.enrolment.value) == (2, PENDING)
    assert await site.states() == {"": PENDING, "T-1": PENDING, "T-2": PENDING}
    assert await site.run("enrolment-request") == {"OR": 1, "batches": 1}
    assert await site.states() == {"": SENT, "T-1": SENT, "T-2": SENT}
    assert await site.run("extract") == {"files": 1}
    assert len(site.files("outbox/dep")) == 1
    assert await site.run("transformation") == {"files_done": 1}
    assert site.provider.orders == {"SO-1": {"T-1", "T-2"}}
    assert site.provider.tokens == {b"provider token"}
    (_, asked) = site.provider.asked[0]
    assert asked["orders"][0]["policies"] == {"permissions": ["lock"]}
    assert await site.run("transformation") == {}  # not yet asked what became of it
    site.clock.now += timedelta(minutes=5)
    assert await site.run("transformation") == {"answered": 1}
    assert await site.run("load") == {"done": 1}
    assert await site.run("enrolment-response") == {"complete": 1}
    assert await site.states() == {"": ENROLLED, "T-1": ENROLLED, "T-2": ENROLLED}
    assert await site.events() == []  # on success only where that is configured
    site.clock.now += timedelta(hours=1)
    await site.round()
    assert len(site.provider.asked) == 2  # nothing more is wanted


async def run_through(site: EnrolmentSite) -> None:
    await site.round()
    site.clock.now += timedelta(minutes=5)
    await site.run("transformation", "load", "enrolment-response")


async def test_more_units_a_return_and_the_end_of_an_order(site: EnrolmentSite, commands) -> None:
    await site.dispatch("T-1", "T-2")
    await run_through(site)
    await site.dispatch("T-3")
    await run_through(site)
    assert site.provider.orders == {"SO-1": {"T-1", "T-2", "T-3"}}
    assert site.provider.asked[-2][1]["orders"][0]["orderType"] == "OV"
    await wishes.give_back(site.database, "SO-1", ["T-1"], **wish(site))
    await run_through(site)
    assert site.provider.asked[-2][1]["orders"][0]["orderType"] == "RE"
    assert await site.states() == {"": ENROLLED, "T-1": "unenrolled", "T-2": ENROLLED, "T-3": ENROLLED}
    assert await Warehouse(commands).results("release-units", order="SO-1", units=["line-2/T-2"]) == ["changed"]
    await run_through(site)  # a unit that an operator releases leaves the provider's order too
    assert site.provider.orders == {"SO-1": {"T-3"}}
    await wishes.void(site.database, "SO-1", **wish(site))
    await run_through(site)
    assert site.provider.orders == {}
    assert await site.states() == dict.fromkeys(("", "T-1", "T-2", "T-3"), "unenrolled")
    await site.dispatch("T-1")  # and the same order begins anew
    await run_through(site)
    assert site.provider.orders == {"SO-1": {"T-1"}}


async def test_what_failed_says_why_in_the_notes_and_is_tried_again_when_told_to(site: EnrolmentSite) -> None:
    site.provider.unknown = {"T-2"}
    await site.dispatch("T-1", "T-2")
    await run_through(site)
    assert await site.states() == {"": FAILED, "T-1": ENROLLED, "T-2": FAILED}
    ((kind, order, notes),) = await site.events()
    assert (kind, order) == ("enrolment_failed", "SO-1")
    assert notes == "OR COMPLETE_WITH_ERRORS\nline-2/T-2: T-2 is not ours"
    by_serial = {
        row["serial"]: (row["outcome"], row["message"]) for row in await rows_of(site.database, enrolment_device)
    }
    assert by_serial == {"T-1": ("done", None), "T-2": ("failed", "T-2 is not ours")}
    await run_through(site)
    assert len(site.provider.transactions) == 1  # an operator's turn
    site.provider.unknown = set()
    await wishes.retry(site.database, "SO-1", **wish(site))
    await run_through(site)
    assert await site.states() == {"": ENROLLED, "T-1": ENROLLED, "T-2": ENROLLED}
    assert await cause(wishes.retry(site.database, "SO-1", **wish(site))) == "enrolment_state"


@pytest.mark.parametrize("errors", [
    {"errorCode": "E-1", "errorMessage": "no such customer"},
    [{"errorCode": "E-1", "errorMessage": "no such customer"}],
])  # fmt: skip
async def test_a_batch_that_is_refused_fails_its_orders_with_the_provider_s_words(site: EnrolmentSite, errors) -> None:
    site.provider.refuse = errors
    await site.dispatch("T-1")
    await run_through(site)
    assert await site.states() == {"": FAILED, "T-1": FAILED}
    assert [notes for _, _, notes in await site.events()] == ["OR ERROR\nE-1: no such customer"]
    site.provider.refuse = None
    await wishes.retry(site.database, "SO-1", **wish(site))
    await run_through(site)
    assert site.provider.asked[-2][1]["orders"][0]["orderType"] == "OR"  # the provider never had it
    assert await site.states() == {"": ENROLLED, "T-1": ENROLLED}


async def test_success_makes_an_event_where_that_is_configured(site: EnrolmentSite) -> None:
    await configuration.put(site.database, "enrolment.events_on_success", "true", by="local", now=site.clock())
    await configuration.put(site.database, "enrolment.events_on_failure", "false", by="local", now=site.clock())
    site.working.config.update(await configuration.values(site.database))
    await site.dispatch("T-1")
    await run_through(site)
    assert await site.events() == [("enrolment_succeeded", "SO-1", "OR COMPLETE")]
    changes = [
        (one.account, one.before, one.after) for one in await audits.page(site.database) if one.verb == "config-set"
    ]
    assert changes == [
        ("local", None, {"name": "enrolment.events_on_success", "value": "true"}),
        ("local", None, {"name": "enrolment.events_on_failure", "value": "false"}),
    ]


async def test_a_transaction_that_is_still_in_progress_is_asked_about_until_it_is_not(site: EnrolmentSite) -> None:
    site.provider.in_progress = 2
    await site.dispatch("T-1")
    await site.round()
    for _ in range(2):
        site.clock.now += timedelta(minutes=5)
        assert await site.run("transformation") == {"in_progress": 1}
        assert await site.run("transformation") == {}
    assert (await site.states())[""] == SENT
    site.clock.now += timedelta(minutes=5)
    assert await site.run("transformation") == {"answered": 1}


async def test_a_provider_that_cannot_be_reached_is_tried_again_and_then_given_up(site: EnrolmentSite) -> None:
    site.working.config["enrolment.max_attempts"] = 3
    site.provider.down = True
    await site.dispatch("T-1")
    await site.run("enrolment-request", "extract")
    assert await site.run("transformation") == {"files_later": 1}
    assert await site.run("transformation") == {"files_later": 1}
    assert len(site.provider.asked) == 1  # later, not at once
    for _ in range(2):
        site.clock.now += timedelta(hours=2)
        await site.run("transformation")
    await site.run("load", "enrolment-response")
    assert await site.states() == {"": FAILED, "T-1": FAILED}
    assert "could not be reached: no answer within 30 s" in (await site.events())[0][2]
    site.provider.down = False
    await wishes.retry(site.database, "SO-1", **wish(site))
    await run_through(site)
    assert (await site.states())[""] == ENROLLED


async def test_a_posted_answer_is_taken_once_and_from_its_provider_only(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await site.round()
    dep = await providers.get(site.database, "dep")
    await providers.create(
        site.database, "other", providers.Adaptor.DEP, url="https://other.example", account="x", **wish(site)
    )
    other = await providers.get(site.database, "other")
    posted = json.dumps(site.provider.result("ref-1")).encode()
    assert await cause(transformation.inbound(site.working, other, posted)) == "transaction_unknown"
    still = json.dumps({**site.provider.result("ref-1"), "statusCode": "IN_PROGRESS"}).encode()
    assert await transformation.inbound(site.working, dep, still) == "in_progress"
    foreign = json.dumps({**site.provider.result("ref-1"), "orders": [{"orderNumber": "SO-7"}]}).encode()
    assert await cause(transformation.inbound(site.working, dep, foreign)) == "order_foreign"
    assert await transformation.inbound(site.working, dep, posted) == "taken"
    assert await transformation.inbound(site.working, dep, posted) == "repeated"
    await site.run("load", "enrolment-response")
    assert (await site.states())[""] == ENROLLED


async def test_one_open_transaction_for_an_order(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await site.run("enrolment-request")
    await site.dispatch("T-2")
    assert await site.run("enrolment-request") == {}
    assert await site.states() == {"": SENT, "T-1": SENT, "T-2": PENDING}
    assert await cause(wishes.give_back(site.database, "SO-1", ["T-1"], **wish(site))) == "enrolment_state"
    await run_through(site)
    await run_through(site)
    types = [row["request_type"] for row in await rows_of(site.database, enrolment_transaction)]
    assert types == ["OR", "OV"]
    assert (await site.states())["T-2"] == ENROLLED


async def test_two_units_of_one_order_with_one_serial_number_are_not_asked_for(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    async with site.database.write() as transaction:  # as no dispatch leaves it
        row = {"group_id": GROUP.group_id, "serial": "T-1", "state": PENDING, "provider_id": "dep",
               "organisation": "venue-9", "order_id": "SO-1", "changed_at": 0}  # fmt: skip
        await transaction.connection.execute(insert(enrolment_state), [row])
    assert await site.run("enrolment-request") == {"ambiguous": 1}
    assert (await site.states())[""] == PENDING


async def test_a_disabled_provider_is_asked_nothing(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await providers.set_enabled(site.database, "dep", enabled=False, **wish(site))
    assert await site.run("enrolment-request") == {"waiting": 1}
    await providers.set_enabled(site.database, "dep", enabled=True, **wish(site))
    await run_through(site)
    assert (await site.states())[""] == ENROLLED


async def test_orders_of_a_disabled_provider_take_nobody_s_place(site: EnrolmentSite, commands, monkeypatch) -> None:
    monkeypatch.setattr(requesting, "SWEPT", 1)
    await Warehouse(commands).furnish(order="SO-2")
    await providers.create(
        site.database, "other", providers.Adaptor.DEP, url="https://other.example", account="x", **wish(site)
    )
    await site.dispatch("T-1", provider="other")
    await providers.set_enabled(site.database, "other", enabled=False, **wish(site))
    await site.dispatch("T-2", order="SO-2")
    assert await site.run("enrolment-request") == {"waiting": 1, "OR": 1, "batches": 1}
    assert ((await site.states())[""], (await site.states("SO-2"))[""]) == (PENDING, SENT)
    assert await site.run("enrolment-request") == {"waiting": 1}


async def test_reconcile_shows_what_differs_and_changes_nothing(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", "T-2", "T-3")
    await run_through(site)
    found = await reconcile.compare(site.working, "SO-1")
    assert found.same
    assert found.agreed == ("T-1", "T-2", "T-3")
    site.provider.orders["SO-1"] = {"T-1", "T-9"}
    found = await reconcile.compare(site.working, "SO-1")
    assert (found.agreed, found.only_here, found.only_there) == (("T-1",), ("T-2", "T-3"), ("T-9",))
    assert not found.same
    # What an override would do with that, before anybody asks for one.
    override = await reconcile.preview_override(site.working, "SO-1")
    assert (override.keeps, override.adds, override.removes) == (("T-1",), ("T-2", "T-3"), ("T-9",))
    assert (await site.states())[""] == ENROLLED
    await wishes.override(site.database, "SO-1", **wish(site))
    await run_through(site)
    assert site.provider.orders["SO-1"] == {"T-1", "T-2", "T-3"}
    site.provider.down = True
    assert await cause(reconcile.compare(site.working, "SO-1")) == "provider_unreachable"


async def test_a_dispatch_that_comes_again_changes_nothing(site: EnrolmentSite) -> None:
    first = await site.dispatch("T-1", encryption=True)
    again = await site.dispatch("T-1", encryption=True)
    assert (first.bound, again.bound, again.already) == (1, 0, 1)
    await run_through(site)
    await site.dispatch("T-1", encryption=True)
    assert (await site.states())[""] == ENROLLED
    await site.dispatch("T-1", encryption=False)  # other policies: the provider's order is written anew
    assert (await site.states())[""] == PENDING
    await run_through(site)
    assert site.provider.asked[-2][1]["orders"][0]["policies"] == {"encryption": False}


async def test_a_dispatch_without_a_wish_binds_only(site: EnrolmentSite) -> None:
    await site.dispatch("T-1", provider=None)
    assert await site.states() == {"": "none"}
    assert await site.run("enrolment-request") == {}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"orderId": "SO-9"}, "order_unknown"),
        ({"orderId": "SO-1", "lines": [{"line": 2, "serials": ["T-1"]}]}, "line_unknown"),
        ({"orderId": "SO-1", "lines": [{"line": 1, "serials": ["T-1", "T-1"]}]}, "serial_twice"),
        ({"orderId": "SO-1", "enrolment": {"providerId": "nobody", "organisation": "x"}}, "provider_unknown"),
    ],
)
async def test_a_dispatch_that_does_not_fit_changes_nothing(site: EnrolmentSite, document, why: str) -> None:
    document.setdefault("lines", [{"line": 1, "serials": ["T-1"]}])
    (one,) = dispatch.read(json.dumps(document).encode())
    assert await cause(dispatch.take(site.database, one, **wish(site))) == why
    async with site.database.read() as connection:
        found = (await connection.execute(select(sales_order.c.state, sales_order.c.enrol))).one()
    assert tuple(found) == ("open", False)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"orderId": 5}', b'{"orderId": "x", "more": 1}'])
def test_what_is_no_dispatch_is_refused(data: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        dispatch.read(data)
    assert refused.value.cause == "dispatch_illegal"


async def test_a_unit_belongs_to_one_order(site: EnrolmentSite, commands) -> None:
    await Warehouse(commands).furnish(order="SO-2")
    await site.dispatch("T-1")
    document = {"orderId": "SO-2", "lines": [{"line": 1, "serials": ["T-1"]}]}
    (one,) = dispatch.read(json.dumps(document).encode())
    assert await cause(dispatch.take(site.database, one, **wish(site))) == "unit_bound"
    await run_through(site)
    await wishes.give_back(site.database, "SO-1", ["T-1"], **wish(site))
    assert await cause(dispatch.take(site.database, one, **wish(site))) == "unit_enrolled"
    await run_through(site)
    assert (await dispatch.take(site.database, one, **wish(site))).bound == 1


async def test_policies_that_are_secrets_are_sealed_and_go_to_the_provider_only(site: EnrolmentSite) -> None:
    await site.dispatch(
        "T-1", permissions=["lock"], passwords={"admin": "open sesame"}, encryption={"pin": "4711 4712"}
    )
    (row,) = await rows_of(site.database, sales_order)
    assert json.loads(row["policies"]) == {"permissions": ["lock"]}
    await run_through(site)
    assert site.provider.asked[0][1]["orders"][0]["policies"]["passwords"] == {"admin": "open sesame"}
    raw = b"".join(one.read_bytes() for one in site.database.path.parent.rglob("*") if one.is_file())
    for secret in (b"open sesame", b"4711 4712", b"provider token"):
        assert secret not in raw


async def test_a_token_is_one_provider_s_and_lasts_until_the_next(site: EnrolmentSite) -> None:
    token = await providers.rotate_token(site.database, "dep", by="local", random_bytes=os.urandom)
    text = token.reveal().decode()
    assert (await providers.of_token(site.database, text)).provider_id == "dep"
    await providers.rotate_token(site.database, "dep", by="local", random_bytes=os.urandom)
    assert await cause(providers.of_token(site.database, text)) == "provider_token_wrong"
    assert await cause(providers.of_token(site.database, "")) == "provider_token_wrong"


@pytest.mark.parametrize(
    "url", ["http://provider.example/x", "ftp://x", "https://u:p@x", "https://", "https://x y", "x"]
)
async def test_a_provider_is_reached_over_https_only(site: EnrolmentSite, url: str) -> None:
    made = providers.create(site.database, "new", providers.Adaptor.DEP, url=url, account="x", **wish(site))
    assert await cause(made) == "url_illegal"
