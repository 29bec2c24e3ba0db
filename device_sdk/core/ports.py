"""What the core needs of the device it runs on: flash, installer, crypto.

Owns the three interfaces and Crypto in pure Python. Whoever embeds the core inherits and fills them in; the core calls
them from start(), received() and tick() only, never from two threads. Runs on MicroPython.
"""

import hashlib

from device_sdk.wire import keys

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any


class InstallError(Exception):
    """The installer cannot do it; `cause` is a lower_snake word that the device reports, such as "no_space"."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Flash:
    """A few small named values that survive a power loss. Names are 1-12 of `a-z 0-9 -`, values below 16 KiB."""

    def load(self, name: str) -> "bytes | None":
        """What was saved last, or None. May give damaged bytes: the core checks them."""
        raise NotImplementedError

    def save(self, name: str, data: bytes) -> None:
        """Store durably before returning. A power loss may leave any mixture of old and new bytes under this name."""
        raise NotImplementedError


class Store:
    """Where bytes of a known size and digest are written piece by piece and read back. Any method may raise
    InstallError or OSError.
    """

    def begin(self, image_id: str, size: int) -> "bool | None":
        """Make room for `size` bytes. Called again for the same image (after a power loss): keep what was written.

        False where nothing of it is there (any more), so that no record counts; True or None where it was kept.
        """
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> None:
        """Write in any order; the same place may be written again. Need not be durable before sync()."""
        raise NotImplementedError

    def sync(self) -> None:
        """Make every write so far durable. Called once a window, before the record of it."""

    def read(self, offset: int, length: int) -> bytes:
        """Read back `length` bytes from where they will be used."""
        raise NotImplementedError


class Installer(Store):
    """The slot that does not run: where a new image is written, checked, and booted from on trial.

    Any method may raise InstallError or OSError: the device keeps its old firmware and reports the cause.
    """

    def install(self, version: "dict[str, Any]") -> None:
        """Boot the written image next, once, on trial; without confirm() the boot after that is the old one again.

        `version` has version_id, name, seq, image_id and size. May be called again for the same version.
        """
        raise NotImplementedError

    def booted(self) -> "dict[str, Any]":
        """What runs now: {"version_id": 32 hex or None (from the factory), "name": text or None, "trial": bool}."""
        raise NotImplementedError

    def confirm(self) -> None:
        """What runs now is good: boot it from now on."""
        raise NotImplementedError

    def revert(self) -> None:
        """Boot the old image from now on. A Reboot action follows."""
        raise NotImplementedError

    def healthy(self) -> bool:
        """The product's own check of a new image, asked once after its first answered `online`."""
        return True


class Items(Store):
    """What a manifest's items are installed with, in the warehouse. One item is on its way at a time."""

    def install(self, item: "dict[str, Any]", secret: "bytes | None") -> None:
        """Put in place what was written, or a secret, which was never written. `item` has name, kind, version, size and
        sha256 (64 hex). In place of whatever version is there, higher or lower; may be called again for the same.
        """
        raise NotImplementedError

    def works(self, item: "dict[str, Any]") -> bool:  # noqa: ARG002
        """The product's own check of an installed item."""
        return True


class SettingsError(Exception):
    """The product does not take these settings; `cause` is a lower_snake word that the device reports."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Product:
    """What only the product can decide. A device without one has no settings and never defers."""

    def apply_settings(self, values: "dict[str, Any]") -> None:
        """Use these from now on, in place of all before; again at every start. {}: the factory's. Raises SettingsError."""

    def needs_trial(self, before: "dict[str, Any]", values: "dict[str, Any]") -> bool:  # noqa: ARG002
        """Whether the connection may hang on the difference: then `values` are kept only after an `online` on a new
        connection, else those `before` come again.
        """
        return False

    def apply_site_settings(self, values: "dict[str, Any]") -> None:
        """The same for the settings of the site (features, payment, network), apart from the others."""

    def site_needs_trial(self, before: "dict[str, Any]", values: "dict[str, Any]") -> bool:
        """The same as needs_trial: by default where the network is another."""
        return before.get("network") != values.get("network")

    def defer(self, version: "dict[str, Any]") -> "tuple[int, str] | None":  # noqa: ARG002
        """Not now: (seconds until it may be asked again, reason); None: go on.

        Asked before the download of a version and again before the restart into it.
        """
        return None


class Hash:
    """A running SHA-256, as hashlib gives it."""

    def update(self, data: bytes) -> None:
        raise NotImplementedError

    def digest(self) -> bytes:
        raise NotImplementedError


class WrongSignatureError(Exception):
    """A signature does not fit."""


class NoEd25519Error(Exception):
    """There is no Ed25519 here."""


class NoAesGcmError(Exception):
    """There is no AES-GCM here."""


class Crypto:
    """Hashes in pure Python; inherit to use hardware or a library, and for what Python alone does not have."""

    def hmac_sha256(self, key: bytes, data: bytes) -> bytes:
        return keys.hmac_sha256(key, data)

    def sha256(self, data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    def sha256_new(self) -> "Any":
        """A running SHA-256 with the methods of Hash."""
        return hashlib.sha256()

    def verify_ed25519(self, public_key: bytes, message: bytes, signature: bytes) -> None:  # noqa: ARG002
        """That the signature fits: return None only then, whatever stands in the way.

        Raises WrongSignatureError for anything but that key's signature of these bytes, also for a key or a signature
        of a wrong shape: a port that forgets to raise takes every forgery. It must not answer True or False: the core
        takes any answer as a no. Raises NoEd25519Error where this device cannot tell: releases and endorsements then
        rest on mac and SHA-256 alone, and no service key (key kind public_key) is believed.
        """
        raise NoEd25519Error

    def aes_gcm_open(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes:  # noqa: ARG002
        """What was sealed by AES-256-GCM (ciphertext, then a tag of 16 bytes; no additional data).

        Raises ValueError for anything but what was sealed with that key; NoAesGcmError where this device cannot open
        it: stock MicroPython has no AES-GCM, and one in Python would be no safe one.
        """
        raise NoAesGcmError

    def make_csr(self) -> "tuple[bytes, str | None] | None":
        """A new key's (certificate request as DER, private key as PEM or None if in hardware); None: API keys only."""
        return None

    def owns_certificate(self, certificate: str, csr: bytes) -> "bool | None":  # noqa: ARG002
        """Whether a certificate (PEM, the leaf first) has the key of that request (DER); None where it cannot tell.

        Stock MicroPython reads no X.509. There a wrong certificate shows at the TLS handshake only.
        """
        return None

    def sign(self, message: bytes) -> "bytes | None":  # noqa: ARG002
        """Sign with the device's private key (groups of kind public_key); None where it has none."""
        return None
