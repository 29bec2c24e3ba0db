"""The activation hook: asked outside of the batches, about proven devices only, and never in another group's way."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.hook import Answer, HookError, Question, Verdict, read
from service.pipeline.bounds import Bounds
from tests.support.pipeline_site import Peer, catalogue, group, registered, running

WITH_HOOK = group(hook="https://example.org/hook")
ALLOW = Answer(Verdict.ALLOW)


class Hook:
    """Answers what it is told to, at once or when it is let go on."""

    def __init__(self, answer=ALLOW, hang=()):
        self.answer = answer
        self.hang = set(hang)  # groups whose questions get no answer
        self.asked: list[Question] = []
        self.most = 0
        self.now = 0

    async def __call__(self, question):
        self.asked.append(question)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if question.group_id in self.hang:
                await asyncio.Event().wait()
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer
        finally:
            self.now -= 1


def site_of(folder, hook, *groups, **more):
    return running(folder, world=catalogue(*(groups or (WITH_HOOK,))), hook=hook, **more)


async def test_a_hook_that_allows_lets_the_device_in(tmp_path):
    hook = Hook()
    async with site_of(tmp_path, hook) as site:
        peer = Peer(site)
        assert (await peer.activate(model="T-1", attributes={"hw": "b"}))["ok"]
        assert (await peer.online())["ok"]
        (question,) = hook.asked
        assert question.document() == {
            "version": 1, "activation": peer.credential_id, "group": "line-1", "serial": "sn-1", "registered": True,
            "thing": None, "ou": "acme", "environment": "prod", "model": "T-1", "boot_count": 1,
            "attributes": {"hw": "b"},
        }  # fmt: skip


async def test_a_hook_is_not_asked_about_whoever_proves_nothing(tmp_path):
    hook = Hook()
    async with site_of(tmp_path, hook) as site:
        assert (await Peer(site, key=bytes(32)).activate())["code"] == "REFUSED"
        assert (await Peer(site, "nobody").activate())["code"] == "REFUSED"
        assert hook.asked == []


async def test_a_hook_that_denies_is_a_code_of_its_own_with_trace_and_event(tmp_path):
    async with site_of(tmp_path, Hook(Answer(Verdict.DENY, "not paid for"))) as site:
        refused = await Peer(site).activate()
        assert refused["code"] == "HOOK_DENIED"
        assert "paid" not in str(refused)
        assert [(one.kind, one.data["reason"]) for one in site.store.events] == [("hook_denied", "not paid for")]
        assert [(one.code, one.cause, one.detail) for one in site.store.traces] == [
            ("HOOK_DENIED", "hook_denied", "not paid for")
        ]
        assert site.store.device("line-1", "sn-1").credentials == ()


@pytest.mark.parametrize("error", [HookError("no connection"), ValueError("a fault")])
async def test_a_hook_that_fails_is_neither_yes_nor_no(tmp_path, error, caplog):
    async with site_of(tmp_path, Hook(error)) as site:
        refused = await Peer(site).activate()
        assert refused["code"] == "UNAVAILABLE"
        assert refused["retry_after_s"] <= 15
        assert site.store.counters["hook_failed"] == 1


async def test_a_hook_without_an_answer_is_a_timeout(tmp_path):
    async with site_of(tmp_path, Hook(hang={"line-1"}), bounds=Bounds(hook_timeout_s=0.05)) as site:
        assert (await Peer(site).activate())["code"] == "HOOK_TIMEOUT"
        assert site.store.counters["hook_timeout"] == 1


def test_a_hook_has_five_seconds_and_thirty_two_are_asked_at_once_unless_somebody_says_otherwise():
    assert (Bounds().hook_timeout_s, Bounds().hooks_at_once) == (5, 32)


async def test_a_hook_overrides_place_name_and_attributes_of_a_new_thing(tmp_path):
    answer = Answer(Verdict.ALLOW, ou="acme/special", name="Oven 7", attributes={"floor": 2})
    async with site_of(tmp_path, Hook(answer)) as site:
        peer = Peer(site)
        await peer.activate()
        assert (peer.grant["ou"], peer.grant["name"]) == ("acme/special", "Oven 7")
        assert site.store.device("line-1", "sn-1").thing.attributes == {"floor": 2}


async def test_a_hook_overrides_nothing_of_a_thing_that_is_there(tmp_path):
    hook = Hook()
    async with site_of(tmp_path, hook) as site:
        peer = Peer(site)
        await peer.activate()
        hook.answer = Answer(Verdict.ALLOW, ou="acme/special", name="Oven 7")
        peer.boot_count += 1
        await peer.activate()
        assert (peer.grant["ou"], peer.grant["name"]) == ("acme", "Thermometer 1")


async def test_a_hook_that_names_an_unknown_environment_has_failed(tmp_path):
    async with site_of(tmp_path, Hook(Answer(Verdict.ALLOW, environment="moon"))) as site:
        assert (await Peer(site).activate())["code"] == "UNAVAILABLE"


async def test_a_renewal_asks_no_hook(tmp_path):
    hook = Hook()
    async with site_of(tmp_path, hook) as site:
        peer = Peer(site)
        await peer.activate()
        await peer.online()
        assert (await peer.activate("c"))["ok"]
        assert len(hook.asked) == 1


async def test_a_repeated_activate_asks_once_and_is_answered_the_same(tmp_path):
    hook = Hook()
    async with site_of(tmp_path, hook) as site:
        peer = Peer(site)
        body = peer.activate_body(await peer.hello())
        first, second = await asyncio.gather(
            peer.ask("b", "activate", body), asyncio.wait_for(peer.ask("b", "hello", hello(peer)), 30)
        )
        assert first["ok"]
        assert second["ok"]
        again = await peer.ask("b", "activate", body)
        assert again["grant"] == first["grant"]
        assert len(hook.asked) == 1


def hello(peer):
    return {"group_id": peer.group_id, "serial": peer.serial, "nonce": peer.nonce}


async def test_a_hanging_hook_does_not_slow_other_groups(tmp_path):
    """One group's hook never answers; another group with a hook and one without come in meanwhile."""
    hook = Hook(hang={"line-1"})
    groups = (WITH_HOOK, group("line-2", hook="https://example.org/other"), group("line-3"))
    devices = [registered(f"sn-{line}-{n}", f"line-{line}") for line in (1, 2, 3) for n in range(20)]
    bounds = Bounds(hook_timeout_s=600.0)
    async with site_of(tmp_path, hook, *groups, devices=devices, bounds=bounds) as site:
        stuck = [asyncio.create_task(Peer(site, f"sn-1-{n}", "line-1").activate()) for n in range(20)]
        others = [Peer(site, f"sn-{line}-{n}", f"line-{line}").activate() for line in (2, 3) for n in range(20)]
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*others)
        assert all(reply["ok"] for reply in replies)
        assert sum(one.group_id == "line-1" for one in hook.asked) == bounds.hooks_of_group
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_at_most_so_many_hooks_are_asked_at_once(tmp_path):
    lines = range(1, 7)
    hook = Hook(hang={f"line-{line}" for line in lines})
    groups = [group(f"line-{line}", hook="https://example.org/hook") for line in lines]
    devices = [registered(f"sn-{line}-{n}", f"line-{line}") for line in lines for n in range(9)]
    async with site_of(tmp_path, hook, *groups, devices=devices, bounds=Bounds(hook_timeout_s=1.0)) as site:
        asks = [Peer(site, f"sn-{line}-{n}", f"line-{line}").activate() for line in lines for n in range(9)]
        replies = await asyncio.gather(*asks)
        assert {reply["code"] for reply in replies} == {"HOOK_TIMEOUT"}
        assert hook.most == Bounds().hooks_at_once


async def test_a_group_whose_hook_stays_silent_gets_one_question_at_a_time(tmp_path):
    hook = Hook(hang={"line-1"})
    devices = [registered(f"sn-{n}") for n in range(12)]
    async with site_of(tmp_path, hook, devices=devices, bounds=Bounds(hook_timeout_s=0.05)) as site:
        await asyncio.gather(*(Peer(site, f"sn-{n}").activate() for n in range(6)))
        hook.most = 0
        await asyncio.gather(*(Peer(site, f"sn-{n}").activate() for n in range(6, 12)))
        assert hook.most == 1


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, {"decision": "maybe"}, {"decision": True}, {"decision": "allow", "extra": 1},
        {"decision": "allow", "ou": "acme//x"}, {"decision": "allow", "ou": 7}, {"decision": "allow", "name": ""},
        {"decision": "allow", "name": "a\nb"}, {"decision": "allow", "environment": "a/b"},
        {"decision": "allow", "attributes": []}, {"decision": "allow", "attributes": {"a": [1]}},
        {"decision": "allow", "attributes": {"a": "x" * 257}}, {"decision": "allow", "attributes": {"a": float("nan")}},
        {"decision": "allow", "attributes": {"a": 2**53}},
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_no_answer(document):
    with pytest.raises(HookError):
        read(document)


def test_an_answer_is_read_strictly():
    given = {"decision": "deny", "reason": "line\nbreak", "ou": "acme/x", "attributes": {"a": 1, "b": True}}
    assert read(given) == Answer(Verdict.DENY, "line?break", "acme/x", None, None, {"a": 1, "b": True})


async def test_a_service_without_hooks_says_so(tmp_path):
    async with running(tmp_path, world=catalogue(WITH_HOOK)) as site:
        assert (await Peer(site).activate())["code"] == "UNAVAILABLE"
