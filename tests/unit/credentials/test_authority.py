"""What the authority signs, and the CSRs that it refuses."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.credentials.authority import Authority, AuthorityError, CsrError, read_csr
from tests.support.fake_link import START

SERIAL = bytes(range(100, 120))
ID = "0123456789abcdef0123456789abcdef"
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca"), "prod", START)


def csr(key=P256, cn="anything", *extensions, algorithm=None) -> bytes:
    if algorithm is None and not isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        algorithm = hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def read(*args):
    return read_csr(csr(*args))


@pytest.mark.parametrize(
    "key",
    [
        P256,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa2048"],
)
def test_a_good_key_gets_a_certificate_of_our_making(authority, key):
    issued = authority.sign_csr(read(key), ID, START, SERIAL)
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    ca = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    certificate.verify_directly_issued_by(ca)
    assert certificate.subject.rfc4514_string() == f"CN={ID}"
    assert certificate.public_key() == key.public_key()
    assert certificate.not_valid_before_utc == START - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == START + timedelta(days=365) == issued.expires_at
    assert f"{certificate.serial_number:x}" == issued.serial
    assert issued.spki_sha256 == read(key).spki_sha256
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_subject_and_extensions_of_the_csr_are_ignored(authority):
    evil = csr(
        P256,
        "ffffffffffffffffffffffffffffffff",
        x509.BasicConstraints(ca=True, path_length=5),
        x509.SubjectAlternativeName([x509.DNSName("broker.example")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.KeyUsage(False, False, False, False, False, True, True, False, False),
    )
    certificate = x509.load_pem_x509_certificate(authority.sign_csr(read_csr(evil), ID, START, SERIAL).pem.encode())
    assert certificate.subject.rfc4514_string() == f"CN={ID}"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def changed(der: bytes, at: int) -> bytes:
    return der[:at] + bytes([der[at] ^ 0x01]) + der[at + 1 :]


def with_other_signature() -> bytes:
    """The request of one key under the signature of another."""
    mine, other = csr(P256), csr(ec.derive_private_key(7, ec.SECP256R1()))
    loaded = x509.load_der_x509_csr(mine)
    swapped = other.replace(x509.load_der_x509_csr(other).tbs_certrequest_bytes, loaded.tbs_certrequest_bytes)
    x509.load_der_x509_csr(swapped)
    return swapped


EVIL = {
    "nothing": (b"", "csr_malformed"),
    "text": (b"-----BEGIN CERTIFICATE REQUEST-----", "csr_malformed"),
    "PEM": (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "csr_malformed"),
    "a truncated one": (csr()[:-1], "csr_malformed"),
    "one with a byte more": (csr() + b"\0", "csr_malformed"),
    "a long form of nothing": (b"\x30\x84\xff\xff\xff\xff", "csr_malformed"),
    "one whose signature is damaged": (changed(csr(cn="x"), -10), "csr_signature"),
    "one signed by another key": (with_other_signature(), "csr_signature"),
    "RSA of 1024 bits": (csr(rsa.generate_private_key(65537, 1024)), "csr_key_type"),
    "P-521": (csr(ec.generate_private_key(ec.SECP521R1())), "csr_key_type"),
    "P-224": (csr(ec.generate_private_key(ec.SECP224R1())), "csr_key_type"),
    "secp256k1": (csr(ec.generate_private_key(ec.SECP256K1())), "csr_key_type"),
    "Ed448": (csr(ed448.Ed448PrivateKey.generate()), "csr_key_type"),
    "DSA": (csr(dsa.generate_private_key(2048)), "csr_key_type"),
}


@pytest.mark.parametrize(("der", "cause"), EVIL.values(), ids=EVIL)
def test_an_evil_csr_is_refused(authority, der, cause):
    with pytest.raises(CsrError) as caught:
        authority.sign_csr(read_csr(der), ID, START, SERIAL)
    assert caught.value.cause == cause


def test_every_byte_of_a_csr_changed_is_refused_or_gets_a_certificate_for_that_very_key(authority):
    good = csr()
    for at in range(len(good)):
        try:
            issued = authority.sign_csr(read_csr(changed(good, at)), ID, START, SERIAL)
        except CsrError:
            continue
        certificate = x509.load_pem_x509_certificate(issued.pem.encode())
        assert certificate.subject.rfc4514_string() == f"CN={ID}"
        assert certificate.public_key() == P256.public_key()


def test_a_created_authority_loads_again_and_is_not_replaced(tmp_path):
    made = Authority.create(tmp_path / "prod", "prod", START)
    assert Authority.load(tmp_path / "prod").ca_pem == made.ca_pem
    assert (tmp_path / "prod" / "ca.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AuthorityError):
        Authority.create(tmp_path / "prod", "prod", START)


def test_the_making_of_an_authority_that_was_cut_off_goes_on_with_its_key(tmp_path):
    Authority.create(tmp_path, "prod", START)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.pem").unlink()
    made = Authority.create(tmp_path, "prod", START)
    assert (tmp_path / "ca.key").read_bytes() == key
    assert Authority.load(tmp_path).ca_pem == made.ca_pem
    (tmp_path / "ca.pem").unlink()
    (tmp_path / "ca.key").write_bytes(key[:50])
    with pytest.raises(AuthorityError):
        Authority.create(tmp_path, "prod", START)


def test_an_authority_s_key_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="disk full"):
            Authority.create(tmp_path, "prod", START)
    assert [*tmp_path.iterdir()] == []
    Authority.create(tmp_path, "prod", START)


@pytest.mark.parametrize("fault", ["open", "missing", "foreign", "damaged"])
def test_a_faulty_authority_is_refused(tmp_path, fault):
    Authority.create(tmp_path / "a", "a", START)
    Authority.create(tmp_path / "b", "b", START)
    key = tmp_path / "a" / "ca.key"
    if fault == "open":
        key.chmod(0o644)
    elif fault == "missing":
        key.unlink()
    elif fault == "foreign":
        key.write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    else:
        key.write_bytes(b"x")
    with pytest.raises(AuthorityError):
        Authority.load(tmp_path / "a")
