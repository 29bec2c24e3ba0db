"""How the demo reads its options."""

from __future__ import annotations

import pytest

from service.demo.options import RunningBroker, parse_broker, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("2MiB", 2 << 20), ("512 KiB", 512 << 10), ("4096", 4096), ("1MB", 1_000_000), ("1g", 1 << 30)]
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "2 miles", "1025MiB", "1.5MiB", "MiB"])
def test_a_size_that_is_none_or_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|image"):
        parse_size(text)


def test_a_broker_is_read_with_the_usual_port_where_none_is_given() -> None:
    assert parse_broker("mqtt://broker.example:2883") == RunningBroker("broker.example", 2883)
    assert parse_broker("mqtt://127.0.0.1") == RunningBroker("127.0.0.1", 1883)


@pytest.mark.parametrize(
    "text", ["broker:1883", "mqtts://broker", "mqtt://", "mqtt://user@host", "mqtt://h:99999", "mqtt://h/x"]
)
def test_what_is_no_plain_broker_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mqtt|port|Port"):
        parse_broker(text)
