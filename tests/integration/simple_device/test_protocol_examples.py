"""The worked examples of docs/protocol.md, computed again by the plain client, which shares no code with the SDK."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.support import plain_client as plain

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"
KEY = bytes(range(32))
RANDOMNESS = bytes.fromhex("101112131415161718191a1b1c1d1e1f")


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stated(text: str) -> dict[str, str]:
    """Name to value of every row `| name | `value` ... |` of the document's example tables."""
    return dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)`(?: \([^|]*\))? \|$", text, re.MULTILINE))


def test_the_session_is_computed_from_its_canon(text: str, stated: dict[str, str]) -> None:
    items = plain.canon("pv1 session", "T-0001", 3, RANDOMNESS)
    block = re.search(r"3, r\) =\n(.*?)```", text, re.DOTALL)
    assert block is not None
    written = "".join("".join(line.split()[:2]) for line in block[1].splitlines())
    assert written == items.hex()
    assert plain.mac(KEY, items)[:16].hex() == stated["session"]


def test_an_empty_item_and_an_integer_have_the_stated_bytes(text: str) -> None:
    block = re.search(r'absent, 1, ""\) is\n\n```\n(.*?)```', text, re.DOTALL)
    assert block is not None
    written = "".join(re.match(r"([0-9a-f]{8}(?: [0-9a-f]+)?)", line)[1] for line in block[1].splitlines())
    assert written.replace(" ", "") == plain.canon("pv1 x", None, 1, "").hex()


def test_claim_proof_grant_and_keys_fit_each_other(stated: dict[str, str]) -> None:
    nonce, server_nonce = bytes.fromhex(stated["nonce"]), bytes.fromhex(stated["server_nonce"])
    session, claim, grant = stated["session"], stated["claim"].encode(), stated["grant"].encode()
    assert plain.mac(KEY, plain.canon("pv1 activate", session, server_nonce, claim)).hex() == stated["proof"]
    assert plain.digest_id("pv1 credential", session, server_nonce, claim) == stated["credential_id"]
    answered = plain.canon("pv1 activated", session, server_nonce, hashlib.sha256(claim).digest(), grant)
    assert plain.mac(KEY, answered).hex() == stated["server_proof"]
    assert plain.api_key(KEY, nonce + server_nonce, stated["thing_id"], stated["credential_id"]) == stated["API key"]


def test_the_messages_shown_carry_the_example_values(text: str, stated: dict[str, str]) -> None:
    for name in ("proof", "server_proof", "nonce", "server_nonce"):
        assert f'"{name}":"{plain.b64(bytes.fromhex(stated[name]))}"' in text
    assert f'"claim":"{plain.b64(stated["claim"].encode())}"' in text
    assert '"bitmap":"' + plain.b64(bytes.fromhex("130080")) + '"' in text


def test_the_firmware_example_fits_its_version_and_mac(stated: dict[str, str]) -> None:
    image = b"firmware 2.0\n"
    assert hashlib.sha256(image).hexdigest() == stated["image_id"]
    items = ("Thermometer", "rev-b", "2.0", 2, stated["image_id"], len(image))
    assert plain.canon("pv1 image", *items).hex() == stated["m"]
    assert plain.digest_id("pv1 image", *items) == stated["version_id"]
    assert plain.digest_id("pv1 release-key", bytes.fromhex(stated["release public key"])) == stated["key_id"]
    document = plain.canon("pv1 desired", stated["thing_id"], stated["credential_id"], stated["doc"].encode())
    assert plain.mac(KEY, document).hex() == stated["mac"]


def test_the_release_signature_of_the_example_verifies(stated: dict[str, str]) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(stated["release public key"]))
    key.verify(plain.unb64(stated["signature (base64url)"]), bytes.fromhex(stated["m"]))


def test_the_example_frame_holds_the_example_image(text: str, stated: dict[str, str]) -> None:
    row = re.search(r"^01 05 000c [0-9a-f ]+$", text, re.MULTILINE)
    assert row is not None
    image = bytearray(13)
    frame = bytes.fromhex(row[0].replace(" ", ""))
    assert plain.PlainDevice._store(image, frame, bytes.fromhex(stated["image_id"])) == 0
    assert image == b"firmware 2.0\n"
    assert plain.PlainDevice._store(image, frame[:-1] + b"!", bytes.fromhex(stated["image_id"])) is None


def test_the_plain_client_stays_short_and_imports_nothing_of_ours() -> None:
    source = Path(plain.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 300
    assert not re.search(r"^\s*(from|import) (device_sdk|service|tests|msgpack|cryptography)", source, re.MULTILINE)


def test_the_plain_client_computes_every_golden_canon() -> None:
    vectors = json.loads((DOCUMENT.parents[1] / "tests" / "vectors" / "canon.json").read_text(encoding="utf-8"))
    assert vectors
    for vector in vectors:
        items = [bytes.fromhex(item["bytes"]) if isinstance(item, dict) else item for item in vector["items"]]
        assert plain.canon(vector["label"], *items).hex() == vector["canon"]
