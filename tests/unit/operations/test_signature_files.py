"""Release keys and signature files on an operator's disk: what is made, read and refused."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from device_sdk.wire import ids
from service.errors import Secret
from service.operations import releases
from tests.support.refusals import refused_now
from tests.support.releases import sign


def test_a_release_key_is_private_and_never_overwritten(key):
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert refused_now(releases.keygen, key) == "release_key_file_exists"
    assert key.read_bytes() == before
    public = releases.read_public_key(key.with_name("release.pem.pub"))
    assert public.key_id == ids.release_key_id(public.public_key)


def test_a_passphrase_is_wanted_where_one_was_given(tmp_path, image, key):
    path = tmp_path / "locked.pem"
    releases.keygen(path, passphrase=Secret(b"correct horse"))
    assert b"ENCRYPTED" in path.read_bytes()
    assert sign(image, path, passphrase=Secret(b"correct horse")).seq == 2
    assert refused_now(sign, image, path) == "release_key_passphrase"
    assert refused_now(sign, image, path, passphrase=Secret(b"wrong")) == "release_key_illegal"
    assert refused_now(sign, image, key, passphrase=Secret(b"needless")) == "release_key_passphrase"


def test_a_key_of_another_kind_does_not_sign(tmp_path, image):
    other = generate_private_key(SECP256R1())
    path = tmp_path / "p256.pem"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert refused_now(sign, image, path) == "release_key_illegal"
    pem = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (pem, "", "AAAA", "-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----"):
        assert refused_now(releases.parse_public_key, text) == "release_key_illegal"


def test_a_signature_file_comes_back_as_it_was(tmp_path, image, key):
    signed = sign(image, key)
    path = tmp_path / "image.sig"
    path.write_text(signed.to_json())
    assert releases.read_signature(path) == signed
    assert json.loads(path.read_text())["version_id"] == signed.version_id


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"format": "other"}, "signature_malformed"),
        ({"seq": "2"}, "seq_illegal"),
        ({"seq": True}, "seq_illegal"),
        ({"seq": -1}, "seq_illegal"),
        ({"size": 0}, "signature_malformed"),
        ({"size": 1.5}, "signature_malformed"),
        ({"product": 7}, "signature_malformed"),
        ({"name": ""}, "text_illegal"),
        ({"image_id": "xyz"}, "signature_malformed"),
        ({"image_id": None}, "signature_malformed"),
        ({"signature": "%%%"}, "signature_malformed"),
        ({"signature": None}, "signature_malformed"),
    ],
)
def test_a_malformed_signature_file_is_refused(tmp_path, image, key, change, cause):
    path = tmp_path / "image.sig"
    path.write_text(json.dumps({**json.loads(sign(image, key).to_json()), **change}))
    assert refused_now(releases.read_signature, path) == cause


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 50_000])
def test_what_is_no_signature_file_is_refused(tmp_path, text):
    path = tmp_path / "image.sig"
    path.write_text(text)
    assert refused_now(releases.read_signature, path) == "signature_malformed"
    assert refused_now(releases.read_signature, tmp_path / "none") == "signature_unreadable"


def test_an_empty_or_missing_image_is_not_signed(tmp_path, image, key):
    image.write_bytes(b"")
    assert refused_now(sign, image, key) == "image_empty"
    assert refused_now(sign, tmp_path / "none", key) == "image_unreadable"
    assert refused_now(sign, image, key, seq=-1) == "seq_illegal"
