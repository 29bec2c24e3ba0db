"""The crypto port on the cryptography package."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from device_sdk.drivers.crypto import FullCrypto
from device_sdk.wire import keys

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()


def test_a_release_signature_is_verified():
    crypto = FullCrypto()
    assert crypto.verify_ed25519(PUBLIC, b"m", KEY.sign(b"m"))
    assert not crypto.verify_ed25519(PUBLIC, b"n", KEY.sign(b"m"))


def test_a_key_or_signature_of_a_wrong_shape_does_not_verify():
    crypto = FullCrypto()
    assert not crypto.verify_ed25519(b"short", b"m", KEY.sign(b"m"))
    assert not crypto.verify_ed25519(PUBLIC, b"m", b"")


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


def test_the_fast_hmac_gives_what_the_pure_one_gives():
    assert FullCrypto().hmac_sha256(b"k" * 70, b"data") == keys.hmac_sha256(b"k" * 70, b"data")
