"""Which cases of a test marked `sampled(n)` a run takes: n of them, drawn by a seed, or all.

Owns the drawing; conftest.py leaves the rest out and says the seed.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import pytest

SOAK, SEED = "FIRSTLIGHT_SOAK", "FIRSTLIGHT_SEED"
Case = TypeVar("Case", bound=pytest.Item)


def seed_of(environment: Mapping[str, str] = os.environ) -> str:
    """The one that is given, else a new one. The processes of one parallel run draw the same."""
    new = environment.get("PYTEST_XDIST_TESTRUNUID") or str(random.SystemRandom().getrandbits(32))
    return environment.get(SEED) or new


def left_out(items: Sequence[Case], seed: str, environment: Mapping[str, str] = os.environ) -> list[Case]:
    """The cases that this run does not take."""
    cases: dict[str, list[Case]] = defaultdict(list)
    for item in items:
        if not environment.get(SOAK) and item.get_closest_marker("sampled") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
    out: list[Case] = []
    for test, every in cases.items():
        marker = every[0].get_closest_marker("sampled")
        assert marker is not None
        drawn = set(random.Random(f"{seed} {test}").sample(every, min(len(every), marker.args[0])))
        out += [item for item in every if item not in drawn]
    return out
