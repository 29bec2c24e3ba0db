"""The JSON file that says who a device is, for `firstlight-device`.

Owns reading and checking that file and no other; a key never shows in an error or a repr. docs/device-sdk.md lists the
fields.
"""

from __future__ import annotations

import base64
import binascii
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_sdk.core.identity import Endpoint, Identity
from device_sdk.wire import ids, keys, limits, topics

MAX_FILE_BYTES = 256 * 1024
MAX_BOOTSTRAP = 8
MAX_RELEASE_KEYS = 16
MAX_SERVICE_KEYS = 4
MIN_GROUP_SECRET_BYTES = 16
_KEYS = ("key", "key_file", "group_secret", "group_secret_file", "private_key_file")


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    group_id: str
    serial: str
    key: bytes | None = field(repr=False)  # None: private_key_pem signs instead
    bootstrap: tuple[Endpoint, ...]
    product: str
    hardware: str
    release_keys: tuple[bytes, ...]
    firmware_name: str | None
    firmware_seq: int
    state_dir: Path
    model: str | None
    x509: bool
    topic_root: str
    private_key_pem: bytes | None = field(repr=False)
    key_index: int | None
    service_keys: tuple[bytes, ...]
    warehouse: tuple[Endpoint, ...] = ()

    def identity(self, *, allow_plain: bool) -> Identity:
        """The core's identity. `allow_plain` lets a grant name an endpoint without TLS."""
        return Identity(
            self.group_id,
            self.serial,
            self.key,
            self.product,
            self.hardware,
            list(self.bootstrap),
            self.release_keys,
            factory_seq=self.firmware_seq,
            factory_name=self.firmware_name,
            allow_plain=allow_plain,
            model=self.model,
            key_index=self.key_index,
            service_keys=self.service_keys,
            warehouse=self.warehouse,
        )


def read_config(path: Path) -> DeviceConfig:
    """Read the file; relative paths in it are relative to its folder. ConfigError when anything does not fit."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return parse_config(value, path.parent)


def parse_config(value: dict[str, Any], folder: Path) -> DeviceConfig:
    """Check a decoded configuration. ConfigError names the field."""
    group_id = _text(value, "group_id")
    serial = _text(value, "serial")
    if not ids.is_group_id(group_id):
        raise ConfigError("group_id: 1-64 of A-Z a-z 0-9 . _ -")
    if not ids.is_serial(serial):
        raise ConfigError("serial: 1-128 of A-Z a-z 0-9 . _ : -")
    root = value.get("topic_root", topics.ROOT)
    if not topics.is_root(root):
        raise ConfigError("topic_root: topic levels of A-Z a-z 0-9 . _ -")
    firmware_name, firmware_seq = _firmware(value.get("firmware") or {})
    key = _key(value, serial, folder)
    service_keys = _public_keys(value.get("service_keys", []), "service_keys", MAX_SERVICE_KEYS)
    if key is None and not service_keys:
        raise ConfigError("service_keys: needed with private_key_file, to know the service by")
    return DeviceConfig(
        group_id=group_id,
        serial=serial,
        key=key,
        bootstrap=_endpoints(value.get("bootstrap"), "bootstrap", folder),
        product=_text(value, "product"),
        hardware=_text(value, "hardware"),
        release_keys=_public_keys(value.get("release_keys", []), "release_keys", MAX_RELEASE_KEYS),
        firmware_name=firmware_name,
        firmware_seq=firmware_seq,
        state_dir=folder / _text(value, "state_dir", "state"),
        model=_text(value, "model", "") or None,
        # A device that signs has no secret to derive an API key from.
        x509=_flag(value, "x509", default=key is None) or key is None,
        topic_root=root,
        private_key_pem=None if key is not None else _secret_file(value, "private_key_file", folder),
        key_index=_key_index(value.get("key_index")),
        service_keys=service_keys,
        warehouse=_endpoints(value["warehouse"], "warehouse", folder) if "warehouse" in value else (),
    )


def _text(value: dict[str, Any], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str) or (not found and default is None):
        raise ConfigError(f"{name}: a text is needed")
    return found


def _firmware(value: Any) -> tuple[str | None, int]:
    """Name and seq of what the factory installed."""
    if not isinstance(value, dict):
        raise ConfigError("firmware: an object with a name")
    seq = value.get("seq", 0)
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= limits.MAX_INT:
        raise ConfigError("firmware.seq: a whole number")
    return _text(value, "name", "") or None, seq


def _flag(value: dict[str, Any], name: str, *, default: bool) -> bool:
    found = value.get(name, default)
    if not isinstance(found, bool):
        raise ConfigError(f"{name}: true or false")
    return found


def _key(value: dict[str, Any], serial: str, folder: Path) -> bytes | None:
    """The 32 bytes K, given or derived from the group's secret; None where a private key signs instead."""
    given = [name for name in _KEYS if name in value]
    if len(given) != 1:
        raise ConfigError("key: exactly one of " + ", ".join(_KEYS))
    name = given[0]
    if name == "private_key_file":
        return None
    if name.endswith("_file"):
        try:
            text = _secret_file(value, name, folder).decode("ascii").strip()
        except UnicodeDecodeError:
            raise ConfigError(f"{name}: not base64") from None
    else:
        text = _text(value, name)
    secret = _base64(text, name)
    if name.startswith("group_secret"):
        if len(secret) < MIN_GROUP_SECRET_BYTES:
            raise ConfigError(f"{name}: at least {MIN_GROUP_SECRET_BYTES} bytes in base64")
        return keys.derive_key(secret, serial)
    if len(secret) != limits.DEVICE_KEY_BYTES:
        raise ConfigError(f"{name}: {limits.DEVICE_KEY_BYTES} bytes in base64")
    return secret


def _secret_file(value: dict[str, Any], name: str, folder: Path) -> bytes:
    """The bytes of a file that nobody else may read."""
    path = folder / _text(value, name)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{name}: others may read it (chmod 600)")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read") from error


def _key_index(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limits.MAX_PUBLIC_KEYS:
        raise ConfigError(f"key_index: 0-{limits.MAX_PUBLIC_KEYS - 1}")
    return value


def _endpoints(value: Any, name: str, folder: Path) -> tuple[Endpoint, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BOOTSTRAP:
        raise ConfigError(f"{name}: a list of 1-{MAX_BOOTSTRAP} endpoints")
    return tuple(_endpoint(item, name, folder) for item in value)


def _endpoint(value: Any, name: str, folder: Path) -> Endpoint:
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: an endpoint is an object with host, port, tls, ca")
    port = value.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ConfigError(f"{name}.port: 1-65535")
    ca = value.get("ca")
    if ca is not None and not isinstance(ca, str):
        raise ConfigError(f"{name}.ca: a file name, or a PEM text")
    if ca and not ca.lstrip().startswith("-----BEGIN"):
        try:
            ca = (folder / ca).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}.ca: cannot be read") from error
    host = value.get("host")
    if not isinstance(host, str) or not host:
        raise ConfigError(f"{name}.host: a text is needed")
    tls = value.get("tls", True)
    if not isinstance(tls, bool):
        raise ConfigError(f"{name}.tls: true or false")
    return Endpoint(host, port, tls, ca or None)


def _public_keys(value: Any, name: str, at_most: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > at_most:
        raise ConfigError(f"{name}: a list of at most {at_most} keys")
    found = []
    for item in value:
        key = _base64(item, name)
        if len(key) != 32:
            raise ConfigError(f"{name}: 32 raw bytes of an Ed25519 key in base64")
        found.append(key)
    return tuple(found)


def _base64(text: Any, name: str) -> bytes:
    """Standard or URL alphabet, padding optional."""
    if not isinstance(text, str):
        raise ConfigError(f"{name}: a base64 text")
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        # The text may be a key: it is not repeated, and not kept as the error's cause.
        raise ConfigError(f"{name}: not base64") from None
