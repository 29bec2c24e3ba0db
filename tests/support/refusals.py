"""What a refused operation says: its code and its cause."""

from __future__ import annotations

import pytest

from service.errors import ServiceError


async def refused(awaitable):
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value.code, caught.value.cause


def refused_now(call, *arguments, **options):
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **options)
    return caught.value.cause
