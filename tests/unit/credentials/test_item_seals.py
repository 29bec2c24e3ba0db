"""The sealed form of a secret item: what AES-GCM makes of it, read by any range, and never twice the same nonce."""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.wire import keys
from service.credentials.item_seals import ItemSeals
from service.domain.manifest import ItemKind
from service.errors import Secret
from tests.support.staged_peer import item

K = Secret(b"k" * 32)
PLAIN = random.Random(1).randbytes(16 * 1024 + 5)


def secret(data: bytes, name: str = "vault", version: str = "3"):
    return item(name, data, ItemKind.SECRET, version, content=None, secret=Secret(data))


VAULT = secret(PLAIN)
WHOLE = ItemSeals().whole(K, VAULT)


def test_the_sealed_form_is_aes_gcm_under_the_key_of_this_device_and_item():
    key = keys.item_key(K.reveal(), "vault", "3")
    assert AESGCM(key).decrypt(WHOLE[:12], WHOLE[12:], None) == PLAIN
    assert ItemSeals().whole(Secret(b"l" * 32), VAULT) != WHOLE


@given(st.integers(0, len(WHOLE) + 40), st.integers(0, len(WHOLE) + 40))
def test_any_range_of_an_image_is_that_of_the_whole(offset, length):
    assert SEALED.read(offset, length) == WHOLE[offset : offset + length]


SEALED = ItemSeals().image(K, VAULT)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096, 4097])
def test_an_image_of_any_size_is_the_whole(size):
    one = secret(PLAIN[:size])
    sealed = ItemSeals().image(K, one)
    whole = ItemSeals().whole(K, one)
    assert (sealed.size, sealed.image_id) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert b"".join(sealed.read(at, 7) for at in range(0, sealed.size, 7)) == whole


def test_what_is_remembered_is_bounded_and_asked_again_the_same():
    seals = ItemSeals(bound=2)
    items = [secret(PLAIN[:size]) for size in (1, 2, 3)]
    first = [seals.image(K, one) for one in items]
    assert len(seals._known) == 2
    assert [seals.image(K, one) for one in items] == first
    assert seals.image(Secret(b"l" * 32), items[0]).image_id != first[0].image_id


def test_neither_key_nor_secret_shows():
    assert "***" in repr(SEALED)
    assert "kkkk" not in repr(SEALED)
