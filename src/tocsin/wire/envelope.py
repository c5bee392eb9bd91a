"""Framing of messages between monitors: one version byte, then a msgpack array led by the message's tag.

Message types are msgspec structs with `array_like=True` and a tag, whose fields carry their own limits
(`msgspec.Meta`). Nothing is interpreted before the size is checked.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from tocsin.errors import WireError
from tocsin.wire.limits import MAX_MESSAGE_BYTES, check_size

VERSION = 1
Message = TypeVar("Message", bound=msgspec.Struct)


class Envelope(Generic[Message]):
    """Encoder and decoder for one union of message types.

    `types` is the union; `max_bytes` bounds what is decoded. A remedy for a wrong version is to upgrade the sender.
    """

    def __init__(self, types: Any, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(types)
        self._max_bytes = max_bytes

    def encode(self, message: Message) -> bytes:
        """Bytes of `message`; raises TooLarge rather than make what no peer would accept."""
        body = bytes((VERSION,)) + self._encoder.encode(message)
        check_size("a message", body, self._max_bytes)
        return body

    def decode(self, body: bytes) -> Message:
        """The message in `body`; raises WireError (TooLarge) and nothing else."""
        check_size("a message", body, self._max_bytes)
        if not body or body[0] != VERSION:
            raise WireError(f"a message does not start with version {VERSION}", remedy="run one version everywhere")
        try:
            return self._decoder.decode(memoryview(body)[1:])
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise WireError(f"a message does not decode: {error}", remedy="run one version everywhere") from None
