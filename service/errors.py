"""The one error that carries a protocol code, and the type that hides a secret.

Owns ServiceError and Secret, used everywhere below the edge. The table from error to wire stands in protocol/encode.
"""

from __future__ import annotations

import hmac


class ServiceError(Exception):
    """A refusal with a documented code.

    `public` is sent; `detail` is the true cause, logged and traced, never sent. `cause` names the counter of this
    refusal (lower-case words joined by `_`). `retry_after_s` is sent when set; `state` rides along with CONFLICT,
    `enos_code` with what operators are told of a replacement.
    """

    def __init__(
        self,
        code: str,
        public: str,
        *,
        cause: str,
        detail: str = "",
        retry_after_s: int | None = None,
        state: dict[str, object] | None = None,
        enos_code: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {public}")
        self.code = code
        self.public = public
        self.cause = cause
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.state = state
        self.enos_code = enos_code


class Secret:
    """Bytes that never show in a repr, a log line or a comparison's timing."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def reveal(self) -> bytes:
        return self._raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(Secret)

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")
