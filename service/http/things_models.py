"""What the thing API takes and gives, as its OpenAPI document says it. Values only.

Fields of the wire protocol keep the names that they have there; bytes in them are base64url without padding. What the
pipeline reads again is checked again there: these models only make the document and refuse the obvious.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from device_sdk.wire import limits

_SERIAL = r"^[A-Za-z0-9._:-]{1,128}$"
_GROUP = r"^[A-Za-z0-9._-]{1,64}$"
_HEX = r"^[0-9a-f]{32}$"
_BASE64URL = r"^[A-Za-z0-9_-]+$"

Serial = Annotated[str, Path(pattern=_SERIAL, description="The serial number.")]
ThingId = Annotated[str, Path(pattern=_HEX)]
VersionId = Annotated[str, Path(pattern=_HEX)]
Group = Annotated[
    str | None, Query(pattern=_GROUP, description="The registration group, where the serial is not unique.")
]
HexId = Annotated[str, Field(pattern=_HEX)]
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$", description="16 bytes")]


class Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Hello(Asked):
    session: HexId = Field(description="Random, new for each activation.")
    group_id: Annotated[str, Field(pattern=_GROUP)]
    serial: Annotated[str, Field(pattern=_SERIAL)]
    nonce: Nonce


class Nonces(BaseModel):
    server_nonce: str
    expires_s: int
    time: int


class Activation(Asked):
    """The proof that the device has its key; left out only where the group allows the bare serial."""

    session: HexId
    claim: Annotated[str, Field(pattern=_BASE64URL, max_length=12_000, description="JSON, as on MQTT")]
    server_nonce: Nonce
    proof: Annotated[str, Field(pattern=_BASE64URL, max_length=683)]


class Activated(BaseModel):
    thingId: str  # noqa: N815 - the platform's names
    apiKey: str  # noqa: N815
    name: str
    grant: str = Field(description="The credential for MQTT, as `activate` gives it there.")
    server_proof: str


class NewThing(Asked):
    key: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The device key in base64, of a serial that is not registered yet."
    )


class Created(BaseModel):
    thingId: str  # noqa: N815
    name: str
    deviceKey: str | None = Field(default=None, description="Made for a new serial, in base64; shown this once.")  # noqa: N815


class NewName(Asked):
    name: Annotated[str, Field(min_length=1, max_length=128)]


class Named(BaseModel):
    thingId: str  # noqa: N815
    name: str


class Installed(Asked):
    versionId: HexId  # noqa: N815
    bootCount: Annotated[int, Field(ge=0, le=limits.MAX_INT)] | None = None  # noqa: N815


class Version(BaseModel):
    versionId: str  # noqa: N815
    name: str
    description: str


class Current(BaseModel):
    """The version that the service believes installed; null where it knows none."""

    versionId: str | None = None  # noqa: N815
    name: str | None = None
    description: str | None = None


class Document(BaseModel):
    doc: str
    mac: str


class Target(Version):
    product: str
    hardware: str
    seq: int
    imageId: str = Field(description="SHA-256 of the firmware")  # noqa: N815
    size: int
    signature: str
    keyId: str  # noqa: N815
    desired: Document = Field(description="The signed document that all this stands in.")


class Fetchable(Version):
    """A version that the thing may fetch."""

    imageId: str  # noqa: N815
    size: int


class Firmware(Version):
    size: int
    sha256: str
    firmware: str = Field(description="The bytes in base64.")
