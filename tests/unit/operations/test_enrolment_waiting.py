"""Transactions whose answer does not come: tried again, overdue, given up, and then nobody waits for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.errors import ServiceError
from service.operations import audits, configuration
from service.operations.enrolment import adopting, looking, responding, wishes
from service.storage.enrolment_tables import enrolment_batch, enrolment_transaction
from tests.support.commands import rows_of
from tests.support.enrolment import (
    ENROLLED,
    FAILED,
    PENDING,
    SENT,
    EnrolmentSite,
    answer_by_file,
    enrolment_site,
    file_provider,
)
from tests.support.warehouse import Warehouse

PAGE = b"<html><h1>502 Bad Gateway</h1></html>"


@pytest.fixture
async def site(database, commands, tmp_path, clock) -> EnrolmentSite:
    return await enrolment_site(database, commands, tmp_path / "enrolment", clock)


async def page_of_a_proxy(url, body, secret) -> tuple[int, bytes]:
    return 200, PAGE


async def cause(action) -> str:
    with pytest.raises(ServiceError) as refused:
        await action
    return refused.value.cause


async def test_what_is_no_answer_is_none(site: EnrolmentSite) -> None:
    for answer in [(200, PAGE), (400, PAGE), (200, b"[]"), (200, b"{}")]:

        async def ask(url, body, secret, answer=answer) -> tuple[int, bytes]:
            return answer

        site.working = replace(site.working, ask=ask)
        if answer == (200, PAGE):
            await site.dispatch("T-1")
            await site.run("enrolment-request", "extract")
        site.clock.now += timedelta(hours=1)
        assert await site.run("transformation") == {"files_later": 1}, answer
        assert site.files("failed") == []
    (batch,) = await rows_of(site.database, enrolment_batch)
    assert (batch["state"], batch["attempts"]) == ("extracted", 4)
    assert batch["cause"].startswith("the provider")


async def test_without_an_answer_the_batch_is_refused_in_the_end(site: EnrolmentSite) -> None:
    good, site.working = site.working, replace(site.working, ask=page_of_a_proxy)
    site.working.config["enrolment.max_attempts"] = 2
    await site.dispatch("T-1")
    await site.run("enrolment-request", "extract", "transformation")
    site.clock.now += timedelta(hours=2)
    await site.run("transformation", "load", "enrolment-response")
    assert await site.states() == {"": FAILED, "T-1": FAILED}
    assert (await site.events())[0][2] == "OR ERROR\nthe provider's answer is no JSON"
    site.working = good
    await wishes.retry(site.database, "SO-1", by="local", now=site.clock())
    await site.run("enrolment-request", "extract", "transformation")
    assert site.provider.orders == {"SO-1": {"T-1"}}


async def test_a_page_of_a_proxy_once_does_no_harm(site: EnrolmentSite) -> None:
    good, site.working = site.working, replace(site.working, ask=page_of_a_proxy)
    await site.dispatch("T-1")
    await site.run("enrolment-request", "extract", "transformation")
    site.working = good
    site.clock.now += timedelta(minutes=1)
    assert await site.run("transformation") == {"files_done": 1}
    assert site.provider.orders == {"SO-1": {"T-1"}}


async def test_a_transaction_without_an_answer_is_given_up(site: EnrolmentSite) -> None:
    site.provider.in_progress = 1000
    await site.dispatch("T-1")
    await site.round()
    assert (await site.states())[""] == SENT
    assert (await responding.give_up(site.working, "SO-1", by="alice")).value == FAILED
    (sent,) = await rows_of(site.database, enrolment_transaction)
    assert (sent["state"], sent["cause"]) == ("error", "given up by alice: no answer that could be used")
    assert [row["state"] for row in await rows_of(site.database, enrolment_batch)] == ["done"]
    ((kind, order, notes),) = await site.events()
    assert (kind, order) == ("enrolment_failed", "SO-1")
    assert notes.startswith("OR ERROR\ngiven up by alice")
    line = (await audits.page(site.database))[-1]
    assert (line.account, line.verb, line.before, line.after) == (
        "alice", "order-give-up", {"enrolment": SENT}, {"enrolment": FAILED},
    )  # fmt: skip
    # Nobody asks about it any more, and nobody is told twice.
    asked = len(site.provider.asked)
    site.clock.now += timedelta(hours=1)
    await site.run("transformation")
    assert len(site.provider.asked) == asked
    assert await cause(responding.give_up(site.working, "SO-1", by="alice")) == "transaction_none"
    assert (await adopting.adopt(site.working, "SO-1", by="local")).enrolled == ("T-1",)


async def test_what_was_given_up_before_it_left_leaves_no_more(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    await site.run("enrolment-request")
    await responding.give_up(site.working, "SO-1", by="local")
    await site.run("extract", "transformation")
    assert site.provider.asked == []
    assert site.files("outbox") == []


async def test_an_answer_that_comes_after_all_counts_for_nothing(site: EnrolmentSite) -> None:
    await file_provider(site)
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "COMPLETE")
    await responding.give_up(site.working, "SO-1", by="local")
    await site.run("load")
    assert await site.run("enrolment-response") == {"repeated": 1}
    assert (await site.states())[""] == FAILED


async def test_of_a_batch_only_the_order_that_was_given_up_has_ended(site: EnrolmentSite, commands) -> None:
    await Warehouse(commands).furnish(order="SO-2")
    await site.dispatch("T-1")
    await site.dispatch("T-2", order="SO-2")
    await site.round()
    await responding.give_up(site.working, "SO-1", by="local")
    site.clock.now += timedelta(minutes=5)
    await site.run("transformation", "load")
    assert await site.run("enrolment-response") == {"repeated": 1, "complete": 1}
    assert ((await site.states())[""], (await site.states("SO-2"))[""]) == (FAILED, ENROLLED)


async def test_the_list_says_what_waits_and_what_is_overdue(site: EnrolmentSite) -> None:
    await site.dispatch("T-1")
    (line,) = await looking.orders(site.database, now=site.clock())
    assert (line.state, line.asked_at, line.overdue) == (PENDING, None, False)
    asked_at = site.clock()
    await site.run("enrolment-request")
    site.clock.now += timedelta(hours=1)
    (line,) = await looking.orders(site.database, now=site.clock())
    assert (line.asked_at, line.overdue) == (asked_at, False)
    await configuration.put(site.database, "enrolment.answer_within_s", "600", by="local", now=site.clock())
    (line,) = await looking.orders(site.database, now=site.clock())
    assert line.overdue
    (sent,) = (await looking.order(site.database, "SO-1", now=site.clock())).transactions
    assert (sent.state, sent.overdue) == ("open", True)
    await responding.give_up(site.working, "SO-1", by="local")
    (line,) = await looking.orders(site.database, now=site.clock())
    assert (line.asked_at, line.overdue) == (None, False)


async def test_batches_say_how_far_they_are_and_why_they_wait(site: EnrolmentSite) -> None:
    good, site.working = site.working, replace(site.working, ask=page_of_a_proxy)
    await site.dispatch("T-1")
    await site.run("enrolment-request", "extract", "transformation")
    (batch,) = await looking.batches(site.database)
    assert (batch.direction, batch.state.value, batch.orders, batch.attempts) == ("request", "extracted", 1, 1)
    assert batch.cause == "the provider's answer is no JSON"
    assert batch.next_at == site.clock() + timedelta(seconds=10)
    (sent,) = (await looking.order(site.database, "SO-1", now=site.clock())).transactions
    assert sent.batch == batch
    site.working = good
    site.clock.now += timedelta(minutes=1)
    await site.run("transformation")
    (batch,) = await looking.batches(site.database, state=looking.BatchState.SENT)
    assert (batch.reference, batch.attempts, batch.cause) == ("ref-1", 0, None)
    assert await looking.batches(site.database, state=looking.BatchState.FAILED) == []


async def test_an_answer_that_failed_is_seen_at_the_order_that_waits_for_it(site: EnrolmentSite) -> None:
    await file_provider(site)
    await site.dispatch("T-1", provider="billing")
    await site.run("enrolment-request", "extract")
    await answer_by_file(site, "COMPLETE", devices=[{"serialNumber": "T-9", "status": "DONE"}])
    await site.run("load")
    assert await site.run("enrolment-response") == {"failed_batches": 1}
    (failed,) = await looking.batches(site.database, state=looking.BatchState.FAILED)
    assert (failed.direction, failed.cause) == ("response", "device_foreign")
    (sent,) = (await looking.order(site.database, "SO-1", now=site.clock())).transactions
    assert (sent.state, sent.batch.state.value) == ("open", "extracted")
    assert sent.batch.cause == f"its answer {failed.batch_id} failed: device_foreign"
