"""Every bound of protocol version 1, in one place.

Owns numbers only. Each has its reason beside it; tests go one past each of them.
Source: docs/protocol.md, section "Limits". Runs on MicroPython.
"""

# Payloads
MAX_PAYLOAD_BYTES = 16 * 1024  # a request or reply, encoded
MAX_DEPTH = 8  # nested maps and arrays
MAX_INT = 2**53 - 1  # the largest integer JSON peers keep exactly
MAX_ID_CHARS = 32
MAX_VERB_CHARS = 16

# Identities
MAX_GROUP_ID_CHARS = 64
MAX_SERIAL_CHARS = 128
ID_HEX_CHARS = 32  # session, thing_id, credential_id, version_id
IMAGE_ID_HEX_CHARS = 64
NONCE_BYTES = 16
DEVICE_KEY_BYTES = 32

# Activation
NONCE_EXPIRES_S = 120
MAX_PENDING_CREDENTIALS = 4  # a fifth drops the oldest
DEFAULT_PENDING_EXPIRY_S = 24 * 3600
HOLD_S = 30  # how long an old credential may answer before a new one takes over
DROPPED_KEPT_S = 600  # a dropped credential's row answers NONCE_EXPIRED at least this long
MAX_PUBLIC_KEYS = 8

# Refusals
RETRY_FIRST_S = 3600
RETRY_MAX_S = 24 * 3600

# Chunks
CHUNK_HEADER_BYTES = 20
MIN_CHUNK_SIZE = 256
DEFAULT_MAX_CHUNK_SIZE = 16 * 1024
MAX_CHUNK_SIZE = 64 * 1024
MAX_WINDOW_CHUNKS = 256
MAX_WINDOW_BYTES = 1024 * 1024
# Outstanding for each device, in all its windows: 1,792 chunks stay below the 2,000 messages that our broker queues for
# a connection; 16 MiB fill a line of 160 MB/s with a round trip of 100 ms.
MAX_OUTSTANDING_CHUNKS = 1792
MAX_OUTSTANDING_BYTES = 16 * 1024 * 1024

# Warehouse
MAX_MANIFEST_BYTES = 9 * 1024  # its document, in MessagePack: grant and certificates fit the same reply
MAX_ITEMS = 40
MAX_ITEM_NAME_CHARS = 64
MAX_NEEDS = 16  # of one item
MAX_INLINE_BYTES = 16 * 1024  # what is larger is an image of its own
MAX_SECRET_BYTES = 1024 * 1024  # a device opens it in memory, as a whole
SEAL_BYTES = 12 + 16  # nonce and tag
MAX_PIECE_BYTES = 8 * 1024  # of an inline item in one reply; fits also as JSON
