"""The whole image against its SHA-256, read back from where it will boot.

Owns the reading in steps, so that a large image does not stop the keep-alive. Runs on MicroPython.
"""

import binascii

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.context import Context
    from device_sdk.core.ports import Store

_PIECE_BYTES = 16 * 1024
_STEP_PIECES = 64  # 1 MiB: some milliseconds on a computer, about a second on a small controller


class ImageCheck:
    def __init__(self, context: "Context", image_id: str, size: int, store: "Store | None" = None) -> None:
        self._installer: Store = context.installer if store is None else store
        self._digest = binascii.unhexlify(image_id)
        self._hash = context.crypto.sha256_new()
        self._size = size
        self._offset = 0

    def step(self) -> "bool | None":
        """Read on; None while there is more, then whether the image is the right one."""
        for _ in range(_STEP_PIECES):
            length = min(_PIECE_BYTES, self._size - self._offset)
            if length == 0:
                break
            data = self._installer.read(self._offset, length)
            if len(data) != length:
                return False
            self._hash.update(data)
            self._offset += length
        if self._offset < self._size:
            return None
        return bool(self._hash.digest() == self._digest)
