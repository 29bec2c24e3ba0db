"""Who the device is from the factory on, and how it proves that.

Owns Identity, Endpoint and Policy, values that are given once. Runs on MicroPython.
"""

from device_sdk.core import signatures
from device_sdk.core.ports import NoEd25519Error, WrongSignatureError
from device_sdk.wire import keys, limits, topics

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from device_sdk.core.ports import Crypto


class Endpoint:
    """An MQTT broker. `ca_pem`: what to verify it with; None: the system's authorities."""

    def __init__(self, host: str, port: int, tls: bool = True, ca_pem: "str | None" = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.ca_pem = ca_pem


class Identity:
    """What the factory put in.

    `key`: the 32 bytes K, or None for a public-key device, whose crypto port signs (`key_index` 0-7 says with which
    key) and whose `service_keys` are the raw Ed25519 keys that may speak for the service. `product` and `hardware`
    are compared with every firmware offered. `release_keys`: raw 32-byte Ed25519 keys; empty: releases are not
    verified. `factory_seq` and `factory_name` describe the firmware it left the factory with. `allow_plain` is the
    build-time switch that lets a grant name an endpoint without TLS. `warehouse`: where it is staged before it is
    shipped; empty: nowhere.
    """

    def __init__(
        self,
        group_id: str,
        serial: str,
        key: "bytes | None",
        product: str,
        hardware: str,
        bootstrap: "list[Endpoint]",
        release_keys: "tuple[bytes, ...]" = (),
        factory_seq: int = 0,
        factory_name: "str | None" = None,
        allow_plain: bool = False,
        model: "str | None" = None,
        key_index: "int | None" = None,
        service_keys: "tuple[bytes, ...]" = (),
        warehouse: "tuple[Endpoint, ...]" = (),
    ) -> None:
        if not bootstrap:
            raise ValueError("a device needs at least one bootstrap endpoint")
        self.group_id = group_id
        self.serial = serial
        self.key = key
        self.product = product
        self.hardware = hardware
        self.bootstrap = bootstrap
        self.release_keys = release_keys
        self.factory_seq = factory_seq
        self.factory_name = factory_name
        self.allow_plain = allow_plain
        self.model = model
        self.key_index = key_index
        self.service_keys = service_keys
        self.warehouse = warehouse

    def __repr__(self) -> str:
        return "Identity(%s, %s)" % (self.group_id, self.serial)


class Policy:
    """Numbers that a product may tune; times in seconds, sizes in bytes. The defaults suit a mains-powered device.

    `chunk_size`: a power of two, 256..65536. `window_chunks`: the first window; it grows to `max_window_bytes`.
    `trial_s`: how long a new image may take to an answered `online` before the device goes back to the old one;
    `placement_trial_s` and `settings_trial_s`: the same for a new environment and for new settings.
    """

    def __init__(
        self,
        chunk_size: int = limits.DEFAULT_MAX_CHUNK_SIZE,
        window_chunks: int = 16,
        max_window_bytes: int = limits.MAX_WINDOW_BYTES,
        keepalive_s: int = 30,
        connect_timeout_s: float = 30.0,
        request_timeout_s: float = 2.0,
        request_tries: int = 4,
        backoff_first_s: float = 1.0,
        backoff_max_s: float = 120.0,
        rung_tries: int = 3,
        rung_span_s: float = 60.0,
        trial_s: float = 900.0,
        retry_install_s: float = 60.0,
        placement_trial_s: float = 600.0,
        settings_trial_s: float = 600.0,
        contact_s: float = 3600.0,
        root: str = topics.ROOT,
    ) -> None:
        self.chunk_size = chunk_size
        self.window_chunks = window_chunks
        self.max_window_bytes = max_window_bytes
        self.keepalive_s = keepalive_s
        self.connect_timeout_s = connect_timeout_s
        self.request_timeout_s = request_timeout_s
        self.request_tries = request_tries
        self.backoff_first_s = backoff_first_s
        self.backoff_max_s = backoff_max_s
        self.rung_tries = rung_tries
        self.rung_span_s = rung_span_s
        self.trial_s = trial_s
        self.retry_install_s = retry_install_s
        self.placement_trial_s = placement_trial_s
        self.settings_trial_s = settings_trial_s
        self.contact_s = contact_s
        self.root = root


class Prover:
    """Makes and checks the proofs of one device, by HMAC under K or by signatures.

    `key` is K where the device speaks just now; `service_keys` are the keys that may speak for the service, the factory's
    until told otherwise; `proven_by` is the one of them that made the proof that held last.
    """

    def __init__(self, identity: Identity, crypto: "Crypto") -> None:
        self.key = identity.key
        self.service_keys: list[bytes] = list(identity.service_keys)
        self.proven_by: bytes | None = None
        self._crypto = crypto

    def prove(self, message: bytes) -> bytes:
        if self.key is not None:
            return self._crypto.hmac_sha256(self.key, message)
        signature = self._crypto.sign(message)
        if signature is None:
            raise ValueError("the identity has no key and the crypto port does not sign")
        return signature

    def fits(self, message: bytes, proof: bytes) -> bool:
        """Whether the service made this proof over these bytes."""
        if self.key is not None:
            return keys.same(self._crypto.hmac_sha256(self.key, message), proof)
        for key in self.service_keys:
            try:
                signatures.verify(self._crypto, key, message, proof)
            except (WrongSignatureError, NoEd25519Error):
                continue
            self.proven_by = key
            return True
        return False
