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
from device_sdk.wire import ids, limits, topics

MAX_FILE_BYTES = 256 * 1024
MAX_BOOTSTRAP = 8
MAX_RELEASE_KEYS = 16


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    group_id: str
    serial: str
    key: bytes = field(repr=False)
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
    firmware = value.get("firmware") or {}
    if not isinstance(firmware, dict):
        raise ConfigError("firmware: an object with a name")
    root = value.get("topic_root", topics.ROOT)
    if not topics.is_root(root):
        raise ConfigError("topic_root: topic levels of A-Z a-z 0-9 . _ -")
    seq = firmware.get("seq", 0)
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= limits.MAX_INT:
        raise ConfigError("firmware.seq: a whole number")
    return DeviceConfig(
        group_id=group_id,
        serial=serial,
        key=_key(value, folder),
        bootstrap=_bootstrap(value.get("bootstrap"), folder),
        product=_text(value, "product"),
        hardware=_text(value, "hardware"),
        release_keys=_release_keys(value.get("release_keys", [])),
        firmware_name=_text(firmware, "name", "") or None,
        firmware_seq=seq,
        state_dir=folder / _text(value, "state_dir", "state"),
        model=_text(value, "model", "") or None,
        x509=_flag(value, "x509", default=False),
        topic_root=root,
    )


def _text(value: dict[str, Any], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str) or (not found and default is None):
        raise ConfigError(f"{name}: a text is needed")
    return found


def _flag(value: dict[str, Any], name: str, *, default: bool) -> bool:
    found = value.get(name, default)
    if not isinstance(found, bool):
        raise ConfigError(f"{name}: true or false")
    return found


def _key(value: dict[str, Any], folder: Path) -> bytes:
    """The 32 bytes of `key`, or of the file `key_file`, which nobody else may read."""
    if ("key" in value) == ("key_file" in value):
        raise ConfigError("key: exactly one of key and key_file")
    if "key" in value:
        text = _text(value, "key")
    else:
        path = folder / _text(value, "key_file")
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigError("key_file: others may read it (chmod 600)")
            text = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("key_file: cannot be read") from error
    key = _base64(text, "key")
    if len(key) != limits.DEVICE_KEY_BYTES:
        raise ConfigError(f"key: {limits.DEVICE_KEY_BYTES} bytes in base64")
    return key


def _bootstrap(value: Any, folder: Path) -> tuple[Endpoint, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BOOTSTRAP:
        raise ConfigError(f"bootstrap: a list of 1-{MAX_BOOTSTRAP} endpoints")
    return tuple(_endpoint(item, folder) for item in value)


def _endpoint(value: Any, folder: Path) -> Endpoint:
    if not isinstance(value, dict):
        raise ConfigError("bootstrap: an endpoint is an object with host, port, tls, ca")
    port = value.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ConfigError("bootstrap.port: 1-65535")
    ca = value.get("ca")
    if ca is not None and not isinstance(ca, str):
        raise ConfigError("bootstrap.ca: a file name, or a PEM text")
    if ca and not ca.lstrip().startswith("-----BEGIN"):
        try:
            ca = (folder / ca).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("bootstrap.ca: cannot be read") from error
    host = value.get("host")
    if not isinstance(host, str) or not host:
        raise ConfigError("bootstrap.host: a text is needed")
    tls = value.get("tls", True)
    if not isinstance(tls, bool):
        raise ConfigError("bootstrap.tls: true or false")
    return Endpoint(host, port, tls, ca or None)


def _release_keys(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_RELEASE_KEYS:
        raise ConfigError(f"release_keys: a list of at most {MAX_RELEASE_KEYS} keys")
    keys = []
    for item in value:
        key = _base64(item, "release_keys")
        if len(key) != 32:
            raise ConfigError("release_keys: 32 raw bytes of an Ed25519 key in base64")
        keys.append(key)
    return tuple(keys)


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
