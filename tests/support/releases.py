"""Signatures by a test's release key, and versions made of them."""

from __future__ import annotations

from service.operations import releases, versions
from tests.support.storage import NOW, PRODUCT


def sign(image, key, **fields):
    given = {"product": PRODUCT.name, "hardware": PRODUCT.hardware, "name": "2.0", "seq": 2}
    return releases.sign(image, key, **{**given, **fields})


async def add(database, images, image, signature, **fields):
    given = {"product_id": PRODUCT.product_id, "name": "2.0", "image_path": image, "signature": signature, "now": NOW}
    return await versions.add(database, images, **{**given, **fields})
