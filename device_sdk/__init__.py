"""The device SDK's public names; docs/device-sdk.md explains them.

Importing it needs nothing but Python, MicroPython included: a name whose module needs an extra (aiomqtt, paho-mqtt,
cryptography) is imported when it is first used.
"""

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.client import Client
    from device_sdk.core.identity import Endpoint, Identity, Policy
    from device_sdk.core.ports import (
        Crypto,
        Flash,
        Installer,
        InstallError,
        NoAesGcmError,
        NoEd25519Error,
        WrongSignatureError,
    )
    from device_sdk.drivers import aio
    from device_sdk.drivers.crypto import FullCrypto
    from device_sdk.drivers.slots import FileSlots
    from device_sdk.drivers.store import FileFlash
    from device_sdk.drivers.threaded import ThreadedDriver

__all__ = [
    "Client",
    "Crypto",
    "Endpoint",
    "FileFlash",
    "FileSlots",
    "Flash",
    "FullCrypto",
    "Identity",
    "InstallError",
    "Installer",
    "NoAesGcmError",
    "NoEd25519Error",
    "Policy",
    "ThreadedDriver",
    "WrongSignatureError",
    "aio",
]

_HOMES = {
    "Client": "device_sdk.core.client",
    "Crypto": "device_sdk.core.ports",
    "Endpoint": "device_sdk.core.identity",
    "FileFlash": "device_sdk.drivers.store",
    "FileSlots": "device_sdk.drivers.slots",
    "Flash": "device_sdk.core.ports",
    "FullCrypto": "device_sdk.drivers.crypto",
    "Identity": "device_sdk.core.identity",
    "InstallError": "device_sdk.core.ports",
    "Installer": "device_sdk.core.ports",
    "NoAesGcmError": "device_sdk.core.ports",
    "NoEd25519Error": "device_sdk.core.ports",
    "Policy": "device_sdk.core.identity",
    "ThreadedDriver": "device_sdk.drivers.threaded",
    "WrongSignatureError": "device_sdk.core.ports",
    "aio": "device_sdk.drivers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError("device_sdk has no " + name)
    found = getattr(__import__(_HOMES[name], None, None, [name]), name)
    globals()[name] = found
    return found
