"""Log lines: their form, and that no secret gets into one."""

from __future__ import annotations

import io
import json
import logging

import pytest

from service.errors import Secret
from service.telemetry import JsonFormatter, MaskFilter, TextFormatter

KEY = bytes(range(40, 72))


@pytest.fixture
def log():
    """(logger, lines): a logger of its own, so that tests do not meet in the root logger."""
    made = []

    def at(form):
        stream = io.StringIO()
        mask = MaskFilter([Secret(KEY)])
        handler = logging.StreamHandler(stream)
        handler.addFilter(mask)
        handler.setFormatter(form(mask))
        logger = logging.getLogger(f"test.{len(made)}.{id(stream)}")
        logger.propagate = False
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        made.append(logger)
        return logger, lambda: stream.getvalue().splitlines()

    yield at
    for logger in made:
        logger.handlers.clear()


def test_a_json_line_carries_the_trace_and_other_fields(log) -> None:
    logger, lines = log(JsonFormatter)
    logger.info("activated", extra={"trace": "0123456789abcdef", "count": 2})
    line = json.loads(lines()[0])
    assert line["message"] == "activated"
    assert (line["trace"], line["count"], line["level"]) == ("0123456789abcdef", 2, "info")
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("form", [JsonFormatter, TextFormatter])
def test_secrets_and_bytes_never_show(log, form) -> None:
    logger, lines = log(form)
    logger.info("args %s %r %s", Secret(KEY), KEY, {"key": KEY})
    logger.info("extra", extra={"payload": KEY, "nested": [KEY]})
    logger.info("in a library's text: %s", f"password={KEY.hex()}")
    try:
        raise ValueError(KEY.hex())
    except ValueError:
        logger.exception("failed")
    text = "\n".join(lines())
    assert KEY.hex() not in text
    assert KEY.decode("ascii") not in text
    assert repr(KEY)[2:-1] not in text
    assert "***" in text
    assert "<32 bytes>" in text


def test_what_a_peer_sends_cannot_begin_a_line_of_its_own(log) -> None:
    logger, lines = log(TextFormatter)
    logger.warning("serial %s", "a\n2026-01-01T00:00:00.000Z info    forged\x1b[2J")
    assert len(lines()) == 1
    assert "\x1b" not in lines()[0]


def test_a_long_field_is_cut(log) -> None:
    logger, lines = log(JsonFormatter)
    logger.info("%s", "x" * 10_000)
    assert len(lines()[0]) < 1000
