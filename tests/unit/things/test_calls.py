"""Requests that no broker brought, in a pipeline over fakes: every one gets exactly one answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from device_sdk.wire import keys
from service.errors import ServiceError
from service.http.things_calls import decoded, encoded, packed
from service.pipeline import calls
from service.pipeline.bounds import Bounds
from tests.support.pipeline_site import IMAGE_ID, NEW, OLD, QUICK, Peer, catalogue, running

SESSION = "5" * 32
TRACE = "7" * 16


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


def hello(site, session=SESSION, **other):
    fields = {"group_id": "line-1", "serial": "sn-1", "nonce": encoded(bytes(16)), **other}
    return site.pipeline.ask("hello", session, fields, TRACE, operational=False)


async def activate(site):
    """Over HTTP, as the device sn-1; the reply."""
    server_nonce = (await hello(site))["server_nonce"]
    claim = packed({"group_id": "line-1", "serial": "sn-1", "nonce": encoded(bytes(16)), "boot_count": 1, "caps": []})
    message = keys.http_activate_message(SESSION, decoded(server_nonce), decoded(claim))
    proof = encoded(keys.hmac_sha256(Peer(site).key, message))
    fields = {"serial": "sn-1", "claim": claim, "server_nonce": server_nonce, "proof": proof}
    return await site.pipeline.ask("http-activate", SESSION, fields, TRACE, operational=False)


def serve(site, credential_id, verb, **fields):
    return site.pipeline.ask(verb, credential_id, fields, TRACE, operational=True)


async def test_a_reply_has_the_trace_of_its_request(tmp_path):
    async with running(tmp_path) as site:
        assert (await hello(site))["trace"] == TRACE


async def test_the_broker_knows_the_key_before_the_device_does(tmp_path):
    async with running(tmp_path) as site:
        reply = await activate(site)
        (login,) = site.gate.logins.values()
        assert login.api_key.reveal().decode() == reply["api_key"]
        assert len(site.store.device("line-1", "sn-1").credentials) == 1


async def test_a_key_that_no_broker_has_confirmed_is_not_given(tmp_path):
    async with running(tmp_path) as site:
        site.gate.fail = True
        assert (await refused(activate(site)))[0] == "UNAVAILABLE"
        site.gate.fail = False
        assert (await activate(site))["ok"]


async def test_verbs_of_brokers_and_of_http_are_two_worlds(tmp_path):
    async with running(tmp_path) as site:
        peer = Peer(site)
        site.boot.send(f"pv1/b/{peer.session}/up/http-activate", b"{}")
        assert site.counted("foreign_topic") == 1  # a broker's topic cannot even say it
        assert (await peer.activate())["ok"]
        for verb in ("online", "report", "activate", "http-activate", "stage"):
            assert (await refused(serve(site, peer.credential_id, verb)))[0] == "UNKNOWN_VERB"
        for verb in ("activate", "stage", "target"):
            ask = site.pipeline.ask(verb, SESSION, {}, TRACE, operational=False)
            assert (await refused(ask))[0] == "UNKNOWN_VERB"


async def test_what_a_broker_would_ignore_is_refused(tmp_path):
    async with running(tmp_path) as site:
        assert await refused(serve(site, "0" * 32, "current")) == ("REFUSED", "call_ignored")


async def test_every_request_beyond_its_rate_is_told_so(tmp_path):
    async with running(tmp_path, bounds=Bounds(session_rate=0.001, session_burst=1)) as site:
        await hello(site)
        for _ in range(3):
            assert (await refused(hello(site)))[0] == "THROTTLED"
        assert (await hello(site, "6" * 32))["ok"]


async def test_what_cannot_be_read_is_told_so_each_time(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        for _ in range(3):
            assert (await refused(hello(site, serial="no serial")))[0] == "BAD_REQUEST"
        assert (await refused(hello(site, more="x" * 20_000)))[0] == "TOO_LARGE"


async def test_a_service_that_stops_takes_no_more_requests(tmp_path):
    async with running(tmp_path) as site:
        site.pipeline.admission.closed = True
        assert await refused(hello(site)) == ("UNAVAILABLE", "call_stopping")


async def test_a_request_without_an_answer_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "CALL_TIMEOUT_S", 0.01)
    call = calls.Call("hello", SESSION, {}, TRACE, operational=False)
    assert await refused(call.reply()) == ("UNAVAILABLE", "call_unanswered")
    call.answer(b"{}")  # too late: nobody is disturbed


async def test_a_device_may_fetch_its_target_and_what_it_has_and_nothing_is_streamed(tmp_path):
    async with running(tmp_path, bounds=QUICK) as site:
        await activate(site)
        (credential,) = site.store.device("line-1", "sn-1").credentials
        one = credential.credential_id

        async def fetch(version):
            return (await serve(site, one, "http-fetch", version_id=version.version_id))["image_id"]

        assert (await refused(fetch(NEW)))[0] == "FORBIDDEN"
        await serve(site, one, "current")
        assert await fetch(NEW) == IMAGE_ID
        assert (await refused(fetch(OLD)))[0] == "NOT_FOUND"  # a version of the product, and nothing to this thing
        await serve(site, one, "installed", version_id=OLD.version_id)
        assert [await fetch(OLD), await fetch(NEW)] == [OLD.image_id, IMAGE_ID]
        site.set_catalogue(catalogue(target=None))
        assert (await refused(fetch(NEW)))[0] == "NOT_FOUND"
        assert await fetch(OLD) == OLD.image_id
        site.set_catalogue(replace(catalogue(), retired_keys=frozenset({OLD.key_id})))
        assert (await refused(fetch(OLD)))[0] == "NOT_FOUND"
        assert (await refused(serve(site, one, "fetch", version_id=NEW.version_id)))[0] == "UNKNOWN_VERB"
        await asyncio.sleep(0)
        assert site.pipeline.streamer.chunks_sent == 0
