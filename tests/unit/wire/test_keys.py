"""Proofs and derivations beside the vectors: another HMAC, bounds, comparison."""

from __future__ import annotations

import hmac

import pytest

from device_sdk.wire import frames, keys


def test_another_hmac_may_be_passed_and_gives_the_same():
    def fast(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha256")

    nonces = (b"n" * 16, b"s" * 16)
    assert keys.api_key(b"k" * 32, *nonces, "t", "c", fast) == keys.api_key(b"k" * 32, *nonces, "t", "c")
    assert keys.desired_mac(b"k", "t", "c", b"doc", fast) == keys.desired_mac(b"k", "t", "c", b"doc")
    assert keys.derive_key(b"g" * 64, "T-1", hmac=fast) == keys.derive_key(b"g" * 64, "T-1")


@pytest.mark.parametrize("length", [0, 255 * 32 + 1])
def test_hkdf_refuses_a_length_it_cannot_give(length):
    with pytest.raises(ValueError, match="HKDF"):
        keys.hkdf_sha256(b"k", b"s", b"i", length)


@pytest.mark.parametrize(
    ("left", "right", "equal"), [(b"ab", b"ab", True), (b"ab", b"ac", False), (b"a", b"ab", False)]
)
def test_same_compares(left, right, equal):
    assert keys.same(left, right) is equal


def test_the_largest_chunk_travels():
    data = bytes(65536)
    frame = frames.encode_chunk(1, 2, b"12345678", data, False)
    assert frames.decode_chunk(frame) == (1, 2, b"12345678", data, False)
