"""Chunk frames and bitmaps: the binary part of the protocol.

Owns the 20-byte header, its check and the chunk arithmetic of an image. Source: docs/protocol.md, section "Chunk
streaming". Runs on MicroPython.
"""

import struct

try:
    from zlib import crc32
except ImportError:  # MicroPython has it elsewhere
    from binascii import crc32

from device_sdk.wire import limits

_HEADER = ">BBHI8sI"
LAST = 1


class FrameError(ValueError):
    """These bytes are no chunk: too short, of a wrong length or damaged."""


def encode_chunk(stream: int, index: int, prefix: bytes, data: bytes, last: bool) -> bytes:
    """One frame. `prefix` is the first 8 bytes of the image digest, `data` 1..65536 bytes."""
    return (
        struct.pack(_HEADER, LAST if last else 0, stream, len(data) - 1, index, prefix, crc32(data) & 0xFFFFFFFF) + data
    )


def decode_chunk(frame: bytes) -> "tuple[int, int, bytes, bytes, bool]":
    """(stream, index, prefix, data, last) of a frame whose length and CRC fit; raises FrameError otherwise."""
    if len(frame) <= limits.CHUNK_HEADER_BYTES:
        raise FrameError("short frame")
    flags, stream, length, index, prefix, crc = struct.unpack(_HEADER, frame[: limits.CHUNK_HEADER_BYTES])
    data = frame[limits.CHUNK_HEADER_BYTES :]
    if len(data) != length + 1:
        raise FrameError("wrong length")
    if crc32(data) & 0xFFFFFFFF != crc:
        raise FrameError("damaged data")
    return stream, index, prefix, data, bool(flags & LAST)


def is_chunk_size(size: int) -> bool:
    return limits.MIN_CHUNK_SIZE <= size <= limits.MAX_CHUNK_SIZE and size & (size - 1) == 0


def chunk_count(image_size: int, chunk_size: int) -> int:
    """How many chunks an image of at least 1 byte has."""
    return (image_size + chunk_size - 1) // chunk_size


def chunk_length(index: int, image_size: int, chunk_size: int) -> int:
    """Bytes in chunk `index`: chunk_size for every one but the last, the last the rest (1..chunk_size)."""
    return min(chunk_size, image_size - index * chunk_size)


def bitmap(first: int, indexes: "list[int]") -> bytes:
    """LSB-first bitmap, bit k = chunk first+k, over the given indexes (all >= first)."""
    out = bytearray((max(indexes) - first) // 8 + 1)
    for index in indexes:
        k = index - first
        out[k // 8] |= 1 << (k % 8)
    return bytes(out)


def bitmap_indexes(first: int, bits: bytes) -> "list[int]":
    """The chunk indexes that a bitmap asks for, rising."""
    return [first + k for k in range(len(bits) * 8) if bits[k // 8] >> (k % 8) & 1]
