"""What changes seldom and every rule may read: groups, products, release keys, environments.

An immutable snapshot; storage loads a new one when its revision has changed. Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from service.domain.credential import CredentialKind
from service.domain.group import Group
from service.domain.product import Endorsement, Product, ReleaseKey, Version

STAGED_LIFE = timedelta(days=730)  # how long a credential from a warehouse waits to be used at its site


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class MoreEndpoint:
    """A bootstrap endpoint that devices are told besides the factory's."""

    host: str
    port: int
    tls: bool
    ca_pem: str | None = None  # None: the environment's authority


@dataclass(frozen=True, slots=True)
class Ou:
    """An organisation unit that has something of its own; every other path is an OU without."""

    path: str  # such as acme/emea/plant-7
    environment: str | None = None  # things below it belong there
    target_version_id: str | None = None  # before the target of group and product; of one product


@dataclass(frozen=True, slots=True)
class Environment:
    name: str
    endpoints: Mapping[CredentialKind, Endpoint]  # the kinds of credential that this environment's broker takes
    ca_pem: str | None = None  # what devices verify its endpoints with; also the issuer of client certificates
    bootstrap: tuple[Endpoint, ...] = ()  # where devices that move there activate
    ca_exchanged: bool = False  # devices may know an older one from the factory, and are told for good
    staged_life: timedelta = STAGED_LIFE  # of what its warehouse gives


@dataclass(frozen=True, slots=True)
class Catalogue:
    rev: int  # rises with every change of groups, products, versions, targets or release keys
    groups: Mapping[str, Group] = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)  # by product_id
    release_keys: Mapping[str, ReleaseKey] = field(default_factory=dict)  # by key_id; those that are trusted
    environments: Mapping[str, Environment] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)  # by version_id; every one, not only targets
    ous: Mapping[str, Ou] = field(default_factory=dict)  # by path
    endorsements: tuple[Endorsement, ...] = ()  # of any release key by any other, retired ones too
    retired_keys: frozenset[str] = frozenset()  # key ids that are trusted no more

    # By environment; an entry once there was any, so that devices hear also of the last one's end.
    more_bootstrap: Mapping[str, tuple[MoreEndpoint, ...]] = field(default_factory=dict)

    def version(self, product_id: str, version_id: str) -> Version | None:
        """The version of that id if it is one of that product."""
        product = self.products.get(product_id)
        found = self.versions.get(version_id)
        if found is None and product is not None and product.target is not None:
            found = product.target if product.target.version_id == version_id else None
        return found if found is not None and found.product_id == product_id else None
