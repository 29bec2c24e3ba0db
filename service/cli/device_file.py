"""The JSON file that `firstlight-device` reads, for one device just registered.

Owns which of the installation's facts a device needs: its key, its product, the bootstrap broker and its CA, the release
keys. The file holds the device's key: mode 0600, and nothing is overwritten.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from device_sdk.wire import keys, topics
from service.cli.context import CommandError
from service.domain.group import Group, KeyKind
from service.errors import Secret
from service.operations import groups, products, releases
from service.settings import Settings
from service.storage.database import Database
from service.whole_files import create_whole

WITH_FILE = frozenset({KeyKind.INDIVIDUAL, KeyKind.DERIVED})  # the others burn no key of one device


async def collect(
    database: Database, settings: Settings, group: Group, serial: str, key: Secret | None, environment: str | None
) -> dict[str, Any]:
    """The file's content. `key`: of kind individual; `environment`: the device's own. Raises CommandError, ServiceError."""
    name = environment or group.default_environment
    if name not in settings.environments:
        raise CommandError(f"a device file needs an environment of this installation, not {name}")
    bootstrap = settings.environments[name].endpoints.bootstrap
    endpoint: dict[str, Any] = {"host": bootstrap.host, "port": bootstrap.port, "tls": bootstrap.tls}
    if bootstrap.tls:
        endpoint["ca"] = _authority(settings.ca_dir(name) / "ca.pem")
    product = await products.show(database, group.product_id)
    content = {
        "group_id": group.group_id,
        "serial": serial,
        "key": _base64(_key(group, serial, key).reveal()),
        "product": product.name,
        "hardware": product.hardware,
        "release_keys": [_base64(one.public_key) for one in await releases.list_keys(database)],
        "bootstrap": [endpoint],
        "state_dir": f"state-{serial}",  # beside the file: two devices of one folder must not share it
    }
    if settings.topic_root != topics.ROOT:
        content["topic_root"] = settings.topic_root
    return content


async def group_of(database: Database, group_id: str) -> Group:
    """The group, if its devices can have such a file. Raises CommandError, ServiceError NOT_FOUND."""
    group = (await groups.show(database, group_id)).group
    if group.key_kind not in WITH_FILE:
        raise CommandError(
            f"no device file for key kind {group.key_kind.value}: what the device holds is not known here"
        )
    return group


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a new file of mode 0600, on the disk when this returns. Raises CommandError where none can be made."""
    try:
        create_whole(path, json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def _authority(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: the CA's certificate cannot be read: {error}") from error


def _key(group: Group, serial: str, key: Secret | None) -> Secret:
    if group.key_kind is KeyKind.DERIVED and group.secret is not None:
        return Secret(keys.derive_key(group.secret.reveal(), serial))
    if key is None:
        raise CommandError("the device is registered already, and its key was shown then")
    return key


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
