"""What the pipeline may rely on in any gate: the embedded broker's, Mosquitto's and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from service.brokers.gate import BrokerGate, GateError, Login
from service.domain.credential import CredentialKind
from tests.support.broker_site import account_login, api_key_login, embedded_site, mosquitto_site
from tests.support.fake_link import FakeGate

A, B = api_key_login(0xA), api_key_login(0xB)
UNKNOWN = api_key_login(0xF)


@pytest.fixture(params=["fake", "embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
async def gate(request, tmp_path) -> AsyncIterator[BrokerGate]:
    if request.param == "fake":
        yield FakeGate()
        return
    async with AsyncExitStack() as stack:
        made = embedded_site() if request.param == "embedded" else mosquitto_site(tmp_path)
        yield (await stack.enter_async_context(made)).gate


async def test_who_is_granted_is_let_in_until_it_is_revoked_and_repeats_change_nothing(gate: BrokerGate) -> None:
    assert await gate.snapshot() == frozenset()
    await gate.grant([])
    await gate.grant([A, B])
    await gate.grant([A])
    assert await gate.snapshot() == {A.credential_id, B.credential_id}
    await gate.revoke([])
    await gate.revoke([A, UNKNOWN])
    await gate.revoke([A])
    assert await gate.snapshot() == {B.credential_id}
    await gate.grant([A])
    assert await gate.snapshot() == {A.credential_id, B.credential_id}


async def test_a_login_without_a_key_is_an_error(gate: BrokerGate) -> None:
    with pytest.raises(GateError):
        await gate.grant([Login("9" * 32, CredentialKind.API_KEY)])
    assert await gate.snapshot() == frozenset()


async def test_certificates_stand_in_no_list(gate: BrokerGate) -> None:
    certified = Login("c" * 32, CredentialKind.X509, certificate_serial="1f")
    with suppress(GateError):  # the embedded broker has none
        await gate.grant([certified])
    assert await gate.snapshot() == frozenset()
    await gate.revoke([certified])


async def test_exactly_the_wanted_accounts_are_let_in_and_devices_are_none_of_them(gate: BrokerGate) -> None:
    await gate.grant([A])
    alice, bob = account_login("alice", "o"), account_login("bob", "e")
    assert await gate.set_accounts([alice, bob]) == (2, 0)
    assert await gate.set_accounts([bob, alice]) == (0, 0)
    assert await gate.set_accounts([account_login("bob", "e", b"another key")]) == (1, 2)
    assert await gate.set_accounts([]) == (0, 1)
    assert await gate.snapshot() == {A.credential_id}
