"""What a partner service is told when its request cannot be done: the codes and texts that its programs know.

Owns the table. The HTTP interface sends them as {"error": {"code", "text"}}; the command line shows the text.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    ADDRESS_LOCKED = 9
    EMAIL_UNKNOWN = 1414
    REQUIRED = 1426
    CHIPSET_LENGTH = 1427
    MAC_LENGTH = 1428
    ALREADY_LINKED = 1433
    VALUE_TAKEN = 1434
    ASSIGNED = 1435
    EMAIL_FORMAT = 1436
    # Of our own, in a range that theirs leaves free: 9 and the HTTP status that it would have elsewhere.
    NOT_TAKEN = 9400  # a request that cannot be read
    NOT_FOUND = 9404
    METHOD = 9405
    PURCHASE_RUNNING = 9409
    TOO_LARGE = 9413
    THROTTLED = 9429
    FAILED = 9500
    PROVIDER_REFUSED = 9502
    PROVIDER_UNREACHABLE = 9503
    PROVIDER_SILENT = 9504


class PartnerError(Exception):
    """A partner's request that is refused. `text` may name a parameter, never its value."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class TokenError(Exception):
    """The token is nobody's. There is nothing more to be said to whoever sent it."""


def required(parameter: str, why: str = "") -> PartnerError:
    return PartnerError(Code.REQUIRED, f"parameter is required: {parameter}" + (f" ({why})" if why else ""))


def taken(value: str) -> PartnerError:
    return PartnerError(Code.VALUE_TAKEN, f"record already exists for value: {value}")
