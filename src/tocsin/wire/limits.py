"""Every maximum that bytes from outside must keep, in one place."""

from __future__ import annotations

from tocsin.errors import TooLarge
from tocsin.trust import keyring, merkle

KIB = 1024

# Strings, in bytes of UTF-8.
MAX_AGENT_ID_BYTES = 256
MAX_FEATURE_BYTES = 128
MAX_DETAIL_BYTES = 512
MAX_NET_BYTES = 4 * keyring.MAX_NET_CHARACTERS

# Evidence.
MAX_REASONS = 16
MAX_ATTESTATION_BYTES = 32 * KIB
MAX_ITEM_BYTES = 16 * KIB  # one item as it stands in a batch, without its attestation
MAX_BATCH_ITEMS = 512
MAX_BATCH_ITEM_BYTES = 64 * KIB  # all items of a batch together
MAX_HEADER_BYTES = KIB
MAX_BATCH_BYTES = 72 * KIB

# Messages between monitors.
MAX_MONITORS = keyring.MAX_MONITORS
MAX_MESSAGE_BYTES = 256 * KIB
MAX_BATCHES_PER_MESSAGE = 128
MAX_BATCHES_PER_CUT = 256  # of each monitor
MAX_CERTIFICATES_PER_MESSAGE = 16
MAX_WANTS_PER_MESSAGE = 2 * MAX_MONITORS
MAX_PATH = merkle.MAX_DEPTH
MAX_STATE_LEAVES = 1 << 22
MAX_LEAVES_PER_CHUNK = 256
MAX_CHUNK_BYTES = 192 * KIB  # its leaves; the message has room for a path beside them

# Files.
MAX_CERTIFICATE_FILE_BYTES = 1024 * KIB
MAX_JSON_DEPTH = 16

# Numbers.
MAX_COUNTER = (1 << 62) - 1


def check_size(what: str, data: bytes, maximum: int) -> None:
    """Raises TooLarge when `data` has more than `maximum` bytes."""
    if len(data) > maximum:
        raise TooLarge(f"{what} has {len(data)} bytes; the limit is {maximum}", remedy="send it in smaller parts")
