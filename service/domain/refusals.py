"""The refusals that the rules of a device's life share. Owns no rule; values only."""

from __future__ import annotations

from device_sdk.wire import codes
from service.errors import ServiceError


def conflict(cause: str, public: str, *, enos_code: int | None = None) -> ServiceError:
    return ServiceError(codes.CONFLICT, public, cause=cause, enos_code=enos_code)


def not_found(cause: str, public: str, *, enos_code: int | None = None) -> ServiceError:
    return ServiceError(codes.NOT_FOUND, public, cause=cause, enos_code=enos_code)


def forbidden(cause: str, public: str) -> ServiceError:
    return ServiceError(codes.FORBIDDEN, public, cause=cause)
