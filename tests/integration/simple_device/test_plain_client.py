"""The plain client, written from docs/protocol.md alone, against a real service."""

from __future__ import annotations

import hashlib
import hmac
import ssl

import pytest

from service.domain.credential import CredentialState
from service.domain.device import DeviceState, FirmwareState
from tests.integration.simple_device.conftest import GROUP, IMAGE, Place
from tests.support.plain_client import PlainDevice, RefusedError


def plain_device(place: Place, serial: str) -> PlainDevice:
    key = hmac.new(place.secret, serial.encode(), hashlib.sha256).digest()
    tls = ssl.create_default_context(cafile=place.ca_file) if place.ca_file else None
    return PlainDevice(GROUP, serial, key, tls=tls)


def test_a_plain_device_goes_from_power_up_to_confirmed_firmware(place: Place) -> None:
    device = plain_device(place, "P-0")
    version = device.first_day(place.host, place.port)
    assert version["name"] == "2.0"
    assert version["description"] == "Second release"
    assert device.image == IMAGE
    device.link.close()
    stored = place.device("P-0")
    assert stored.state is DeviceState.CONFIRMED
    assert stored.firmware.state is FirmwareState.CONFIRMED
    assert stored.firmware.version_id == version["version_id"]
    assert [one.state for one in stored.credentials] == [CredentialState.CONFIRMED]


def test_a_plain_device_gives_its_thing_a_new_name(place: Place) -> None:
    device = plain_device(place, "P-1")
    device.activate(place.host, place.port)
    device.connect()
    with pytest.raises(RefusedError, match="FORBIDDEN"):
        device.rename("Too early: the credential is pending")
    assert device.current() is None
    assert device.rename("Boiler room") == "Boiler room"
    device.link.close()
    thing = place.device("P-1").thing
    assert thing is not None
    assert thing.name == "Boiler room"


def test_chunks_that_are_lost_are_asked_for_again_by_bitmap(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    device = plain_device(place, "P-2")
    device.activate(place.host, place.port)
    device.connect()
    assert device.current() is None
    asked, lost, store, fetch = [], set(), PlainDevice._store, PlainDevice._fetch

    def lossy(image: bytearray, frame: bytes, digest: bytes) -> int | None:
        index = int.from_bytes(frame[4:8], "big")
        if index in (0, 5, 63, 170) and index not in lost:
            lost.add(index)
            return None
        return store(image, frame, digest)

    def noted(self: PlainDevice, digest: bytes, stream: int, first: int, **which: object) -> None:
        asked.append(next(iter(which)))
        fetch(self, digest, stream, first, **which)

    monkeypatch.setattr(PlainDevice, "_store", staticmethod(lossy))
    monkeypatch.setattr(PlainDevice, "_fetch", noted)
    assert device.download(device.target(), silence_s=0.3) == IMAGE
    device.link.close()
    assert lost == {0, 5, 63, 170}
    assert "bitmap" in asked


def test_a_wrong_key_and_an_unknown_serial_are_refused_alike(place: Place) -> None:
    wrong, unknown = PlainDevice(GROUP, "P-3", bytes(32)), plain_device(place, "P-unknown")
    for device in (wrong, unknown):
        with pytest.raises(RefusedError) as refused:
            device.activate(place.host, place.port)
        assert refused.value.args == ("REFUSED", "refused")
    assert place.device("P-3").state is DeviceState.REGISTERED


def test_a_version_that_the_product_does_not_have_is_not_found(place: Place) -> None:
    device = plain_device(place, "P-4")
    device.activate(place.host, place.port)
    device.connect()
    with pytest.raises(RefusedError, match="NOT_FOUND"):
        device.installed("0" * 32)
    device.link.close()


@pytest.mark.mosquitto
def test_a_plain_device_goes_the_whole_way_on_mosquitto_with_tls(tls_place: Place) -> None:
    device = plain_device(tls_place, "P-0")
    assert device.first_day(tls_place.host, tls_place.port)["name"] == "2.0"
    assert device.image == IMAGE
    device.link.close()
    assert tls_place.device("P-0").firmware.state is FirmwareState.CONFIRMED
