"""Which cases `make faults` draws of a sampled test: as many as said, the same for a seed, all for `make soak`."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from tests.support.sample import left_out, seed_of


@dataclass(frozen=True)
class Item:
    nodeid: str
    count: int | None = None

    def get_closest_marker(self, _name: str) -> SimpleNamespace | None:
        return None if self.count is None else SimpleNamespace(args=(self.count,))


PLAIN = [Item("a.py::test_plain[1]"), Item("a.py::test_plain[2]")]
MANY = [Item(f"a.py::test_many[{number}]", 5) for number in range(60)]
FEW = [Item(f"b.py::test_few[{number}]", 5) for number in range(3)]


def test_of_a_sampled_test_as_many_cases_are_run_as_it_says_and_of_others_all() -> None:
    out = left_out([*PLAIN, *MANY, *FEW], "7", {})
    assert len(out) == len(MANY) - 5
    assert set(out) < set(MANY)


def test_a_seed_draws_the_same_again_and_another_one_others() -> None:
    assert left_out(MANY, "7", {}) == left_out(MANY, "7", {})
    assert len({tuple(left_out(MANY, str(seed), {})) for seed in range(20)}) > 15


def test_in_the_long_run_every_case_is_drawn() -> None:
    assert left_out([*PLAIN, *MANY, *FEW], "7", {"FIRSTLIGHT_SOAK": "1"}) == []


def test_the_seed_is_the_given_one_or_that_of_the_parallel_run_or_a_new_one() -> None:
    assert seed_of({"FIRSTLIGHT_SEED": "7", "PYTEST_XDIST_TESTRUNUID": "x"}) == "7"
    assert seed_of({"PYTEST_XDIST_TESTRUNUID": "x"}) == "x"
    assert seed_of({}) != seed_of({})
