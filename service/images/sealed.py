"""Images that are on no disk beside those that are: what is made for one device alone, as it is read.

Owns which of them are being streamed, the longest unused of which are forgotten: whoever still wants one asks again, and
the rules name it again. Who may have an image is not asked here. Sits between the streamer's pages and images/files.py.
"""

from __future__ import annotations

from collections import OrderedDict

from service.images.pages import Files, OpenImage

MAX_KEPT = 4096  # each a few hundred bytes; the secret in it is shared by all


class WithSealed:
    """The files, and what is kept here by its id."""

    def __init__(self, files: Files, bound: int = MAX_KEPT) -> None:
        self._files = files
        self._bound = bound
        self._kept: OrderedDict[str, OpenImage] = OrderedDict()

    def keep(self, image_id: str, image: OpenImage) -> None:
        """It can be opened until `bound` others have come."""
        self._kept[image_id] = image
        self._kept.move_to_end(image_id)
        if len(self._kept) > self._bound:
            self._kept.popitem(last=False)

    def open(self, image_id: str) -> OpenImage:
        """Raises ServiceError IMAGE_UNKNOWN."""
        return self._kept.get(image_id) or self._files.open(image_id)
