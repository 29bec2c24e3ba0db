"""What packb refuses to send."""

from __future__ import annotations

import pytest

from device_sdk.wire import limits
from device_sdk.wire.packer import PackError, packb, unpackb


@pytest.mark.parametrize(
    "value",
    [
        -1,
        limits.MAX_INT + 1,
        float("nan"),
        float("inf"),
        float("-inf"),
        {1: 2},
        {b"a": 1},
        {"a": object},
        {1, 2},
        "\ud800",
        [[[[[[[[[1]]]]]]]]],
    ],
    ids=repr,
)
def test_what_the_protocol_does_not_allow_cannot_be_packed(value):
    with pytest.raises(PackError):
        packb(value)


def test_the_bounds_themselves_can():
    assert unpackb(packb(limits.MAX_INT)) == limits.MAX_INT
    assert unpackb(packb([[[[[[[[1]]]]]]]])) == [[[[[[[[1]]]]]]]]


def test_tuples_and_views_arrive_as_lists_and_bytes():
    assert unpackb(packb((1, bytearray(b"a"), memoryview(b"b")))) == [1, b"a", b"b"]
