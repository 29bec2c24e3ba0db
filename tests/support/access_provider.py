"""An access provider's SOAP service for tests: written by hand from the WSDL, on the standard library's HTTP server.

Owns what it has granted, and the ways in which it can be bad: `mode`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAMESPACE = "urn:firstlight:entitlement:1"
ENVELOPE = '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{}</s:Body></s:Envelope>'


class AccessProvider:
    """`mode`: works, refuses, fails, garbled, redirects, hangs, grants_and_hangs, grants_and_breaks."""

    def __init__(self) -> None:
        self.mode = "works"
        self.granted: dict[str, tuple[str, str]] = {}  # order id -> (subscriber, package)
        self.grants = 0  # how often something new was granted
        self.asked: list[str] = []
        self.authorization: list[str | None] = []
        self.release = threading.Event()
        self.url = ""

    def answer(self, body: str) -> tuple[int, str] | None:
        """Status and body; None: break off."""
        verb = "GetEntitlement" if "GetEntitlement" in body else "GrantEntitlement"
        order = _text(body, "orderId")
        self.asked.append(verb)
        if verb == "GetEntitlement":
            inner = f"<reference>ref-{order}</reference>" if order in self.granted else ""
            return 200, _body("GetEntitlementResponse", inner)
        if self.mode == "refuses":
            return 500, _fault("s:Client", "no such package")
        if self.mode == "fails":
            return 500, _fault("s:Server", "out of order")
        if self.mode == "garbled":
            return 200, "<html>not SOAP</html>"
        if self.mode == "hangs":
            self.release.wait(20)
            return None
        if order not in self.granted:
            self.granted[order] = (_text(body, "subscriber"), _text(body, "package"))
            self.grants += 1
        if self.mode == "grants_and_hangs":
            self.release.wait(20)
            return None
        if self.mode == "grants_and_breaks":
            return None
        return 200, _body("GrantEntitlementResponse", f"<reference>ref-{order}</reference>")


@contextmanager
def access_provider() -> Iterator[AccessProvider]:
    """Listening on a free port of loopback."""
    provider = AccessProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            provider.authorization.append(self.headers.get("Authorization"))
            if provider.mode == "redirects":
                self.send_response(302)
                self.send_header("Location", provider.url)
                self.end_headers()
                return
            answer = provider.answer(body)
            if answer is None:
                self.close_connection = True
                return
            status, text = answer
            self.send_response(status)
            self.send_header("Content-Type", "text/xml; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_address[1]}/entitlement"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        provider.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _text(body: str, name: str) -> str:
    found = re.search(rf"<(?:\w+:)?{name}>([^<]*)<", body)
    assert found is not None, body
    return found.group(1)


def _body(name: str, inner: str) -> str:
    return ENVELOPE.format(f'<{name} xmlns="{NAMESPACE}">{inner}</{name}>')


def _fault(code: str, text: str) -> str:
    return ENVELOPE.format(f"<s:Fault><faultcode>{code}</faultcode><faultstring>{text}</faultstring></s:Fault>")
