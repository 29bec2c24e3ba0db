"""A device of the thing platform, written from docs/partners/things.md with httpx and the standard library alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets

import httpx


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def canon(*items):
    out = b""
    for item in items:
        raw = item if isinstance(item, bytes) else item.encode()
        out += len(raw).to_bytes(4, "big") + raw
    return out


class HttpDevice:
    def __init__(self, client: httpx.AsyncClient, group_id: str, serial: str, key: bytes) -> None:
        self.client, self.group_id, self.serial, self.key = client, group_id, serial, key
        self.boot_count = 1
        self.thing_id = self.api_key = ""

    def mac(self, *items):
        return hmac.digest(self.key, canon(*items), "sha256")

    async def hello(self):
        """The nonce of the service, and what was asked with."""
        session, nonce = secrets.token_hex(16), b64(secrets.token_bytes(16))
        who = {"group_id": self.group_id, "serial": self.serial, "nonce": nonce}
        answer = await self.client.post("/v1/hello", json={"session": session, **who})
        assert answer.status_code == 200, answer.text
        return session, who, answer.json()["server_nonce"]

    async def proof(self, label="pv1 http activate", **more):
        """The body of an activation."""
        session, who, server_nonce = await self.hello()
        claim = json.dumps({**who, "boot_count": self.boot_count, "caps": [], **more}).encode()
        proof = self.mac(label, session, unb64(server_nonce), claim)
        return {"session": session, "claim": b64(claim), "server_nonce": server_nonce, "proof": b64(proof)}

    def put(self, body, **parameters):
        return self.client.put(f"/v1/things/activate/{self.serial}.json", json=body, params=parameters)

    async def activate(self, body=None, **parameters):
        """Activates, checks that it was the service who answered, and takes the key."""
        body = body or await self.proof()
        answer = await self.put(body, **parameters)
        if answer.status_code == 200:
            found = answer.json()
            claim, grant = unb64(body["claim"]), unb64(found["grant"])
            items = body["session"], unb64(body["server_nonce"]), hashlib.sha256(claim).digest(), grant
            assert hmac.compare_digest(self.mac("pv1 http activated", *items), unb64(found["server_proof"]))
            self.thing_id, self.api_key = found["thingId"], found["apiKey"]
            self.grant = json.loads(grant)
            assert self.grant["thing_id"] == self.thing_id
        return answer

    def ask(self, method, path, *, key=None, **more):
        """A request about its thing, with its key or another."""
        headers = {"Authorization": f"Bearer {self.api_key if key is None else key}", **more.pop("headers", {})}
        return self.client.request(method, f"/v1/things/{self.thing_id}{path}", headers=headers, **more)
