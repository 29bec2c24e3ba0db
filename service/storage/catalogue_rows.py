"""Between rows and values of the catalogue: groups, products, versions and release keys.

Owns these conversions, in both directions; does no query. Rows come in as positional tuples in the column order of
tables.py, as in rows.py, which has those of devices and all that belongs to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.domain.group import ClonePolicy, Group, KeyKind, MoveMethod, OldSecret, Reactivation
from service.domain.product import Product, ReleaseKey, Version
from service.errors import Secret
from service.storage.rows import Row, from_ms, json_of, map_of, time_of, to_ms
from service.storage.sealing import Sealer, group_secret_aad, old_secret_aad


def group_of(row: Sequence[Any], sealer: Sealer, old_secrets: tuple[OldSecret, ...] = ()) -> Group:
    (group_id, product_id, key_kind, sealed, self_registration, ou, environment, *rest) = row
    (pending_expiry_s, reactivation, target, move_method, clone_policy, template, credential_life_s, *rest) = rest
    (serial_pattern, quarantine_ou, self_quota, hook, failover_environment, failover_ou, *rest) = rest
    (failover_after_s, secret_generation) = rest
    return Group(
        group_id=group_id,
        product_id=product_id,
        key_kind=KeyKind(key_kind),
        secret=None if sealed is None else Secret(sealer.open(sealed, group_secret_aad(group_id))),
        self_registration=bool(self_registration),
        default_ou=ou,
        default_environment=environment,
        pending_expiry_s=pending_expiry_s,
        reactivation=Reactivation(reactivation),
        target_version_id=target,
        move_method=MoveMethod(move_method),
        clone_policy=ClonePolicy(clone_policy),
        template_settings=map_of(template),
        credential_life_s=credential_life_s,
        serial_pattern=serial_pattern,
        quarantine_ou=quarantine_ou,
        self_quota=self_quota,
        hook=hook,
        failover_environment=failover_environment,
        failover_ou=failover_ou,
        failover_after_s=failover_after_s,
        secret_generation=secret_generation,
        old_secrets=old_secrets,
    )


def old_secret_of(row: Sequence[Any], sealer: Sealer) -> OldSecret:
    """From a row of `group_secret`."""
    (secret_id, _, generation, sealed, superseded_at, grace_until, retired_at) = row
    return OldSecret(
        generation,
        Secret(sealer.open(sealed, old_secret_aad(secret_id))),
        time_of(superseded_at),
        time_of(grace_until),
        from_ms(retired_at),
    )


def old_secret_row(group_id: str, one: OldSecret, sealer: Sealer) -> Row:
    secret_id = f"{group_id}/{one.generation}"
    return {
        "secret_id": secret_id,
        "group_id": group_id,
        "generation": one.generation,
        "secret_sealed": sealer.seal(one.secret.reveal(), old_secret_aad(secret_id)),
        "superseded_at": to_ms(one.superseded_at),
        "grace_until": to_ms(one.grace_until),
        "retired_at": to_ms(one.retired_at),
    }


def group_row(group: Group, sealer: Sealer) -> Row:
    sealed = None if group.secret is None else sealer.seal(group.secret.reveal(), group_secret_aad(group.group_id))
    return {
        "group_id": group.group_id,
        "product_id": group.product_id,
        "key_kind": group.key_kind.value,
        "secret_sealed": sealed,
        "self_registration": group.self_registration,
        "default_ou": group.default_ou,
        "default_environment": group.default_environment,
        "pending_expiry_s": group.pending_expiry_s,
        "reactivation": group.reactivation.value,
        "target_version_id": group.target_version_id,
        "move_method": group.move_method.value,
        "clone_policy": group.clone_policy.value,
        "template_settings": json_of(group.template_settings),
        "credential_life_s": group.credential_life_s,
        "serial_pattern": group.serial_pattern,
        "quarantine_ou": group.quarantine_ou,
        "self_quota": group.self_quota,
        "hook": group.hook,
        "failover_environment": group.failover_environment,
        "failover_ou": group.failover_ou,
        "failover_after_s": group.failover_after_s,
        "secret_generation": group.secret_generation,
    }


def version_of(row: Sequence[Any]) -> Version:
    """From a row of `version` without `added_at`."""
    (version_id, product_id, name, description, product, hardware, seq, image_id, size, signature, key_id) = row
    return Version(
        version_id=version_id,
        product_id=product_id,
        name=name,
        description=description,
        product=product,
        hardware=hardware,
        seq=seq,
        image_id=image_id,
        size=size,
        signature=signature,
        key_id=key_id,
    )


def version_row(version: Version, added_at: datetime) -> Row:
    return {
        "version_id": version.version_id,
        "product_id": version.product_id,
        "name": version.name,
        "description": version.description,
        "product": version.product,
        "hardware": version.hardware,
        "seq": version.seq,
        "image_id": version.image_id,
        "size": version.size,
        "signature": version.signature,
        "key_id": version.key_id,
        "added_at": to_ms(added_at),
    }


def product_of(row: Sequence[Any], target: Version | None) -> Product:
    (product_id, name, hardware) = row
    return Product(product_id, name, hardware, target)


def release_key_of(row: Sequence[Any]) -> ReleaseKey:
    (key_id, public_key, name) = row
    return ReleaseKey(key_id, public_key, name)
