"""A set-top box written from docs/protocol.md alone: it signs in with one of its public keys and gets a certificate.

Builds on plain_client.py and the `cryptography` library, and shares no code with the SDK. JSON payloads.
"""

import hashlib
import json
import os
import secrets
import ssl
import tempfile

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.plain_client import Connection, PlainDevice, UntrustedError, b64, canon, digest_id, unb64


class PlainBox(PlainDevice):
    """`signer` is the Ed25519 key of that index; `service_key` the raw public key that the factory has put in."""

    def __init__(self, group_id, serial, signer, key_index, service_key, *, tls):
        super().__init__(group_id, serial, b"", tls=tls)
        self.signer, self.key_index = signer, key_index
        self.service_key = Ed25519PublicKey.from_public_bytes(service_key)
        self.own = ec.generate_private_key(ec.SECP256R1())

    def activate(self, host, port):
        """Sections 1.3 and 4.1 to 4.3; stores the credential record. Raises RefusedError, UntrustedError."""
        session = secrets.token_bytes(16).hex()  # section 1.4: there is no K
        link = Connection(host, port, "pv1/b/" + session, session, tls=self.tls)
        try:
            nonce = b64(secrets.token_bytes(16))
            who = {"group_id": self.group_id, "serial": self.serial, "nonce": nonce}
            server_nonce = unb64(link.ask("hello", who)["server_nonce"])
            numbers = {"boot_count": self.memory["boot_count"], "key_index": self.key_index}
            claim = json.dumps({**who, **numbers, "csr": b64(self._csr()), "caps": []}).encode()
            proof = self.signer.sign(canon("pv1 activate", session, server_nonce, claim))
            message = {"claim": b64(claim), "server_nonce": b64(server_nonce), "proof": b64(proof)}
            reply = link.ask("activate", message)
        finally:
            link.close()
        # 1. to 5. of section 4.3.
        grant = unb64(reply["grant"])
        granted = session, server_nonce, hashlib.sha256(claim).digest(), grant
        self._check(canon("pv1 activated", *granted), reply["server_proof"])
        grant = json.loads(grant)
        if grant["credential_id"] != digest_id("pv1 credential", session, server_nonce, claim):
            raise UntrustedError("credential_id")
        if grant["kind"] != "x509" or not grant["endpoint"]["tls"]:
            raise UntrustedError("endpoint")
        certificate = x509.load_pem_x509_certificate(grant["certificate"].encode())
        if _raw(certificate.public_key()) != _raw(self.own.public_key()):
            raise UntrustedError("certificate")
        self.memory["record"] = grant

    def connect(self):
        """Connects with its certificate. Raises ConnectionError."""
        record = self.memory["record"]
        to, me = record["endpoint"], record["credential_id"]
        tls = ssl.create_default_context(cadata=record["ca"])
        key = self.own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(record["certificate"].encode() + os.linesep.encode() + key)
            file.flush()
            tls.load_cert_chain(file.name)
        self.link = Connection(to["host"], to["port"], "pv1/c/" + me, me, tls=tls)

    def online(self):
        """The first one makes the credential count (section 4.5)."""
        return self.link.ask("online", {**self._numbers(), "firmware": self.running, "desired_rev": 0, "caps": []})

    def _check(self, message, signature):
        try:
            self.service_key.verify(unb64(signature), message)
        except InvalidSignature as error:
            raise UntrustedError("signature") from error

    def _csr(self):
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.own, hashes.SHA256())
        return made.public_bytes(Encoding.DER)


def _raw(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
