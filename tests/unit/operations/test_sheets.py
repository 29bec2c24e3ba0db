"""From a printed sheet back to the codes, with a real QR decoder."""

from __future__ import annotations

import base64
import csv
import re
import stat
import zlib
from datetime import UTC, datetime

import pytest
import zxingcpp
from PIL import Image, ImageDraw

from service.credentials import labels
from service.credentials.labels import LabelText
from service.errors import Secret, ServiceError
from service.operations import sheets
from service.operations.sheets import LAYOUTS, PrintedLabel

KEY = Secret(b"\x11" * 31 + b"\x12")
EXPIRES = datetime(2031, 2, 3, tzinfo=UTC)
LONGEST = ("g" * 64, "S" * 128)
NAMES = [("plant-7", f"TH-{number:06d}") for number in range(25)] + [LONGEST]
DPI = 300


def printed(group_id, serial, number=0, **more):
    text = LabelText(Secret(number.to_bytes(12, "big")), group_id, serial, EXPIRES)
    return PrintedLabel(labels.encode(text, KEY), group_id, serial, "B42", EXPIRES, **more)


LABELS = [printed(*name, number) for number, name in enumerate(NAMES)]


def scanned(image):
    """What a scanner reads on this page: the serials of every label that it finds, each text checked."""
    return {labels.decode(found.text, KEY).serial for found in zxingcpp.read_barcodes(image)}


def drawn(rectangles, page_mm=(210.0, 297.0)):
    """A picture of rectangles given in millimetres from the top left."""
    scale = DPI / 25.4
    image = Image.new("L", tuple(round(side * scale) for side in page_mm), 255)
    draw = ImageDraw.Draw(image)
    for x, y, width, height in rectangles:
        edges = x, y, x + width, y + height
        left, top, right, bottom = (round(edge * scale) for edge in edges)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=0)
    return image


def pdf_pages(data):
    """The filled rectangles of each page, as its own content stream says them."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)
    for stream in streams:
        content = zlib.decompress(base64.a85decode(stream.strip().removesuffix(b"~>")))
        found = re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) re", content)
        mm = [[float(value) * 25.4 / 72 for value in values] for values in found]
        yield [(x, 297.0 - y - height, width, height) for x, y, width, height in mm]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_label_of_a_png_sheet_is_read_back(tmp_path, layout):
    some = LABELS[: LAYOUTS[layout].labels - 1] + LABELS[-1:]
    (path,) = sheets.write(some, tmp_path / "labels.png", LAYOUTS[layout])
    with Image.open(path) as image:
        assert image.size == (2480, 3508)  # A4 at 300 dots an inch
        assert scanned(image) == {one.serial for one in some}


def test_every_label_of_a_pdf_sheet_is_read_back(tmp_path):
    (path,) = sheets.write(LABELS, tmp_path / "labels.pdf", LAYOUTS["70x37"])
    pages = list(pdf_pages(path.read_bytes()))
    assert len(pages) == 2
    assert [len(scanned(drawn(page))) for page in pages] == [24, 2]
    assert set().union(*(scanned(drawn(page)) for page in pages)) == {one.serial for one in LABELS}


def test_every_label_of_an_svg_sheet_is_read_back(tmp_path):
    paths = sheets.write(LABELS, tmp_path / "labels.svg", LAYOUTS["70x37"])
    assert [path.name for path in paths] == ["labels.svg", "labels-2.svg"]
    found = set()
    for path in paths:
        runs = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)h-", path.read_text())
        found |= scanned(drawn([tuple(map(float, run)) for run in runs]))
    assert found == {one.serial for one in LABELS}


def test_a_sheet_also_says_in_words_what_its_labels_are_for(tmp_path):
    (path,) = sheets.write(LABELS[:1], tmp_path / "labels.svg", LAYOUTS["70x37"])
    words = re.findall(r"<text[^>]*>([^<]*)<", path.read_text())
    assert words == ["plant-7", "TH-000000", "batch B42", "until 2031-02-03"]


def test_a_csv_has_every_label_and_keys_only_where_there_are_some(tmp_path):
    (path,) = sheets.write(LABELS, tmp_path / "labels.csv", LAYOUTS["70x37"])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["label"] for row in rows] == [one.text for one in LABELS]
    assert set(rows[0]) == {"label", "group", "serial", "batch", "expires_at"}
    (path,) = sheets.write([printed("g", "s", key="S0VZ")], tmp_path / "keys.csv", LAYOUTS["70x37"])
    assert [row["key"] for row in csv.DictReader(path.read_text().splitlines())] == ["S0VZ"]


def test_a_device_key_is_on_no_sheet(tmp_path):
    secret = printed("g", "s", key="VEhFLUtFWQ==")
    for kind in ("svg", "pdf"):
        (path,) = sheets.write([secret], tmp_path / f"labels.{kind}", LAYOUTS["70x37"])
        assert b"VEhFLUtFWQ" not in path.read_bytes()
    assert "VEhFLUtFWQ" not in repr(secret)


def test_labels_are_readable_by_their_owner_only(tmp_path):
    (path,) = sheets.write(LABELS[:1], tmp_path / "labels.csv", LAYOUTS["70x37"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("name", "cause"), [("labels.doc", "labels_format"), ("none/labels.pdf", "labels_unwritable")])
def test_an_unknown_format_and_an_unwritable_file_are_refused(tmp_path, name, cause):
    with pytest.raises(ServiceError) as caught:
        sheets.write(LABELS[:1], tmp_path / name, LAYOUTS["70x37"])
    assert (caught.value.code, caught.value.cause) == ("BAD_REQUEST", cause)
    assert list(tmp_path.iterdir()) == []
