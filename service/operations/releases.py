"""Release keys and signatures. Making a key and signing need no database: the release key lives offline.

Owns the signature file (JSON) and the register of public release keys. A release key says what may run; no service
ever needs its private part.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from sqlalchemy import ColumnElement, insert, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from device_sdk.wire import ids, limits
from service.domain.desired import MAX_TRUSTED
from service.domain.product import Endorsement, ReleaseKey
from service.errors import Secret, ServiceError
from service.images.files import measure
from service.operations import endorsing
from service.operations.requests import (
    MAX_TEXT_CHARS,
    bad_request,
    check_text,
    conflict,
    not_found,
    raise_catalogue_rev,
)
from service.storage import manifest_queries
from service.storage.database import Database
from service.storage.rows import from_ms, to_ms
from service.storage.tables import ou, product, registration_group, release_key, thing, version
from service.whole_files import create_whole

FORMAT = "firstlight release signature 1"
MAX_FILE_BYTES = 64 * 1024
MAX_TARGETS_TOLD = 20  # of each kind of owner


@dataclass(frozen=True, slots=True)
class PublicReleaseKey:
    key_id: str
    public_key: bytes  # 32 raw bytes
    pem: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A registered release key; trusted as long as `retired_at` is None."""

    key_id: str
    public_key: bytes  # 32 raw bytes
    name: str
    added_at: datetime | None
    retired_at: datetime | None
    endorsed_by: tuple[str, ...] = ()  # key ids


@dataclass(frozen=True, slots=True)
class Signature:
    """What a release key has signed; the file beside an image holds this as JSON."""

    product: str
    hardware: str
    name: str
    seq: int
    image_id: str
    size: int
    key_id: str
    signature: bytes

    @property
    def version_id(self) -> str:
        return str(ids.version_id(self.product, self.hardware, self.name, self.seq, self.image_id, self.size))

    @property
    def message(self) -> bytes:
        return bytes(ids.image_message(self.product, self.hardware, self.name, self.seq, self.image_id, self.size))

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "product": self.product,
                "hardware": self.hardware,
                "name": self.name,
                "seq": self.seq,
                "image_id": self.image_id,
                "size": self.size,
                "version_id": self.version_id,
                "key_id": self.key_id,
                "signature": base64.b64encode(self.signature).decode("ascii"),
            },
            indent=2,
        )


def keygen(path: Path, *, passphrase: Secret | None = None) -> PublicReleaseKey:
    """Make a release key: the private part as PKCS8 PEM in `path` (mode 0600), the public part beside it as `.pub`.

    Raises ServiceError CONFLICT where a file is there already, UNAVAILABLE where it cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.reveal())
    public = public_of(private.public_key())
    write_new(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
    write_new(path.with_name(path.name + ".pub"), public.pem.encode("ascii"), 0o644)
    return public


def sign(
    image: Path, key: Path, *, product: str, hardware: str, name: str, seq: int, passphrase: Secret | None = None
) -> Signature:
    """Sign an image as version `name` of a product. Reads the image by pages. Raises ServiceError BAD_REQUEST."""
    for what, value in (("a product's name", product), ("hardware", hardware), ("a version's name", name)):
        check_text(what, value)
    check_seq(seq)
    private = load_private(key, passphrase)
    try:
        stored = measure(image)
    except OSError as error:
        raise bad_request("image_unreadable", f"cannot read {image}: {error.strerror}") from error
    if stored.size < 1:
        raise bad_request("image_empty", "an image has at least one byte")
    message = ids.image_message(product, hardware, name, seq, stored.image_id, stored.size)
    return Signature(
        product=product,
        hardware=hardware,
        name=name,
        seq=seq,
        image_id=stored.image_id,
        size=stored.size,
        key_id=public_of(private.public_key()).key_id,
        signature=private.sign(message),
    )


def signer(key: Path, *, passphrase: Secret | None = None) -> tuple[str, Callable[[bytes], bytes]]:
    """The id of a private release key, and what signs with it. Raises ServiceError BAD_REQUEST."""
    private = load_private(key, passphrase)
    return public_of(private.public_key()).key_id, private.sign


def read_signature(path: Path) -> Signature:
    """A signature file, its form checked but not its truth. Raises ServiceError BAD_REQUEST."""
    try:
        data = json.loads(read_file(path, "signature_unreadable"))
        texts = {name: data[name] for name in ("product", "hardware", "name", "image_id", "key_id")}
        form = data["format"]
        signature = Signature(
            **texts, seq=data["seq"], size=data["size"], signature=base64.b64decode(data["signature"], validate=True)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise bad_request("signature_malformed", f"{path} is not a release signature") from error
    if form != FORMAT or not all(isinstance(text, str) for text in texts.values()):
        raise bad_request("signature_malformed", f"{path} is not a release signature")
    for text in (signature.product, signature.hardware, signature.name):
        check_text("a name in the signature", text)
    check_seq(signature.seq)
    if type(signature.size) is not int or not 1 <= signature.size <= limits.MAX_INT:
        raise bad_request("signature_malformed", "the signed size is not that of an image")
    if not ids.is_image_id(signature.image_id):
        raise bad_request("signature_malformed", "the signed image id is not one")
    return signature


def verify(signature: Signature, key: ReleaseKey) -> None:
    """Raise ServiceError BAD_REQUEST unless this key has signed exactly this."""
    verify_message(signature.message, signature.signature, key)


def verify_message(message: bytes, signature: bytes, key: ReleaseKey) -> None:
    """Raise ServiceError BAD_REQUEST unless this key has signed these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise bad_request("signature_wrong", "the release signature does not verify") from error


def check_seq(seq: object) -> None:
    if type(seq) is not int or not 0 <= seq <= limits.MAX_INT:
        raise bad_request("seq_illegal", "seq is an integer from 0 that rises with every release")


def parse_public_key(text: str) -> PublicReleaseKey:
    """An Ed25519 public key from PEM, or base64 of its 32 bytes. Raises ServiceError BAD_REQUEST."""
    try:
        if "-----BEGIN" in text:
            loaded = load_pem_public_key(text.encode("ascii"))
            if not isinstance(loaded, Ed25519PublicKey):
                raise bad_request("release_key_illegal", "a release key is an Ed25519 public key")
            return public_of(loaded)
        return public_of(Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True)))
    except (ValueError, UnsupportedAlgorithm, binascii.Error) as error:
        raise bad_request("release_key_illegal", "give a public key: PEM, or base64 of its 32 bytes") from error


def read_public_key(path: Path) -> PublicReleaseKey:
    return parse_public_key(read_file(path, "release_key_unreadable").decode("ascii", "replace"))


async def add_key(
    database: Database,
    public: PublicReleaseKey,
    name: str,
    *,
    now: datetime,
    endorsements: Sequence[Endorsement] = (),
    unendorsed: bool = False,
) -> ReleaseKey:
    """Trust a release key; the same key under the same name again only adds its endorsements.

    Devices that know another key take it only with an endorsement that leads there, so a second key needs one, or
    `unendorsed`. Raises ServiceError BAD_REQUEST, NOT_FOUND (an endorsement); CONFLICT: the key or the name is
    registered otherwise, the key was retired, it is not endorsed, or too many are trusted.
    """
    check_text("a release key's name", name)
    async with database.write() as transaction:
        connection = transaction.connection
        known = await _views(connection, true())
        found = [one for one in known if one.key_id == public.key_id or one.name == name]
        for one in found:
            _check_same(one, public, name)
        added = ReleaseKey(public.key_id, public.public_key, name)
        if not found:
            if len([one for one in known if one.retired_at is None]) >= MAX_TRUSTED:
                raise conflict("release_keys_full", f"devices keep {MAX_TRUSTED} release keys; retire one first")
            if known and not endorsements and not unendorsed:
                raise conflict(
                    "release_key_not_endorsed",
                    "devices take a further key only with the endorsement of one that they have",
                )
            row = {"key_id": added.key_id, "public_key": added.public_key, "name": name, "added_at": to_ms(now)}
            await connection.execute(insert(release_key), [row])
        fresh = await endorsing.add_rows(connection, public.key_id, endorsements, now)
        if found and not fresh:
            transaction.abandon()
            return added
        await raise_catalogue_rev(connection)
    return added


def _check_same(known: KeyView, public: PublicReleaseKey, name: str) -> None:
    """That one which has this key or this name has both, and is trusted still. Raises ServiceError CONFLICT."""
    if known.key_id == public.key_id and known.retired_at is not None:
        raise conflict("release_key_retired", f"release key {known.name} was retired; make a new one")
    if (known.key_id, known.public_key, known.name) != (public.key_id, public.public_key, name):
        raise conflict("release_key_exists", f"there is a release key {known.key_id} named {known.name}")


async def retire_key(database: Database, name: str, *, now: datetime) -> KeyView:
    """Trust a release key no more, for good; a key that is retired already stays as it is.

    1. No version that it signed may be a target of a product, group, OU or thing. 2. From this commit on no version by
    it is added or made a target, and desired documents list it no more. Raises ServiceError NOT_FOUND, CONFLICT (with
    the versions and whose targets they are in `state`).
    """
    async with database.write() as transaction:
        connection = transaction.connection
        found = await _views(connection, release_key.c.name == name)
        if not found:
            raise not_found("release_key_name_unknown", f"no release key is named {name[:MAX_TEXT_CHARS]!r}")
        if found[0].retired_at is not None:
            transaction.abandon()
            return found[0]
        targets = await _targets(connection, found[0].key_id)
        if targets:
            raise conflict(
                "release_key_in_use",
                f"set other targets first; signed by {name} are {_told(targets)}",
                targets=[f"{version}: {of}" for version, of in targets],
            )
        statement = update(release_key).where(release_key.c.key_id == found[0].key_id)
        await connection.execute(statement.values(retired_at=to_ms(now)))
        await raise_catalogue_rev(connection)
        (retired,) = await _views(connection, release_key.c.name == name)
    return retired


async def list_keys(database: Database) -> list[ReleaseKey]:
    """The release keys that are trusted, by name."""
    return [ReleaseKey(one.key_id, one.public_key, one.name) for one in await all_keys(database) if not one.retired_at]


async def all_keys(database: Database) -> list[KeyView]:
    """Every release key by name, the retired ones too."""
    async with database.read() as connection:
        return await _views(connection, true())


async def _views(connection: AsyncConnection, which: ColumnElement[bool]) -> list[KeyView]:
    of = release_key.c
    query = select(of.key_id, of.public_key, of.name, of.added_at, of.retired_at).where(which).order_by(of.name)
    found = (await connection.execute(query)).all()
    vouching = await endorsing.by_key(connection)
    return [
        KeyView(row[0], row[1], row[2], from_ms(row[3]), from_ms(row[4]), vouching.get(row[0], ())) for row in found
    ]


async def _targets(connection: AsyncConnection, key_id: str) -> list[tuple[str, str]]:
    """(version, whose target it is) of everything whose target this key has signed."""
    label = version.c.product + literal(" ") + version.c.name
    owners = (
        (product.c.target_version_id, literal("product ") + product.c.product_id),
        (registration_group.c.target_version_id, literal("group ") + registration_group.c.group_id),
        (ou.c.target_version_id, literal("OU ") + ou.c.path),
        (thing.c.target_version_id, literal("thing ") + thing.c.thing_id),
    )
    found: list[tuple[str, str]] = []
    for target, of in owners:
        query = select(label, of).where(version.c.key_id == key_id, target == version.c.version_id).order_by(of)
        found += [(row[0], row[1]) for row in await connection.execute(query.limit(MAX_TARGETS_TOLD))]
    return found + await manifest_queries.given_and_signed_by(connection, key_id)


def _told(targets: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{version} (target of {of})" for version, of in targets[:5])
    return shown if len(targets) <= 5 else f"{shown} and more"


def public_of(key: Ed25519PublicKey) -> PublicReleaseKey:
    """As it is shown and stored."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    return PublicReleaseKey(ids.release_key_id(raw), raw, pem)


def load_private(path: Path, passphrase: Secret | None) -> Ed25519PrivateKey:
    """A release key's private part. Raises ServiceError BAD_REQUEST."""
    try:
        loaded = load_pem_private_key(
            read_file(path, "release_key_unreadable"), None if passphrase is None else passphrase.reveal()
        )
    except TypeError as error:  # a passphrase is missing, or given for a key without one
        raise bad_request("release_key_passphrase", "the release key's passphrase is missing or not wanted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise bad_request("release_key_illegal", f"{path} does not open: wrong passphrase, or not a PEM key") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise bad_request("release_key_illegal", "a release key is an Ed25519 private key")
    return loaded


def read_file(path: Path, cause: str) -> bytes:
    """A small file. Raises ServiceError BAD_REQUEST with that cause."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise bad_request(cause, f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise bad_request(cause, f"{path} is far too long for what it should be")
    return data


def write_new(path: Path, data: bytes, mode: int) -> None:
    """A file that was not there before, flushed. Raises ServiceError CONFLICT, UNAVAILABLE."""
    try:
        create_whole(path, data, mode=mode)
    except FileExistsError as error:
        raise conflict("release_key_file_exists", f"{path} is there already; keys are not overwritten") from error
    except OSError as error:
        raise ServiceError(
            "UNAVAILABLE", f"cannot write {path}: {error.strerror}", cause="release_key_unwritable"
        ) from error
