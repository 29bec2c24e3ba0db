"""The golden vectors are what independent code computes, and what device_sdk.wire gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vectors import check, make

FOLDER = Path(make.__file__).parent
CHECKS = {
    "canon.json": check.check_canon,
    "keys.json": check.check_keys,
    "ids.json": check.check_ids,
    "frames.json": check.check_frames,
    "packer.json": check.check_packer,
}


@pytest.mark.parametrize("name", make.FILES)
def test_the_stored_vectors_are_what_the_standard_library_and_msgpack_compute(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == make.text_of(name)


@pytest.mark.parametrize("name", make.FILES)
def test_wire_agrees_with_the_vectors(name):
    assert CHECKS[name](check.read(str(FOLDER), name)) > 0


def test_a_vector_that_does_not_fit_is_noticed():
    vectors = check.read(str(FOLDER), "keys.json")
    vectors["activation"]["api_key"] = "0" * 64
    with pytest.raises(AssertionError):
        check.check_keys(vectors)
