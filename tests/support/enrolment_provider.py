"""The stand-in of an enrolment provider behind a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from service.errors import Secret
from tests.support.enrolment import StandIn


@contextmanager
def provider_server(standin: StandIn) -> Iterator[str]:
    """Its URL; without the right token it answers 401."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != "Bearer provider-token":
                status, answer = 401, json.dumps({"error": "who are you?"}).encode()
            else:
                status, answer = asyncio.run(standin.ask(self.path, body, Secret(b"provider-token")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/enroll-service/1.0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
