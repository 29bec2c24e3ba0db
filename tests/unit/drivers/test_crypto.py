"""The crypto port on the cryptography package."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from device_sdk.core.ports import Crypto, WrongSignatureError
from device_sdk.drivers.crypto import FullCrypto, SigningKeyError, load_signing_key
from device_sdk.wire import keys
from service.credentials.authority import Authority, read_csr
from tests.support.mosquitto import make_issuer

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()


def test_a_release_signature_is_verified():
    crypto = FullCrypto()
    crypto.verify_ed25519(PUBLIC, b"m", KEY.sign(b"m"))
    with pytest.raises(WrongSignatureError):
        crypto.verify_ed25519(PUBLIC, b"n", KEY.sign(b"m"))


def test_a_key_or_signature_of_a_wrong_shape_does_not_verify():
    crypto = FullCrypto()
    for public_key, signature in ((b"short", KEY.sign(b"m")), (PUBLIC, b"")):
        with pytest.raises(WrongSignatureError):
            crypto.verify_ed25519(public_key, b"m", signature)


def test_a_request_is_for_a_fresh_p256_key_and_names_nobody():
    made = FullCrypto(x509_credentials=True).make_csr()
    assert made is not None
    request = x509.load_der_x509_csr(made[0])
    assert request.is_signature_valid
    assert len(request.subject) == 0
    key = serialization.load_pem_private_key(made[1].encode(), None)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == request.public_key()


def test_without_certificates_there_is_no_request_and_without_a_key_no_signature():
    assert FullCrypto().make_csr() is None
    assert FullCrypto().sign(b"m") is None
    assert FullCrypto(signing_key=KEY).sign(b"m") == KEY.sign(b"m")


def _pem(key):
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("key", "size"),
    [
        (KEY, 64),
        (ec.generate_private_key(ec.SECP256R1()), 64),
        (rsa.generate_private_key(65537, 2048), 256),
    ],
    ids=["ed25519", "p256", "rsa"],
)
def test_what_a_private_key_signs_is_what_the_protocol_says_of_its_kind(key, size):
    crypto = FullCrypto(signing_key=load_signing_key(_pem(key)))
    for number in range(20):  # r and s are of varying length before they are written out
        signature = crypto.sign(b"m%d" % number)
        assert len(signature) == size
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.public_key().verify(encode_dss_signature(r, s), b"m%d" % number, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            key.public_key().verify(signature, b"m%d" % number, pss, hashes.SHA256())
        else:
            key.public_key().verify(signature, b"m%d" % number)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no key",
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(rsa.generate_private_key(65537, 1024)),
        KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"w")
        ),
    ],
)
def test_a_private_key_of_another_kind_is_refused(pem):
    with pytest.raises(SigningKeyError):
        load_signing_key(pem)


def test_the_fast_hmac_gives_what_the_pure_one_gives():
    assert FullCrypto().hmac_sha256(b"k" * 70, b"data") == keys.hmac_sha256(b"k" * 70, b"data")


def test_a_certificate_is_its_own_only_with_the_key_of_the_request() -> None:
    crypto = FullCrypto(x509_credentials=True)
    issuer = make_issuer()
    made, other = crypto.make_csr(), crypto.make_csr()
    assert made is not None
    assert other is not None
    authority = Authority(issuer.private_key, issuer.certificate)
    issued = authority.sign_csr(read_csr(made[0]), "c" * 32, datetime.now(UTC), bytes(range(20)))
    assert crypto.owns_certificate(issued.pem, made[0])
    assert crypto.owns_certificate(issued.pem + authority.ca_pem, made[0])  # the leaf first
    assert not crypto.owns_certificate(issued.pem, other[0])
    assert not crypto.owns_certificate(authority.ca_pem + issued.pem, made[0])
    for nothing in ("", "-----BEGIN CERTIFICATE-----", issued.pem[:200], "PEM"):
        assert not crypto.owns_certificate(nothing, made[0])
    assert not crypto.owns_certificate(issued.pem, b"no request")
    assert Crypto().owns_certificate(issued.pem, made[0]) is None
