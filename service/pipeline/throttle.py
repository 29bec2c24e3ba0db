"""Token buckets and bounded tables of them. Pure: the time is an argument, in monotonic seconds.

Owns how often; who is asked and what is answered is the caller's.
"""

from __future__ import annotations

from collections import OrderedDict


class Bucket:
    """`rate` tokens a second, at most `burst` of them; full at first."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Whether there were that many; none are taken otherwise."""
        self._fill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def take_up_to(self, now: float, amount: int) -> int:
        """How many whole tokens of `amount` there were; they are taken."""
        self._fill(now)
        taken = min(amount, int(self._tokens))
        self._tokens -= taken
        return taken

    def give_back(self, amount: float) -> None:
        self._tokens = min(self._burst, self._tokens + amount)

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """Seconds until that many are there; 0 when they are."""
        self._fill(now)
        return max(0.0, (amount - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now


class BucketTable:
    """A bucket for each key; beyond `bound` keys the longest unused is forgotten and starts again full."""

    __slots__ = ("_bound", "_buckets", "_burst", "_rate")

    def __init__(self, rate: float, burst: float, bound: int) -> None:
        self._rate = rate
        self._burst = burst
        self._bound = bound
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float, amount: float = 1.0) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._bound:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, now)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, amount)
