"""Label sheets: the same labels as PDF, SVG, PNG or CSV.

Owns how a page looks and nothing of what a label means. One drawing serves every format: squares of the QR code and
lines of text, in millimetres from the top left. No file is left half written.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape

import segno

from service.operations.requests import bad_request

MM_PER_INCH = 25.4
POINTS_PER_MM = 72 / MM_PER_INCH
PNG_DPI = 300
QUIET_MODULES = 4  # Source: ISO/IEC 18004, 6.3.8
FONT_PT = 8.0
LINE_MM = 3.6
CHAR_MM = 1.7  # width of a character of the fixed-width font at 8 points
EDGE_MM = 5.0  # at the right of a label: few printers reach the edge of the paper
MAX_LINES = 9  # of one label
FORMATS = ("pdf", "svg", "png", "csv")


@dataclass(frozen=True, slots=True)
class Layout:
    """Labels on a page, in millimetres; columns and rows fill it from its margins."""

    columns: int
    rows: int
    label: tuple[float, float]  # width, height
    margin: tuple[float, float]  # left, top
    page: tuple[float, float] = (210.0, 297.0)

    @property
    def labels(self) -> int:
        return self.columns * self.rows


LAYOUTS = {
    "70x37": Layout(3, 8, (70.0, 37.0), (0.0, 0.5)),
    "99x68": Layout(2, 4, (99.1, 67.7), (4.65, 13.1)),
    "105x148": Layout(2, 2, (105.0, 148.5), (0.0, 0.0)),
}


@dataclass(frozen=True, slots=True)
class PrintedLabel:
    """One label as it goes on paper. `key` is a device key in base64: in a CSV for the factory only, never on a sheet."""

    text: str
    group_id: str
    serial: str
    batch: str
    expires_at: datetime
    key: str | None = field(default=None, repr=False)

    def without_key(self) -> PrintedLabel:
        return replace(self, key=None)


@dataclass(frozen=True, slots=True)
class _Square:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Words:
    x: float
    y: float  # of the baseline
    text: str


Shape = _Square | _Words


def write(labels: Sequence[PrintedLabel], out: Path, layout: Layout) -> list[Path]:
    """Write the labels in the format that `out` ends with; returns the files.

    PDF and CSV are one file; SVG and PNG have one a page, `labels.png`, `labels-2.png`, ... Files are readable by their
    owner only, because whoever has a label may claim its serial. Raises ServiceError BAD_REQUEST for another ending or
    a file that cannot be written.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise bad_request("labels_format", f"--out ends in {', '.join('.' + one for one in FORMATS)}")
    if kind == "csv":
        return [_save(out, _csv(labels))]
    pages = [labels[at : at + layout.labels] for at in range(0, len(labels), layout.labels)]
    if kind == "pdf":
        return [_save(out, _pdf(pages, layout))]
    draw: Callable[[Sequence[PrintedLabel], Layout], bytes] = _svg if kind == "svg" else _png
    names = [out if number == 1 else out.with_stem(f"{out.stem}-{number}") for number in range(1, len(pages) + 1)]
    return [_save(name, draw(page, layout)) for name, page in zip(names, pages, strict=True)]


def _page(labels: Sequence[PrintedLabel], layout: Layout) -> Iterator[Shape]:
    width, height = layout.label
    for position, label in enumerate(labels):
        row, column = divmod(position, layout.columns)
        yield from _label(label, layout.margin[0] + column * width, layout.margin[1] + row * height, width, height)


def _label(label: PrintedLabel, x: float, y: float, width: float, height: float) -> Iterator[Shape]:
    """The code at the left (above, on a tall label), the words beside it (below)."""
    tall = height > width
    side = min(width - 6, height * 0.6) if tall else min(height - 4, width * 0.5)
    code_x, code_y = x + (width - side) / 2 if tall else x + 2, y + 2
    yield from _code(label.text, code_x, code_y, side)
    text_x, text_y = (x + 5, y + side + 6) if tall else (x + side + 3, y + 6)
    per_line = max(8, int((x + width - EDGE_MM - text_x) / CHAR_MM))
    for number, line in enumerate(_lines(label, per_line)):
        yield _Words(text_x, text_y + number * LINE_MM, line)


def _lines(label: PrintedLabel, per_line: int) -> list[str]:
    """Group and serial, shortened where they are very long; then batch and expiry, which stay."""
    names = [line for word in (label.group_id, label.serial) for line in _wrapped(word, per_line)]
    rest = ["", f"batch {label.batch}"[:per_line], f"until {label.expires_at.astimezone(UTC):%Y-%m-%d}"]
    room = MAX_LINES - len(rest)
    if len(names) > room:
        names = [*names[: room - 1], names[room - 1][: per_line - 3] + "..."]
    return names + rest


def _wrapped(word: str, per_line: int) -> list[str]:
    return [word[at : at + per_line] for at in range(0, len(word), per_line)]


def _code(text: str, x: float, y: float, side: float) -> Iterator[_Square]:
    """The dark modules, run by run, within a quiet zone that belongs to `side`."""
    matrix = segno.make(text, error="m", micro=False, boost_error=False).matrix
    module = side / (len(matrix) + 2 * QUIET_MODULES)
    for row, modules in enumerate(matrix):
        start = None
        for column in range(len(modules) + 1):
            dark = column < len(modules) and modules[column]
            if dark and start is None:
                start = column
            elif not dark and start is not None:
                yield _Square(
                    x + (QUIET_MODULES + start) * module,
                    y + (QUIET_MODULES + row) * module,
                    (column - start) * module,
                    module,
                )
                start = None


def _pdf(pages: Sequence[Sequence[PrintedLabel]], layout: Layout) -> bytes:
    from reportlab.pdfgen.canvas import Canvas  # noqa: PLC0415 - 0.3 s that only sheets need

    def points(mm: float) -> float:
        return mm * POINTS_PER_MM

    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(points(layout.page[0]), points(layout.page[1])), pageCompression=1, invariant=1)
    canvas.setTitle("Firstlight labels")
    for page in pages:
        canvas.setFont("Courier", FONT_PT)
        path = canvas.beginPath()
        for shape in _page(page, layout):
            below = layout.page[1] - shape.y
            if isinstance(shape, _Square):
                path.rect(points(shape.x), points(below - shape.height), points(shape.width), points(shape.height))
            else:
                canvas.drawString(points(shape.x), points(below), shape.text)
        canvas.drawPath(path, stroke=0, fill=1)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _svg(page: Sequence[PrintedLabel], layout: Layout) -> bytes:
    width, height = layout.page
    squares, words = [], []
    for shape in _page(page, layout):
        if isinstance(shape, _Square):
            squares.append(f"M{shape.x:.3f} {shape.y:.3f}h{shape.width:.3f}v{shape.height:.3f}h-{shape.width:.3f}z")
        elif shape.text:
            words.append(f'<text x="{shape.x:.2f}" y="{shape.y:.2f}">{escape(shape.text)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}mm" height="{height}mm" viewBox="0 0 {width} {height}">',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            f'<path d="{"".join(squares)}"/>',
            f'<g font-family="Courier, monospace" font-size="{FONT_PT / POINTS_PER_MM:.3f}">{"".join(words)}</g>',
            "</svg>",
            "",
        ]
    ).encode()


def _png(page: Sequence[PrintedLabel], layout: Layout) -> bytes:
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    scale = PNG_DPI / MM_PER_INCH
    image = Image.new("L", (round(layout.page[0] * scale), round(layout.page[1] * scale)), 255)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_PT * PNG_DPI / 72)
    for shape in _page(page, layout):
        left, top = shape.x * scale, shape.y * scale
        if isinstance(shape, _Square):
            right, bottom = (shape.x + shape.width) * scale, (shape.y + shape.height) * scale
            draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=0)
        else:
            draw.text((left, top), shape.text, fill=0, font=font, anchor="ls")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", dpi=(PNG_DPI, PNG_DPI))
    return buffer.getvalue()


def _csv(labels: Sequence[PrintedLabel]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    with_keys = any(label.key is not None for label in labels)
    writer.writerow(["label", "group", "serial", "batch", "expires_at", *(["key"] if with_keys else [])])
    for one in labels:
        row = [one.text, one.group_id, one.serial, one.batch, one.expires_at.astimezone(UTC).isoformat()]
        writer.writerow([*row, *([one.key or ""] if with_keys else [])])
    return buffer.getvalue().encode()


def _save(path: Path, data: bytes) -> Path:
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise bad_request("labels_unwritable", f"cannot write {path}: {error.strerror}") from error
    return path
