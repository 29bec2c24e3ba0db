"""How long the brokers' own certificates last, as the brokers show them to devices.

Owns the look and the words. A broker shows what it read when it started or was last told to reload, so its files say
little. Nothing is decided by it; health and the doctor show it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from service.brokers.trials import Check

ENOUGH = timedelta(days=60)  # below it somebody is told; a rendering makes a new one at 132 days
LOOK_EACH_S = 3600.0
WAIT_S = 5.0
RENEW = "run `firstlight broker render` and have the broker reload (docs/brokers.md, Renewal)"


@dataclass(frozen=True, slots=True)
class End:
    """Where a broker shows a certificate."""

    host: str
    port: int


async def shown_until(end: End) -> datetime | None:
    """When the certificate that is shown there ends; None where nobody shows one in time. It is not verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(WAIT_S):
            _, writer = await asyncio.open_connection(end.host, end.port, ssl=context)
            try:
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            finally:
                writer.transport.abort()
        return x509.load_der_x509_certificate(shown).not_valid_after_utc
    except (OSError, TimeoutError, ValueError, TypeError):
        return None


def words(until: datetime, now: datetime) -> str:
    """What is to be said of it; "" where it lasts long enough."""
    left = until - now
    if left >= ENOUGH:
        return ""
    when = f"ends in {left.days} days" if left > timedelta(0) else "has ended"
    return f"the broker's certificate {when}, at {until:%Y-%m-%d %H:%M} UTC: {RENEW}"


async def check(name: str, end: End, now: datetime) -> Check:
    until = await shown_until(end)
    seen = f"no certificate is shown at {end.host}:{end.port}" if until is None else words(until, now)
    return Check(f"{name}: the broker's certificate lasts for {ENOUGH.days} days more", ok=not seen, reason=seen)


class Watch:
    """Looks at every end once an hour. `warnings` is what there is to say, `ended` whether one has run out."""

    def __init__(self, ends: Mapping[str, End], clock: Callable[[], datetime]) -> None:
        self._ends = ends
        self._clock = clock
        self._until: dict[str, datetime] = {}

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EACH_S)

    async def look(self) -> None:
        """An end that shows nothing now keeps what it showed last: links and the doctor notice a broker that is away."""
        for name, end in self._ends.items():
            until = await shown_until(end)
            if until is not None:
                self._until[name] = until

    @property
    def warnings(self) -> list[str]:
        now = self._clock()
        said = {name: words(until, now) for name, until in self._until.items()}
        return [f"{name}: {text}" for name, text in said.items() if text]

    @property
    def ended(self) -> list[str]:
        now = self._clock()
        return [f"{name}: {words(until, now)}" for name, until in self._until.items() if until <= now]
