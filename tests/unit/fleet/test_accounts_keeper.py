"""The keeper of accounts: what it takes to the brokers, and when it says that it cannot."""

from __future__ import annotations

import logging
import os

from service.brokers.gate import GateError
from service.fleet.accounts_keeper import PATIENCE_S, AccountsKeeper
from service.operations import accounts
from service.operations.accounts import AccountKind
from tests.support.fake_link import FakeClock, FakeGate
from tests.support.storage import NOW, new_database


class LateGate(FakeGate):
    """A gate whose broker does not answer while `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.wanted: list[str] = []

    async def set_accounts(self, wanted) -> tuple[int, int]:
        if self.away:
            raise GateError("not connected")
        self.wanted = [one.name for one in wanted]
        return 0, 0


def warnings(caplog) -> int:
    return len([one for one in caplog.records if one.levelno >= logging.WARNING])


async def test_an_environment_that_is_away_is_said_once_and_not_before_it_had_time_to_connect(tmp_path, caplog) -> None:
    database = await new_database(tmp_path / "firstlight.db")
    gate, other, clock = LateGate(), LateGate(), FakeClock()
    other.away = False
    keeper = AccountsKeeper(database, {"prod": gate, "east": other}, monotonic=clock.monotonic)
    try:
        await accounts.create(database, "alice", AccountKind.OPERATOR, now=NOW, random_bytes=os.urandom)
        await keeper.look()
        clock.advance(PATIENCE_S - 1)
        await keeper.look()
        assert warnings(caplog) == 0
        clock.advance(1)
        await keeper.look()
        await keeper.look()
        assert warnings(caplog) == 1
        assert other.wanted == ["alice"]
        gate.away = False
        await keeper.look()
        assert gate.wanted == ["alice"]
        gate.away = True
        await keeper.look()
        assert warnings(caplog) == 1
        clock.advance(PATIENCE_S)
        await keeper.look()
        assert warnings(caplog) == 2
    finally:
        await database.close()


async def test_a_fault_in_one_environment_holds_up_no_other(tmp_path, caplog) -> None:
    database = await new_database(tmp_path / "firstlight.db")
    faulty, other = LateGate(), LateGate()
    faulty.set_accounts = lambda _: 1 / 0
    other.away = False
    try:
        await accounts.create(database, "alice", AccountKind.OPERATOR, now=NOW, random_bytes=os.urandom)
        await AccountsKeeper(database, {"prod": faulty, "east": other}).look()
        assert other.wanted == ["alice"]
        assert "ZeroDivisionError" in caplog.text
    finally:
        await database.close()
