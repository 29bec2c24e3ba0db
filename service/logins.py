"""What a broker must let in, computed from the database: the truth that each broker's own list is a cache of.

Owns the walk over all live credentials, page by page, and the list of accounts. API keys are derived again from the
device keys, never stored. Used by the reconcilers of app.py and by `firstlight broker render`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.brokers.gate import AccountLogin, Login
from service.credentials.proofs import HmacProver, Unproven, signer_of
from service.domain.catalogue import Catalogue
from service.domain.credential import Credential, CredentialKind
from service.domain.device import Device
from service.mqtt import account_topics
from service.operations import accounts
from service.operations.accounts import AccountKind
from service.storage.database import Database
from service.storage.store import SqlStore
from service.storage.upkeep import Upkeep

_SPACES = {AccountKind.OPERATOR: account_topics.OPERATORS, AccountKind.INTEGRATOR: account_topics.EVENTS}


async def account_logins(database: Database, environment: str) -> list[AccountLogin]:
    """Every operator and integrator that one environment lets in. Raises ServiceError UNAVAILABLE."""
    return [
        AccountLogin(one.name, _SPACES[one.kind], key, one.key_sha256)
        for one, key in await accounts.live(database, environment)
    ]


async def expected_logins(
    upkeep: Upkeep, store: SqlStore, environment: str, service_key: Ed25519PrivateKey
) -> AsyncIterator[Login]:
    """Every credential of one environment that is pending or confirmed, by id. Raises ServiceError UNAVAILABLE."""
    catalogue = await store.catalogue()
    after = ""
    while page := await upkeep.live(environment=environment, after=after):
        for device, credential in page:
            login = login_of(catalogue, device, credential, service_key)
            if login is not None:
                yield login
        after = page[-1][1].credential_id


def login_of(
    catalogue: Catalogue, device: Device, credential: Credential, service_key: Ed25519PrivateKey
) -> Login | None:
    """How a broker sees one credential; None for an API key that cannot be derived again (its group is gone)."""
    if credential.kind is CredentialKind.X509:
        return Login(credential.credential_id, credential.kind, certificate_serial=credential.certificate_serial)
    group = catalogue.groups.get(device.group_id)
    if group is None or device.thing is None:
        return None
    try:
        prover = signer_of(group, device, service_key)
    except Unproven:
        return None
    if not isinstance(prover, HmacProver):
        return None
    if credential.rekey:
        prover = prover.rekeyed(
            credential.nonce, credential.server_nonce, device.thing.thing_id, credential.credential_id
        )
    key = prover.api_key(credential.nonce, credential.server_nonce, device.thing.thing_id, credential.credential_id)
    return Login(credential.credential_id, credential.kind, api_key=key, api_key_sha256=credential.api_key_sha256)
