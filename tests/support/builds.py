"""Builds on disk for tests: files, their description, and a release key that the database trusts."""

from __future__ import annotations

import json
from pathlib import Path

from service.operations import builds, manifests
from tests.support.storage import NOW, PRODUCT

IMAGE = bytes(range(256)) * 80  # 20 KiB: an image of its own
SECRET = b"the secret of the hall"
ITEMS = (
    ("app", "software", "2.1.0", IMAGE, ("runtime>=1.2",)),
    ("runtime", "software", "1.10", b"runtime" * 100, ()),
    ("menu", "content", "7", b"soup", ("app>=2",)),
    ("ca", "certificate", "1", b"-----BEGIN", ()),
    ("wifi", "secret", "3", SECRET, ()),
)


def write_build(folder: Path, items=ITEMS, name: str = "build.toml") -> Path:
    """A description and its files."""
    lines = []
    for item, kind, version, data, needs in items:
        (folder / f"{item}.bin").write_bytes(data)
        values = {"name": item, "kind": kind, "version": version, "file": f"{item}.bin", "needs": list(needs)}
        lines += ["[[item]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    path = folder / name
    path.write_text("\n".join(lines))
    return path


async def make(database, images, path, key, name="2030-07", **fields):
    """Signed and taken in."""
    parts = builds.read(path)
    given = {"product_id": PRODUCT.product_id, "static": False, "now": NOW}
    signatures = builds.sign(parts, key, product=PRODUCT.name)
    return await manifests.build(database, images, name=name, parts=parts, signatures=signatures, **{**given, **fields})
