"""The comparison of a broker's list with the database, while grants and revocations go on."""

from __future__ import annotations

import asyncio

import pytest

from service.brokers.gate import CANARY_PREFIX, GateError, Login
from service.domain.credential import CredentialKind
from service.pipeline import granter as granting
from service.pipeline.bounds import Bounds
from service.pipeline.granter import Granter
from service.pipeline.record import Record
from tests.support.fake_link import FakeGate


def login(name: str, kind: CredentialKind = CredentialKind.API_KEY) -> Login:
    return Login(name * 32, kind, api_key_sha256=bytes(32))


A, B, C, D = (login(name) for name in "abcd")


class Steps:
    """What the database expects, read as far as the test lets it."""

    def __init__(self, *logins: Login) -> None:
        self._logins = logins
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self):
        for one in self._logins:
            yield one
        self.begun.set()
        await self.go_on.wait()


class SlowGate(FakeGate):
    """Each grant starts and waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go_on = asyncio.Event(), asyncio.Event()

    async def grant(self, logins) -> None:
        self.started.set()
        await self.go_on.wait()
        await super().grant(logins)


def granter_of(gate: FakeGate, *have: Login) -> Granter:
    gate.logins = {one.credential_id: one for one in have}
    return Granter(gate, Bounds(), Record(10))


def names(gate: FakeGate) -> str:
    return "".join(sorted(one[0] for one in gate.logins))


async def all_of(*logins: Login):
    for one in logins:
        yield one


async def test_what_the_database_does_not_know_goes_and_what_the_broker_lost_comes_back() -> None:
    gate = FakeGate()
    granter = granter_of(gate, A, B)
    assert await granter.reconcile(all_of(A, C, login("d", CredentialKind.X509))) == (1, 1)
    assert names(gate) == "ac"
    gate.calls.clear()
    assert await granter.reconcile(all_of(A, C)) == (0, 0)
    assert gate.calls == []


async def test_a_credential_that_is_revoked_after_it_was_read_is_not_let_in_again() -> None:
    gate, steps = FakeGate(), Steps(A, B)
    granter = granter_of(gate)
    task = asyncio.create_task(granter.reconcile(aiter(steps)))
    await steps.begun.wait()  # A was live when it was read
    await granter.revoke([A])
    steps.go_on.set()
    assert await task == (1, 0)
    assert names(gate) == "b"


async def test_a_revocation_that_comes_while_the_comparison_grants_is_the_last_word() -> None:
    gate = SlowGate()
    granter = granter_of(gate)
    task = asyncio.create_task(granter.reconcile(all_of(A, B)))
    await gate.started.wait()
    revocation = asyncio.create_task(granter.revoke([A]))
    await asyncio.sleep(0)
    gate.go_on.set()
    await revocation
    await task
    assert names(gate) == "b"


async def test_a_credential_that_is_granted_while_the_comparison_runs_stays() -> None:
    gate, steps = FakeGate(), Steps(A)
    granter = granter_of(gate, A, B)
    running, granted = asyncio.create_task(granter.run()), asyncio.Event()
    task = asyncio.create_task(granter.reconcile(aiter(steps)))
    await steps.begun.wait()
    for one in (B, C):
        granter.submit(one, lambda _error: granted.set())
    await granted.wait()
    steps.go_on.set()
    assert await task == (0, 0)
    assert names(gate) == "abc"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_revocation_waits_for_one_page_of_a_comparison_and_not_for_all(monkeypatch) -> None:
    monkeypatch.setattr(granting, "COMPARED_AT_ONCE", 1)
    gate = SlowGate()
    granter = granter_of(gate, D)
    task = asyncio.create_task(granter.reconcile(all_of(A, B, C, D)))
    await gate.started.wait()
    revocation = asyncio.create_task(granter.revoke([D]))
    await asyncio.sleep(0)
    gate.go_on.set()
    await revocation
    assert gate.calls[:2] == [("grant", 1), ("revoke", 1)]
    assert await task == (3, 0)


async def test_the_doctor_s_logins_are_left_alone_and_a_broker_without_a_list_has_nothing_to_compare() -> None:
    gate = FakeGate()
    canary = Login(CANARY_PREFIX + "0" * 16, CredentialKind.API_KEY, api_key_sha256=bytes(32))
    assert await granter_of(gate, canary, A).reconcile(all_of(A)) == (0, 0)

    class Listless(FakeGate):
        async def snapshot(self) -> None:
            return None

    assert await granter_of(Listless()).reconcile(all_of(A)) == (0, 0)


async def test_a_broker_that_does_not_answer_ends_a_comparison_and_the_next_succeeds() -> None:
    gate = FakeGate()
    granter = granter_of(gate)
    gate.fail = True
    with pytest.raises(GateError):
        await granter.reconcile(all_of(A))
    gate.fail = False
    assert await granter.reconcile(all_of(A)) == (1, 0)
