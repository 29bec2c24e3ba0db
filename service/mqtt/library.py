"""The one private access of this project to aiomqtt: the paho client inside it.

aiomqtt acknowledges on receipt and leaves the socket of a refused connection open, and offers no way to change either.
Everything done with what `paho_of` returns is paho's public interface. A test fails when it goes away.
"""

from __future__ import annotations

import asyncio
import ssl

import aiomqtt
import paho.mqtt.client as paho_client


def paho_of(client: aiomqtt.Client) -> paho_client.Client:
    return client._client  # noqa: SLF001


def close_socket(client: aiomqtt.Client) -> None:
    """Close what a refused or unanswered CONNECT left open; nothing if it is closed."""
    paho = paho_of(client)
    if paho.disconnect() == 0:
        paho.loop_write()


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
