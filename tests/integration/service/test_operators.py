"""Operators and integrators on real sockets: asked on one topic, answered on another, told what happens."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgpack
import pytest

from service.mqtt.port import Role as LinkRole
from service.operations import accounts, command_page
from service.operations.accounts import AccountKind
from service.operations.verbs.verb import Role
from tests.integration.service.conftest import Running
from tests.support.actor import Actor
from tests.support.site import GROUP, OU, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def account(running: Running, name: str, kind=AccountKind.OPERATOR, role=Role.OPERATOR, ou=None) -> str:
    """A new account, once it works; its key."""
    async with running.site.database() as database:
        key = await accounts.create(
            database, name, kind, role=role, ou=ou, now=datetime.now(UTC), random_bytes=os.urandom
        )
    broker = next(b for d in running.service.deployments for b in d.brokers if b.role is LinkRole.OPERATIONAL)
    await until(lambda: name in broker.accounts)
    return key.reveal().decode()


@asynccontextmanager
async def operator(running: Running, name: str, **more):
    key = await account(running, name, **more)
    async with Actor(running.site.ports["api_key"], name, name, key) as actor:
        await actor.subscribe(
            f"pv1/o/{name}/dn/#" if more.get("kind") is not AccountKind.INTEGRATOR else f"pv1/e/{name}/#"
        )
        yield actor


async def ask(actor: Actor, verb: str, body, *, raw: bytes | None = None) -> dict:
    name, before = actor.client_id, len(actor.received)
    topic = f"pv1/o/{name}/dn/{verb}"
    await actor.say(f"pv1/o/{name}/up/{verb}", raw if raw is not None else json.dumps(body).encode())
    await until(lambda: any(t == topic for t, _ in actor.received[before:]))
    payload = next(p for t, p in actor.received[before:] if t == topic)
    return json.loads(payload) if payload[:1] == b"{" else msgpack.unpackb(payload)


def one(serial: str) -> dict:
    return {"devices": [f"{GROUP}/{serial}"]}


async def test_an_operator_commands_and_is_answered(running: Running) -> None:
    async with operator(running, "alice") as alice:
        said = await ask(alice, "block", {"id": "1", "selector": one("sn-1")})
        assert (said["ok"], said["state"], said["changed"], said["id"]) == (True, "done", 1, "1")
        assert said["outcomes"] == [{"device": f"{GROUP}/sn-1", "result": "changed"}]
        again = await ask(alice, "block", {"id": "1", "selector": one("sn-1")})
        assert {**again, "trace": ""} == {**said, "trace": ""}
        raw = msgpack.packb({"id": "2", "device": f"{GROUP}/sn-1"})
        assert (await ask(alice, "get", None, raw=raw))["device"]["state"] == "blocked"
        refused = await ask(
            alice, "allocate", {"id": "3", "selector": one("sn-1"), "arguments": {"environment": "mars"}}
        )
        assert (refused["ok"], refused["code"], refused["cause"]) == (False, "NOT_FOUND", "environment_unknown")
        stale = {"id": "4", "selector": one("sn-1"), "expected_rev": 7}
        conflict = await ask(alice, "unblock", stale)
        assert (conflict["code"], conflict["cause"], conflict["state"]["state"]) == ("CONFLICT", "rev_stale", "blocked")
        assert (await ask(alice, "unblock", {"id": "5", "selector": one("sn-1")}))["changed"] == 1
        status = await ask(alice, "command-status", {"id": "6", "command": "1"})
        assert (status["command"], status["later"]) == (said["command"], {"blocked": 1})
        steps = (await ask(alice, "trace", {"id": "7", "device": f"{GROUP}/sn-1"}))["steps"]
        assert [step["step"] for step in steps] == ["block", "unblock"]


BAD = {
    "not a map": ("block", b"[]", "BAD_REQUEST"),
    "half a message": ("block", b"{", "BAD_REQUEST"),
    "no id": ("block", b"{}", "BAD_REQUEST"),
    "an unknown field": ("block", b'{"id":"1","dryrun":true}', "BAD_REQUEST"),
    "an unknown selector": ("block", b'{"id":"1","selector":{"serial":"x"}}', "BAD_REQUEST"),
    "no selector": ("block", b'{"id":"1"}', "BAD_REQUEST"),
    "an unknown verb": ("explode", b'{"id":"1"}', "UNKNOWN_VERB"),
    "too large": ("block", b'{"id":"1","x":"' + b"x" * 20_000 + b'"}', "TOO_LARGE"),
    "an expired command": ("block", b'{"id":"x1","expires_at":1,"selector":{"group":"line-1"}}', "CONFLICT"),
    "nobody's command": ("cancel", b'{"id":"1","command":"x"}', "NOT_FOUND"),
    "a page of none": ("list", b'{"id":"1","limit":0}', "BAD_REQUEST"),
    "a bare serial": ("get", b'{"id":"1","device":"sn-1"}', "BAD_REQUEST"),
    "a device that is not there": ("get", b'{"id":"1","device":"line-1/nobody"}', "NOT_FOUND"),
}


async def test_bad_input_is_answered_and_changes_nothing(running: Running) -> None:
    async with operator(running, "mallory") as actor:
        before = running.site.rows(but=("counter", "audit", "meta", "sqlite_sequence"))
        for case, (verb, raw, code) in BAD.items():
            said = await ask(actor, verb, None, raw=raw)
            assert (said["ok"], said["code"]) == (False, code), case
            assert len(said["trace"]) == 16
        assert running.site.rows(but=("counter", "audit", "meta", "sqlite_sequence")) == before


async def test_a_scope_hides_what_is_outside(running: Running) -> None:
    async with operator(running, "else", ou="elsewhere") as actor:
        assert (await ask(actor, "list", {"id": "1"}))["devices"] == []
        for verb, body in (("get", {"device": f"{GROUP}/sn-2"}), ("block", {"selector": one("sn-2")})):
            said = await ask(actor, verb, {"id": f"x{verb}", **body})
            assert (said["code"], said["cause"]) == ("FORBIDDEN", "out_of_scope")
    async with operator(running, "inside", ou=OU) as actor:
        page = await ask(actor, "list", {"id": "1", "limit": 2, "selector": {"group": GROUP}})
        assert len(page["devices"]) == 2
        rest = await ask(actor, "list", {"id": "2", "limit": 100, "after": page["after"], "selector": {"group": GROUP}})
        assert len(rest["devices"]) == 18


async def test_a_viewer_looks_and_changes_nothing(running: Running) -> None:
    async with operator(running, "vera", role=Role.VIEWER) as actor:
        assert (await ask(actor, "get", {"id": "1", "device": f"{GROUP}/sn-2"}))["ok"]
        said = await ask(actor, "block", {"id": "2", "selector": one("sn-2")})
        assert (said["code"], said["cause"]) == ("FORBIDDEN", "role_too_low")


async def test_a_large_command_is_worked_off_with_progress(running: Running, monkeypatch) -> None:
    monkeypatch.setattr(command_page, "PAGE", 4)
    async with operator(running, "bulk") as actor:
        fields = {"selector": {"group": GROUP}, "arguments": {"attributes": {"site": "hall 3"}}}
        said = await ask(actor, "set-attributes", {"id": "1", **fields})
        assert (said["state"], said["total"], said["done"]) == ("running", 20, 4)
        topic = "pv1/o/bulk/dn/progress"
        await until(lambda: any(t == topic and json.loads(p)["state"] == "done" for t, p in actor.received))
        status = await ask(actor, "command-status", {"id": "2", "command": said["command"]})
        assert (status["done"], status["changed"], len(status["outcomes"])) == (20, 20, 20)


async def test_integrators_are_told_what_happens_in_their_ou_in_order(running: Running) -> None:
    integrator = AccountKind.INTEGRATOR
    async with (
        operator(running, "erp", kind=integrator, ou=OU) as erp,
        operator(running, "other", kind=integrator, ou="elsewhere") as other,
        operator(running, "boss") as boss,
    ):
        for number, verb in enumerate(("block", "unblock", "block", "unblock")):
            assert (await ask(boss, verb, {"id": f"{number}", "selector": one("sn-5")}))["changed"] == 1
        await until(lambda: len(erp.received) >= 4)
        told = [json.loads(payload) for _, payload in erp.received]
        assert [topic for topic, _ in erp.received] == [f"pv1/e/erp/{one['event']}" for one in told]
        assert [one["event"] for one in told] == ["blocked", "unblocked"] * 2
        assert [one["seq"] for one in told] == sorted(one["seq"] for one in told)
        assert {one["serial"] for one in told} == {"sn-5"}
        assert other.received == []
