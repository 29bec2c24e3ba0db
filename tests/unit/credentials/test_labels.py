"""The text of a label: what comes back, and what is refused as damaged, altered or another installation's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.credentials import labels
from service.credentials.labels import LabelText
from service.errors import Secret, ServiceError

KEY, OTHER = Secret(b"\x11" * 31 + b"\x12"), Secret(b"\x21" * 31 + b"\x12")
LABEL = LabelText(Secret(bytes(range(12))), "line-1", "SN_0001:a", datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))
GROUPS = st.text("ABCxyz019._-", min_size=1, max_size=64)
SERIALS = st.text("ABCxyz019._:-", min_size=1, max_size=128)


def cause(text: str, key: Secret = KEY) -> tuple[str, str]:
    with pytest.raises(ServiceError) as caught:
        labels.decode(text, key)
    return caught.value.code, caught.value.cause


@given(GROUPS, SERIALS, st.binary(min_size=12, max_size=12), st.integers(0, 2**33))
def test_what_is_printed_is_what_is_read(group, serial, code, expires):
    label = LabelText(Secret(code), group, serial, datetime.fromtimestamp(expires, UTC))
    text = labels.encode(label, KEY)
    assert len(text) <= labels.MAX_TEXT_CHARS
    assert labels.decode(f" {text.lower()}\r\n", KEY) == label


def test_a_label_has_only_the_characters_that_a_qr_code_holds_densely():
    assert set(labels.encode(LABEL, KEY)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:")


def test_a_label_cut_anywhere_is_refused():
    text = labels.encode(LABEL, KEY)
    assert {cause(text[:length])[0] for length in range(len(text))} == {"BAD_REQUEST"}
    assert cause(text[:-1])[1] == "label_altered"


def test_a_label_with_any_letter_changed_is_refused():
    text = labels.encode(LABEL, KEY)
    for at in range(len(labels.PREFIX), len(text)):
        for letter in "A7":
            if text[at] != letter:
                found = cause(text[:at] + letter + text[at + 1 :])
                assert found in {("BAD_REQUEST", "label_altered"), ("BAD_REQUEST", "label_foreign")}


def test_a_label_of_another_installation_is_called_that():
    assert cause(labels.encode(LABEL, OTHER)) == ("BAD_REQUEST", "label_foreign")


@given(st.text(max_size=500) | st.text("FL1:ABCDEFG234567=", max_size=120).map(lambda text: "FL1:" + text))
def test_any_other_text_is_refused_in_a_documented_way(text):
    assert cause(text)[1] in {"label_malformed", "label_altered", "label_foreign"}


def test_neither_the_id_nor_the_repr_shows_the_code():
    assert LABEL.code.reveal().hex() not in LABEL.label_id
    assert "***" in repr(LABEL)
    assert LABEL.code.reveal().hex() not in repr(LABEL)
