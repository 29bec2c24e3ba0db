"""The other side of a file exchange, made by the openssl program only: keys, certificates, envelopes and signatures."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Platform:
    """A billing platform's own keys in a folder of its own."""

    def __init__(self, folder: Path, name: str = "billing", *, kind: str = "rsa:2048", days: int = 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._kind = kind
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        new = (
            ["-newkey", kind] if kind.startswith("rsa") else ["-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{kind}"]
        )
        if kind == "ed25519":
            new = ["-newkey", "ed25519"]
        openssl(
            "req", "-x509", *new, "-nodes", "-keyout", self.key, "-out", self.certificate,
            "-subj", f"/CN={name}", "-days", str(days),
        )  # fmt: skip

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    def seal(self, data: bytes, recipient_pem: str, *options: str) -> bytes:
        """An envelope for one recipient; options such as -stream, or -keyopt after the recipient."""
        source, target, recipient = self.folder / "plain", self.folder / "sealed", self.folder / "recipient.pem"
        source.write_bytes(data)
        recipient.write_text(recipient_pem)
        early = [one for one in options if "rsa_" not in one and one != "-keyopt"]
        late = [one for one in options if one not in early]
        openssl(
            "cms", "-encrypt", "-binary", *(early or ["-aes256"]), "-outform", "DER", "-in", source, "-out", target,
            "-recip", recipient, *late,
        )  # fmt: skip
        return target.read_bytes()

    def open(self, envelope: bytes) -> bytes:
        source = self.folder / "received"
        source.write_bytes(envelope)
        return openssl(
            "cms",
            "-decrypt",
            "-binary",
            "-inform",
            "DER",
            "-in",
            source,
            "-recip",
            self.certificate,
            "-inkey",
            self.key,
        )

    def sign(self, envelope: bytes) -> bytes:
        """A detached CMS signature, for a .p7s file."""
        source, target = self.folder / "tosign", self.folder / "signature"
        source.write_bytes(envelope)
        openssl(
            "cms", "-sign", "-binary", "-outform", "DER", "-in", source, "-out", target, "-md", "sha256",
            "-signer", self.certificate, "-inkey", self.key,
        )  # fmt: skip
        return target.read_bytes()

    def sign_bare(self, envelope: bytes) -> bytes:
        """The bytes of a .sig file."""
        source = self.folder / "tosign"
        source.write_bytes(envelope)
        if self._kind == "ed25519":
            return openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.key, "-in", source)
        return openssl("dgst", "-sha256", "-sign", self.key, source)

    def verify(self, envelope: bytes, signature: bytes, signer_pem: str, *, any_time: bool = False) -> None:
        """Check a detached CMS signature; raises CalledProcessError."""
        content, found, signer = self.folder / "content", self.folder / "found", self.folder / "signer.pem"
        content.write_bytes(envelope)
        found.write_bytes(signature)
        signer.write_text(signer_pem)
        openssl(
            "cms", "-verify", "-binary", "-inform", "DER", "-in", found, "-content", content, "-certfile", signer,
            "-CAfile", signer, "-purpose", "any",
            *(["-no_check_time"] if any_time else []),
        )  # fmt: skip


def openssl(*words: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60).stdout
