"""Every bound of the running service, in one place. Values only; the wire's own stand in device_sdk/wire/limits.

Rates are per second, bursts in messages or bytes. Tests go one past each.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_sdk.wire import limits
from service.images.streamer import StreamBounds


@dataclass(frozen=True, slots=True)
class Bounds:
    batch_messages: int = 256  # in one commit: beyond that a larger batch saves little and waits longer
    # Queues
    queued_hellos: int = 8192  # all sessions together
    queued_activates: int = 8192
    queued_requests: int = 8192  # operational
    queued_per_session: int = 4  # a device has one open; repeats make a second
    queued_replies: int = 16384  # per link; a link that is down or slow loses the newest
    # Rates before decoding
    session_rate: float = 10.0
    session_burst: float = 20.0
    credential_rate: float = 300.0  # a fetch for each window: at 1 MiB more than `thing_bytes_rate` lets through
    credential_burst: float = 600.0
    bucket_table: int = 65536  # sessions or credentials remembered; the longest unused is forgotten
    early_refusal_interval_s: float = 1.0  # at most one reply to what could not be decoded, a session and this time
    # Overall budgets
    hello_rate: float = 5000.0
    hello_burst: float = 5000.0
    activate_rate: float = 3000.0
    activate_burst: float = 3000.0
    # Rates after the proof
    serial_rate: float = 1.0
    serial_burst: float = 30.0
    group_rate: float = 3000.0
    group_burst: float = 6000.0
    # Memory of what happened lately
    unproven_traces: int = 10000
    # Brokers
    grant_batch: int = 256
    grants_waiting: int = 4096  # per environment
    gate_timeout_s: float = 10.0
    # Activation hooks
    hook_timeout_s: float = 5.0  # waiting for a turn included
    hooks_at_once: int = 32
    hooks_of_group: int = 8
    hooks_waiting: int = 1024  # of one group
    # Streaming
    max_chunk_size: int = 16 * 1024
    thing_bytes_rate: float = 256 * 1024 * 1024
    thing_bytes_burst: float = 64 * 1024 * 1024
    stream_bytes_rate: float = 1024 * 1024 * 1024
    stream_bytes_burst: float = 512 * 1024 * 1024
    permits: int = 65536
    permit_s: float = 1.0  # how long an authorisation to fetch is believed; a drop ends it at once
    page_bytes: int = 256 * 1024
    page_cache_bytes: int = 16 * 1024 * 1024
    turn_bytes: int = 64 * 1024  # to one thing before the next has its turn
    open_images: int = 16
    # Clock
    tick_s: float = 1.0
    dropped_kept_s: int = (
        3 * limits.DROPPED_KEPT_S // 2
    )  # rows of dropped credentials; the protocol promises a repeat 2/3
    # History; an installation sets its own
    events_kept_s: int = 90 * 86400
    commands_kept_s: int = 90 * 86400  # since they finished
    audit_kept_s: int = 400 * 86400

    def __post_init__(self) -> None:
        """Raises ValueError where a promise of the protocol would not hold."""
        if self.dropped_kept_s < limits.DROPPED_KEPT_S:
            raise ValueError(f"rows of dropped credentials are kept for {limits.DROPPED_KEPT_S} s at least")

    def stream(self) -> StreamBounds:
        """Those of the chunk stream."""
        return StreamBounds(
            max_chunk_size=self.max_chunk_size,
            permits=self.permits,
            permit_s=self.permit_s,
            page_bytes=self.page_bytes,
            page_cache_bytes=self.page_cache_bytes,
            turn_bytes=self.turn_bytes,
            open_images=self.open_images,
        )
