"""Activation: from the factory key to a credential of the device's own.

Owns `hello` and `activate` on one bootstrap session: nonces, claim, proofs, the check of the grant. Stores nothing and
decides no wait: it gives the record, or says why not. Source: docs/protocol.md, section "Activation". Runs on
MicroPython.
"""

from device_sdk.core import fields
from device_sdk.core.fields import MalformedError
from device_sdk.core.requests import Requests
from device_sdk.wire import codes, ids, keys, limits, topics
from device_sdk.wire.packer import packb

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.context import Context

_MAX_NONCE_RETRIES = 3
_MAX_PEM_CHARS = 12 * 1024
# A "later" that is shorter than this is waited for inside the session; the server nonce lives 120 s.
_PATIENCE_S = 30
_LATER = (codes.THROTTLED, codes.UNAVAILABLE)


class Refused:
    """The service said no: try again after `retry_after_s`, None if it did not say."""

    def __init__(self, code: str, retry_after_s: "int | None") -> None:
        self.code = code
        self.retry_after_s = retry_after_s


class Activation:
    """One attempt in one session, whose id is the client id. `firmware` is what runs now.

    A renewal is asked for on the operational connection: `space` and `session` are then those of its topics.
    """

    verb = "activate"

    def __init__(
        self,
        context: "Context",
        firmware: "dict[str, Any]",
        space: str = topics.BOOTSTRAP,
        session: "str | None" = None,
    ) -> None:
        self._context = context
        self._firmware = firmware
        self._nonce = b""
        self._server_nonce = b""
        self._claim = b""
        self._csr: tuple[bytes, str | None] | None = None
        self._nonce_retries = 0
        self.session = session or self._new_session()
        self.requests = Requests(context, space, self.session)

    def start(self, now: float) -> None:
        """The session's connection is open: say hello, with a new nonce."""
        identity = self._context.identity
        self._nonce = self._context.random_bytes(limits.NONCE_BYTES)
        hello = {"group_id": identity.group_id, "serial": identity.serial, "nonce": self._nonce}
        self.requests.ask("hello", hello, now)

    def reply(self, verb: str, reply: "dict[str, Any]", now: float) -> "dict[str, Any] | Refused | None":
        """The credential record of a good grant, Refused, or None while it goes on. Raises MalformedError: no such reply."""
        if verb == self.verb and self.requests.verb == verb and reply.get("ok") is True:
            # The open request is closed only by a reply that proves itself, so a forged one changes nothing.
            record = self._grant(reply)
            return record if self.requests.answers(verb, reply) else None
        if verb == "hello" and reply.get("ok") is True:
            server_nonce = fields.raw(reply, "server_nonce")
            if len(server_nonce) != limits.NONCE_BYTES:
                raise MalformedError("server_nonce")
            if self.requests.answers(verb, reply):
                self._activate(server_nonce, now)
            return None
        if reply.get("ok") is not False:
            return None
        code, wait_s = fields.text(reply, "code", 64), fields.retry_after(reply)
        return self._refused(verb, code, wait_s, now) if self.requests.answers(verb, reply) else None

    def _refused(self, verb: str, code: str, wait_s: "int | None", now: float) -> "Refused | None":
        self._context.trouble(code.lower(), "%s refused" % verb)
        if code == codes.NONCE_EXPIRED and self._nonce_retries < _MAX_NONCE_RETRIES:
            self._nonce_retries += 1
            self._csr = None  # its key may be that of a credential that was dropped, which is not certified again
            self.start(now)
            return None
        if code in _LATER and wait_s is not None and wait_s <= _PATIENCE_S:
            self.requests.reopen_at(verb, now + wait_s)
            return None
        return Refused(code, wait_s)

    def _activate(self, server_nonce: bytes, now: float) -> None:
        identity = self._context.identity
        claim: dict[str, Any] = {
            "group_id": identity.group_id,
            "serial": identity.serial,
            "nonce": self._nonce,
            "boot_count": self._context.boot_count,
            "firmware": self._firmware,
            "caps": [],
        }
        if self._csr is None:
            self._csr = self._context.crypto.make_csr()
        if self._csr is not None:
            claim["csr"] = self._csr[0]
        if identity.model is not None:
            claim["model"] = identity.model
        if identity.key_index is not None:
            claim["key_index"] = identity.key_index
        self._server_nonce = server_nonce
        self._claim = packb(claim)
        proof = self._context.prover.prove(self._asked(self.session, server_nonce, self._claim))
        request = {"claim": self._claim, "server_nonce": server_nonce, "proof": proof}
        self.requests.ask(self.verb, request, now)

    def _grant(self, reply: "dict[str, Any]") -> "dict[str, Any]":
        grant = fields.raw(reply, "grant")
        proof = fields.raw(reply, "server_proof")
        # 1. The service holds our key and means this very attempt: over the exact bytes, before any is used.
        message = self._granted(self.session, self._server_nonce, self._claim, grant)
        if not self._context.prover.fits(message, proof):
            raise MalformedError("wrong_server_proof")
        # 2. What it grants is well formed, and the credential is the one that this claim computes.
        values = fields.read_map(grant)
        credential_id = fields.text(values, "credential_id", limits.ID_HEX_CHARS)
        if credential_id != ids.credential_id(self.session, self._server_nonce, self._claim):
            raise MalformedError("wrong_credential_id")
        endpoint = fields.submap(values, "endpoint")
        record = {
            "credential_id": credential_id,
            "thing_id": fields.text(values, "thing_id", limits.ID_HEX_CHARS),
            "kind": fields.text(values, "kind", 16),
            "name": fields.text(values, "name", 256),
            "ou": fields.text(values, "ou", 1024),
            "environment": fields.text(values, "environment", 256),
            "host": fields.text(endpoint, "host", 255),
            "port": fields.integer(endpoint, "port", 1, 65535),
            "tls": endpoint.get("tls") is not False,
            "ca": fields.optional_text(values, "ca", _MAX_PEM_CHARS),
        }
        # 3. No downgrade to a plain connection, unless the device was built to allow it.
        if not record["tls"] and not self._context.identity.allow_plain:
            raise MalformedError("plain_endpoint")
        self._add_login(record, values)
        return record

    def _add_login(self, record: "dict[str, Any]", values: "dict[str, Any]") -> None:
        key = self._key_for(record, values.get("rekey") is True)
        if key != self._context.identity.key:
            record["key"] = key
        if record["kind"] == "api_key":
            if key is None:
                raise MalformedError("kind")  # a device with a private key has no API keys
            hmac = self._context.crypto.hmac_sha256
            record["password"] = keys.api_key(
                key, self._nonce, self._server_nonce, record["thing_id"], record["credential_id"], hmac
            )
        elif record["kind"] == "x509" and self._csr is not None:
            certificate = fields.text(values, "certificate", _MAX_PEM_CHARS)
            # 4. It is for the key of this attempt: another's could be stored, and never used.
            if self._context.crypto.owns_certificate(certificate, self._csr[0]) is False:
                raise MalformedError("foreign_certificate")
            record["certificate"] = certificate
            record["private_key"] = self._csr[1]
        else:
            raise MalformedError("kind")

    def _key_for(self, record: "dict[str, Any]", rekey: bool) -> "bytes | None":
        """The device key that goes with the credential: another one after a transfer of ownership."""
        key = self._context.prover.key
        if not rekey:
            return key
        if key is None:
            raise MalformedError("rekey")  # who holds a private key makes a new one by itself
        return keys.rekey(
            key,
            self._nonce,
            self._server_nonce,
            record["thing_id"],
            record["credential_id"],
            self._context.crypto.hmac_sha256,
        )

    def _asked(self, session: str, server_nonce: bytes, claim: bytes) -> bytes:
        return keys.activate_message(session, server_nonce, claim)

    def _granted(self, session: str, server_nonce: bytes, claim: bytes, grant: bytes) -> bytes:
        return keys.activated_message(session, server_nonce, claim, grant)

    def _new_session(self) -> str:
        context = self._context
        fresh = context.random_bytes(16)
        if context.identity.key is None:
            return keys.session_of(fresh)
        message = keys.session_message(context.identity.serial, context.boot_count, fresh)
        return keys.session_of(context.prover.prove(message))
