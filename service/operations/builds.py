"""A build: the files of a manifest on an operator's disk, described in one TOML file, and the signatures over them.

Needs no database: signing is done where the release key is, offline. manifests.py takes build and signatures into the
installation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_sdk.wire import ids, limits
from device_sdk.wire import manifest as rules
from service.domain.manifest import ItemKind, Need
from service.errors import Secret, ServiceError
from service.images.files import measure
from service.operations import releases
from service.operations.requests import bad_request

FORMAT = "firstlight manifest signatures 1"
MAX_FILE_BYTES = 256 * 1024  # of the description, and of the signatures
_NEED = re.compile(r"([A-Za-z0-9._-]{1,64}) *>= *([0-9.]{1,80})\Z")


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    kind: Literal["software", "content", "certificate", "secret"]
    version: str
    file: str  # beside the description
    needs: Annotated[tuple[str, ...], Field(strict=False)] = ()


class _Description(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    item: Annotated[tuple[_Entry, ...], Field(strict=False, min_length=1)]


@dataclass(frozen=True, slots=True)
class Part:
    """One item to be, its file measured."""

    name: str
    kind: ItemKind
    version: str
    path: Path
    size: int
    sha256: str
    needs: tuple[Need, ...] = ()

    @property
    def is_image(self) -> bool:
        """Over 16 KiB it is downloaded as an image of its own. A secret never is one before it is sealed for a device."""
        return self.kind is not ItemKind.SECRET and self.size > limits.MAX_INLINE_BYTES

    def message(self, product: str) -> bytes:
        needs = rules.needs_text([(one.name, one.at_least) for one in self.needs])
        return ids.item_message(product, self.name, self.kind.value, self.version, self.size, self.sha256, needs)


@dataclass(frozen=True, slots=True)
class Signed:
    key_id: str
    signature: bytes


Signatures = Mapping[str, Signed]  # by the item's name


def read(path: Path) -> tuple[Part, ...]:
    """The parts of a build in the order of its description; every file is read once. Raises ServiceError BAD_REQUEST."""
    try:
        described = _Description.model_validate(tomllib.loads(_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise bad_request("build_malformed", f"{path.name} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request("build_malformed", f"{path.name}: {where}: {first['msg']}") from error
    names = [one.name for one in described.item]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise bad_request("build_malformed", f"{path.name}: {twice[0]} stands there twice")
    return tuple(_part(one, path.parent) for one in described.item)


def sign(parts: tuple[Part, ...], key: Path, *, product: str, passphrase: Secret | None = None) -> dict[str, Signed]:
    """Sign every part for the product of that name. Raises ServiceError BAD_REQUEST."""
    key_id, signed = releases.signer(key, passphrase=passphrase)
    return {one.name: Signed(key_id, signed(one.message(product))) for one in parts}


def signatures_text(signatures: Signatures) -> str:
    """The signature file's content."""
    items = {
        name: {"key_id": one.key_id, "signature": base64.b64encode(one.signature).decode("ascii")}
        for name, one in signatures.items()
    }
    return json.dumps({"format": FORMAT, "items": items}, indent=2) + "\n"


def read_signatures(path: Path) -> dict[str, Signed]:
    """Their form is checked, not their truth. Raises ServiceError BAD_REQUEST."""
    malformed = f"{path.name} holds no signatures of a manifest"
    try:
        data = json.loads(_text(path))
        if data["format"] != FORMAT:
            raise bad_request("signature_malformed", malformed)
        return {
            str(name): Signed(str(one["key_id"]), base64.b64decode(one["signature"], validate=True))
            for name, one in data["items"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        if isinstance(error, ServiceError):
            raise
        raise bad_request("signature_malformed", malformed) from error


def content_of(part: Part) -> bytes:
    """The bytes of a part that is no image. Raises ServiceError: it is not what was measured."""
    try:
        with part.path.open("rb") as file:
            data = file.read(limits.MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise bad_request("build_unreadable", f"cannot read {part.path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise bad_request("build_changed", f"{part.path} has changed while it was read")
    return data


def _part(one: _Entry, folder: Path) -> Part:
    path = folder / one.file
    try:
        found = measure(path)
    except OSError as error:
        raise bad_request("build_unreadable", f"cannot read {path}: {error.strerror}") from error
    if one.kind == rules.SECRET and found.size > limits.MAX_SECRET_BYTES:
        raise bad_request("build_size", f"{one.name}: a secret has at most {limits.MAX_SECRET_BYTES} bytes")
    needs = tuple(_need(one.name, text) for text in one.needs)
    return Part(one.name, ItemKind(one.kind), one.version, path, found.size, found.image_id, needs)


def _need(name: str, text: str) -> Need:
    found = _NEED.match(text)
    if found is None:
        raise bad_request("build_malformed", f"{name}: {text[:80]!r} is no need; write NAME>=VERSION")
    return Need(found[1], found[2])


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise bad_request("build_unreadable", f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise bad_request("build_malformed", f"{path.name} is not UTF-8") from error
    if len(data) > MAX_FILE_BYTES:
        raise bad_request("build_malformed", f"{path.name} is far too long for what it should be")
    return text
