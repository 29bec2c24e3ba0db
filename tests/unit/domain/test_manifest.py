"""What may stand in a manifest, and in which order it is installed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from device_sdk.wire import versions
from service.domain import manifest
from service.domain.manifest import Item, ItemKind, ItemReport, ItemState, ManifestError, Need
from service.errors import Secret
from tests.support.fake_link import START


def item(name: str, version: str = "1.0", *needs: tuple[str, str], **fields) -> Item:
    content = f"{name} {version}".encode()
    given = {"kind": ItemKind.CONTENT, "content": content, "size": len(content)}
    return Item(
        name=name, version=version, sha256=hashlib.sha256(content).hexdigest(), signature=bytes(64), key_id="0" * 32,
        needs=tuple(Need(*one) for one in needs), **{**given, **fields},
    )  # fmt: skip


def names(*items: Item) -> list[str]:
    return [one.name for one in manifest.build("tablet", "Tablet", "static", items).items]


def test_each_item_comes_after_all_that_it_needs() -> None:
    app, runtime, fonts = item("app", "1", ("runtime", "2.0"), ("fonts", "1")), item("runtime", "2.1"), item("fonts")
    assert names(app, fonts, runtime) == ["fonts", "runtime", "app"]


def test_items_that_need_nothing_keep_their_order() -> None:
    assert names(item("c"), item("a"), item("b")) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([item("app", "1", ("runtime", "2.0"))], "needs runtime, which is not in the manifest"),
        ([item("app", "1", ("runtime", "2.10")), item("runtime", "2.9")], "needs runtime>=2.10, the manifest has 2.9"),
        ([item("a", "1", ("b", "1")), item("b", "1", ("a", "1"))], "each waits for another: a, b"),
        ([item("a"), item("a", "2")], "stands there twice"),
        ([item("a", "1.x")], "is no version"),
        ([item("a/b")], "an item's name is"),
        ([], "1 to 40 items"),
        ([item(f"i{n}") for n in range(41)], "1 to 40 items"),
        ([item(f"i{n}-" + "x" * 60) for n in range(40)], "too many items"),
        ([item("a", size=16 * 1024 + 1)], "must be an image of its own"),
        ([item("a", size=0)], "has no bytes"),
        ([item("a", kind=ItemKind.SECRET)], "of kind secret only"),
        ([item("a", secret=Secret(b"s"))], "of kind secret only"),
        ([item("a", content=None, image_id="0" * 64)], "its image is another"),
    ],
)
def test_a_manifest_that_no_device_could_work_with_is_refused(items: list[Item], why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        manifest.build("tablet", "Tablet", "static", items)


def test_the_id_names_all_that_a_device_acts_on() -> None:
    first = manifest.build("tablet", "Tablet", "static", [item("a"), item("b")])
    assert first == manifest.build("tablet", "Tablet", "static", [item("a"), item("b")])
    for other in ([item("b"), item("a")], [item("a"), item("b", "2")], [item("a"), replace(item("b"), size=2)]):
        assert manifest.build("tablet", "Tablet", "static", other).manifest_id != first.manifest_id


def test_a_unit_is_done_when_every_item_works_in_its_very_version() -> None:
    wanted = manifest.build("tablet", "Tablet", "static", [item("a"), item("b", "2")])
    works = {name: ItemReport(name, version, ItemState.WORKING, START) for name, version in (("a", "1.0"), ("b", "2"))}
    assert manifest.all_work(wanted, works)
    for said in (replace(works["b"], version="1"), replace(works["b"], state=ItemState.INSTALLED)):
        assert manifest.not_working(wanted, {**works, "b": said}) == ("b",)
    assert manifest.not_working(wanted, {}) == ("a", "b")


@pytest.mark.parametrize(
    ("higher", "lower"), [("1.10", "1.2"), ("2", "1.9.9"), ("1.0.1", "1"), ("1.2.3", "1.2"), ("10", "9")]
)
def test_versions_are_compared_number_by_number(higher: str, lower: str) -> None:
    assert versions.at_least(higher, lower)
    assert not versions.at_least(lower, higher)


def test_missing_numbers_count_as_zero() -> None:
    assert versions.at_least("1", "1.0.0")
    assert versions.at_least("1.0.0", "1")


@pytest.mark.parametrize("text", ["", ".", "1.", ".1", "1..2", "v1", "-1", "1.2.3.4.5.6.7.8.9", "1" * 10, " 1", "١", 1])
def test_what_is_no_version(text: object) -> None:
    assert not versions.is_version(text)
