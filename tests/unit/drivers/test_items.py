"""Items of the warehouse as files: whole or absent, the wanted version, and the product's own check."""

from __future__ import annotations

import hashlib

import pytest

from device_sdk.core.ports import InstallError
from device_sdk.drivers.items import FileItems


def described(name: str, data: bytes, version: str = "1.0") -> dict:
    return {"name": name, "kind": "content", "version": version, "size": len(data), "sha256": _id(data)}


def _id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(items: FileItems, name: str, data: bytes, version: str = "1.0") -> None:
    items.begin(_id(data), len(data))
    items.write(0, data)
    items.sync()
    items.install(described(name, data, version), None)


def test_an_item_is_installed_in_place_of_any_other_version_and_may_be_installed_again(tmp_path) -> None:
    items = FileItems(tmp_path)
    put(items, "app", b"new", "2.1")
    put(items, "app", b"older", "1.9")
    items.install(described("app", b"older", "1.9"), None)
    assert (items.path("app").read_bytes(), items.version("app")) == (b"older", "1.9")
    assert items.version("none") is None


def test_the_next_download_leaves_what_is_installed_alone(tmp_path) -> None:
    items = FileItems(tmp_path)
    put(items, "app", b"first")
    items.begin(_id(b"other"), 5)
    items.write(0, b"other")
    assert items.path("app").read_bytes() == b"first"
    assert items.read(0, 5) == b"other"


def test_a_download_goes_on_after_a_restart_and_another_begins_from_nothing(tmp_path) -> None:
    first = FileItems(tmp_path)
    first.begin(_id(b"image"), 5)
    first.write(3, b"ge")
    first.sync()
    again = FileItems(tmp_path)
    again.begin(_id(b"image"), 5)
    assert again.read(0, 5) == b"\0\0\0ge"
    again.begin(_id(b"mages"), 5)
    assert again.read(0, 5) == bytes(5)


def test_a_secret_is_never_where_images_arrive_and_nobody_else_may_read_it(tmp_path) -> None:
    items = FileItems(tmp_path)
    items.install(described("wifi", b"secret"), b"secret")
    assert items.path("wifi").read_bytes() == b"secret"
    assert items.path("wifi").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "incoming").exists()


def test_names_with_dots_do_not_meet(tmp_path) -> None:
    items = FileItems(tmp_path)
    for name in ("a.new", "a", "a.b", "version"):
        put(items, name, name.encode())
    assert {name: items.path(name).read_bytes() for name in ("a.new", "a", "a.b", "version")} == {
        "a.new": b"a.new", "a": b"a", "a.b": b"a.b", "version": b"version",
    }  # fmt: skip


def test_the_products_command_says_whether_an_item_works(tmp_path) -> None:
    script = tmp_path / "check"
    script.write_text('#!/bin/sh\n[ "$1 $2" = "app 1.0" ] && grep -q good "$3"\n')
    script.chmod(0o700)
    items = FileItems(tmp_path / "items", check_command=str(script))
    put(items, "app", b"good")
    assert items.works(described("app", b"good"))
    put(items, "app", b"bad")
    assert not items.works(described("app", b"bad"))
    with pytest.raises(InstallError):
        FileItems(tmp_path / "items", check_command="/no/such/program").works(described("app", b"x"))
