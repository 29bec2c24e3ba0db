"""Which files that lie there can be read only with a certain key of ours.

Owns the look at inbox, outbox and work before a key is retired. Decrypts nothing: a file names those it is encrypted to,
and its signature who has signed it, by issuer and serial number; ours have random serial numbers of 20 bytes, so that
these bytes stand in it or the file is none for that key. Blocks; callers run it in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from cryptography import x509

from service.credentials.cms import MAX_SIGNATURE_BYTES, SIGNATURE_SUFFIXES

HEAD_BYTES = 64 * 1024  # recipients stand before the content
_WHERE = ("inbox/*", "outbox/*", "work/*/*")


def needing(root: Path, key: x509.Certificate, others: Collection[x509.Certificate]) -> list[str]:
    """Names below `root` of the files that need this key: no other of ours reads them, or it has signed them for us.

    What is encrypted to nobody of us lies there for a platform, and needs none of our keys to be read.
    """
    mine, theirs = _name_of(key), [_name_of(one) for one in others]
    found = []
    for path in _files(root):
        head = _head(path, HEAD_BYTES)
        reads = any(one in head for one in theirs)
        signed = any(
            mine in _head(path.with_name(path.name + suffix), MAX_SIGNATURE_BYTES) for suffix in SIGNATURE_SUFFIXES
        )
        if (mine in head and not reads) or (signed and (mine in head or reads)):
            found.append(str(path.relative_to(root)))
    return found


def _files(root: Path) -> Iterator[Path]:
    """Whatever their names are: one may be on its way to be renamed."""
    for where in _WHERE:
        for folder in sorted(root.glob(where)):
            if folder.is_dir():
                yield from (one for one in sorted(folder.iterdir()) if one.suffix not in SIGNATURE_SUFFIXES)


def _head(path: Path, most: int) -> bytes:
    """What a platform takes away again, or what is no file, has none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read(most) if stat.S_ISREG(os.fstat(handle).st_mode) else b""


def _name_of(certificate: x509.Certificate) -> bytes:
    """The bytes of its serial number as they stand in DER."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 8) // 8, "big")
