"""What the service's connections need beside device_sdk/aiomqtt_mended.py: sockets closed, cancellations heeded."""

from __future__ import annotations

import asyncio
import ssl

from device_sdk.aiomqtt_mended import close_socket, paho_of

__all__ = ["close_refused", "close_socket", "heed_cancellation", "paho_of"]

HANDSHAKE_TIMEOUT_S = 5.0


class _ClosedWhenRefused(ssl.SSLSocket):
    """paho leaves a socket open whose handshake failed, and gives a handshake the whole keep-alive time."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_TIMEOUT_S)
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def close_refused(context: ssl.SSLContext) -> None:
    """Have the sockets of this context closed when their handshake fails."""
    context.sslsocket_class = _ClosedWhenRefused


def heed_cancellation() -> None:
    """Raise CancelledError if this task was cancelled and did not notice.

    Python 3.11's wait_for, in which aiomqtt waits, returns normally when what it waits for is done at the same moment;
    the cancellation is then lost and a loop that reconnects would never end. Call it after each await of aiomqtt.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
