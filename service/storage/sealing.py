"""What storage needs of the service's seal key: to keep secrets unreadable at rest.

Owns the port and the names that a sealed value is bound to; credentials/keyfile.py implements it.
"""

from __future__ import annotations

from typing import Protocol

from service.errors import Secret

KID_BYTES = 8  # a sealed value begins with the id of its key, in ASCII


class Sealer(Protocol):
    @property
    def label_key(self) -> Secret:
        """What signs labels. Raises ServiceError where the key file was not at hand."""
        ...

    @property
    def label_keys(self) -> tuple[Secret, ...]:
        """That one, and those before it whose labels are still good."""
        ...

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt under the current key: key id, nonce, ciphertext."""
        ...

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt what `seal` made with the same `aad`. Raises ServiceError for an unknown key or a changed byte."""
        ...


def device_key_aad(device_id: str) -> bytes:
    return b"device.key_sealed:" + device_id.encode()


def group_secret_aad(group_id: str) -> bytes:
    return b"registration_group.secret_sealed:" + group_id.encode()


def old_secret_aad(secret_id: str) -> bytes:
    return b"group_secret.secret_sealed:" + secret_id.encode()


def account_key_aad(name: str) -> bytes:
    return b"account.key_sealed:" + name.encode()


def label_key_aad(label_id: str) -> bytes:
    return b"label.key_sealed:" + label_id.encode()


def site_settings_aad(settings_id: str) -> bytes:
    return b"site_settings.settings_sealed:" + settings_id.encode()


def manifest_secret_aad(secret_id: str) -> bytes:
    return b"manifest_secret.content_sealed:" + secret_id.encode()


def order_policies_aad(order_id: str) -> bytes:
    return b"sales_order.policies_sealed:" + order_id.encode()


def access_provider_aad(name: str) -> bytes:
    return b"access_provider.secret_sealed:" + name.encode()


def enrolment_provider_aad(provider_id: str) -> bytes:
    return b"enrolment_provider.secret_sealed:" + provider_id.encode()


def enrolment_batch_aad(batch_id: str) -> bytes:
    return b"enrolment_batch.document_sealed:" + batch_id.encode()


def config_entry_aad(name: str) -> bytes:
    return b"config_entry.value_sealed:" + name.encode()
