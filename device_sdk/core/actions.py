"""What the core asks of its driver.

Owns the actions that a client's actions() hands out, in the order in which they are to be done. They hold values only.
An action's repr never shows a password or a private key. Runs on MicroPython.
"""


class Connect:
    """Open a connection with a clean session, subscribe to every filter in `subscribe` (QoS 1), then call connected().

    Where that fails call connect_failed() with "refused" (CONNACK: not authorized or bad user name), "tls" (the peer's
    certificate did not verify) or "unreachable" (all else). A connection still open is ended first. `ca_pem` None with
    `tls` means the system's authorities; `private_key_pem` None with a certificate means that the key is in hardware.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: bool,
        ca_pem: "str | None",
        client_id: str,
        username: "str | None",
        password: "str | None",
        certificate_pem: "str | None",
        private_key_pem: "str | None",
        keepalive_s: int,
        subscribe: "list[str]",
    ) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.ca_pem = ca_pem
        self.client_id = client_id
        self.username = username
        self.password = password
        self.certificate_pem = certificate_pem
        self.private_key_pem = private_key_pem
        self.keepalive_s = keepalive_s
        self.subscribe = subscribe

    def __repr__(self) -> str:
        return "Connect(%s:%d, tls=%s, client_id=%s)" % (self.host, self.port, self.tls, self.client_id)


class Disconnect:
    """End the connection, or the attempt. Nothing of it is told to the core afterwards, disconnected() neither."""

    def __repr__(self) -> str:
        return "Disconnect()"


class Publish:
    """Send `payload` to `topic`, never retained. Nobody waits for a PUBACK: the core repeats until it is answered."""

    def __init__(self, topic: str, payload: bytes, qos: int) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos

    def __repr__(self) -> str:
        return "Publish(%s, %d bytes)" % (self.topic, len(self.payload))


class Reboot:
    """Restart the device. It is the last action of this Client: after the restart a new one is made and started."""

    def __repr__(self) -> str:
        return "Reboot()"


class Shutdown:
    """Switch the device off: everything of the warehouse works. It is the last action of this client."""

    def __repr__(self) -> str:
        return "Shutdown()"


class Note:
    """A line for the log: `level` "debug", "info", "warning" or "error"; `event` a lower_snake word; `detail` text."""

    def __init__(self, level: str, event: str, detail: str) -> None:
        self.level = level
        self.event = event
        self.detail = detail

    def __repr__(self) -> str:
        return "Note(%s, %s, %s)" % (self.level, self.event, self.detail)
