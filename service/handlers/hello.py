"""`hello`: a server nonce for a session. Stateless: no look-up, nothing stored, nothing said of whether one exists.

Pure. Source: docs/protocol.md, section 4.1.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from device_sdk.wire import keys, limits
from service.credentials.proofs import hmac_sha256
from service.errors import Secret
from service.protocol.schemas import Claim, Hello

# A nonce of a minute is good in the two after it, and one clock a little ahead is borne.
_MINUTES = (0, -1, -2, 1)


def fields(request: Hello, session: str, nonce_key: Secret, now: datetime) -> dict[str, object]:
    """The reply's fields."""
    seconds = int(now.timestamp())
    nonce = keys.server_nonce(
        nonce_key.reveal(), session, request.group_id, request.serial, request.nonce, seconds // 60, hmac_sha256
    )
    return {"server_nonce": nonce, "expires_s": limits.NONCE_EXPIRES_S, "time": seconds}


def is_fresh(claim: Claim, server_nonce: bytes, session: str, nonce_keys: Sequence[Secret], now: datetime) -> bool:
    """Whether we made this server nonce for exactly this session, group, serial and nonce, lately."""
    minute = int(now.timestamp()) // 60
    for key in nonce_keys:
        for ago in _MINUTES:
            made = keys.server_nonce(
                key.reveal(), session, claim.group_id, claim.serial, claim.nonce, minute + ago, hmac_sha256
            )
            if hmac.compare_digest(made, server_nonce):
                return True
    return False
