"""The power supply of a virtual device: where it fails, and what that does to what was being written.

Owns the count of flash and installer operations and the moment of a cut; the memory it cuts belongs to memory.py.
"""

from __future__ import annotations

import random


class PowerLostError(Exception):
    """The device is off; whatever was going on in it is over."""


class Power:
    """Counts operations and cuts at the one numbered `cut_at` (from 1); None: never.

    Once cut, every operation fails until restore(). `rng` decides how much of an unfinished write is left.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.cut_at: int | None = None
        self.operations = 0
        self.cuts = 0
        self._off = False

    def step(self) -> bool:
        """One operation begins; True when the power goes during it, and the caller then raises by lost()."""
        if self._off:
            raise PowerLostError
        self.operations += 1
        if self.cut_at is None or self.operations < self.cut_at:
            return False
        self.cut()
        return True

    def cut(self) -> None:
        if not self._off:
            self.cuts += 1
        self._off = True
        self.cut_at = None

    def restore(self) -> None:
        self._off = False
