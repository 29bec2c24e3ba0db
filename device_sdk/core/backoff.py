"""Waiting that grows and is never the same twice.

Owns the growth and the jitter of every wait in the core; keeps no clock. Runs on MicroPython.
"""

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from collections.abc import Callable


def jittered(wait_s: float, random_bytes: "Callable[[int], bytes]") -> float:
    """`wait_s` changed by up to 25 % either way, evenly."""
    share = int.from_bytes(random_bytes(2), "big") / 65535.0
    return wait_s * (0.75 + 0.5 * share)


class Backoff:
    """Waits that double from `first_s` to `max_s`, each jittered by 25 % and never above `max_s`."""

    def __init__(self, first_s: float, max_s: float, random_bytes: "Callable[[int], bytes]") -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._random_bytes = random_bytes
        self._wait_s = first_s

    def next(self) -> float:
        wait_s = self._wait_s
        self._wait_s = min(self._max_s, wait_s * 2)
        return min(self._max_s, jittered(wait_s, self._random_bytes))

    def reset(self) -> None:
        self._wait_s = self._first_s
