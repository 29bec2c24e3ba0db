"""How to connect: the Connect action of each place.

Owns which credential goes where in it. Source: docs/protocol.md, section "Topics and connections". Runs on MicroPython.
"""

from device_sdk.core.actions import Connect
from device_sdk.wire import topics

TYPE_CHECKING = False  # a checker takes it for typing's, which MicroPython lacks
if TYPE_CHECKING:
    from typing import Any

    from device_sdk.core.identity import Endpoint, Policy


def operational_connect(policy: "Policy", credential: "dict[str, Any]", ca_pem: "str | None") -> Connect:
    """With a credential record: by user name and API key, or by certificate."""
    owner = credential["credential_id"]
    return Connect(
        host=credential["host"],
        port=credential["port"],
        tls=credential["tls"],
        ca_pem=ca_pem,
        client_id=owner,
        username=None if credential["kind"] == "x509" else owner,
        password=credential.get("password"),
        certificate_pem=credential.get("certificate"),
        private_key_pem=credential.get("private_key"),
        keepalive_s=policy.keepalive_s,
        subscribe=[topics.down_filter(topics.OPERATIONAL, owner, policy.root)],
    )


def bootstrap_connect(policy: "Policy", endpoint: "Endpoint", session: str, ca_pem: "str | None") -> Connect:
    """Without a login: the session is the client id."""
    return Connect(
        host=endpoint.host,
        port=endpoint.port,
        tls=endpoint.tls,
        ca_pem=ca_pem,
        client_id=session,
        username=None,
        password=None,
        certificate_pem=None,
        private_key_pem=None,
        keepalive_s=policy.keepalive_s,
        subscribe=[topics.down_filter(topics.BOOTSTRAP, session, policy.root)],
    )
