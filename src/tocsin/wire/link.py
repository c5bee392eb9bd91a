"""What crosses a TCP link between two nodes: frames, and the handshake that says who is at the other end.

    frame      length (4 bytes, big-endian, of what follows) ‖ kind (1 byte) ‖ body
    handshake  dialler HELLO ─> acceptor HELLO, PROOF ─> dialler PROOF

A HELLO names protocol, fleet (32 bytes, the roster's hash), node and a fresh nonce. A PROOF is an Ed25519 signature
over fleet, role, both node numbers and both nonces: it can be neither replayed nor reflected nor shown to a third node.
It says who opened the link. It does not protect what follows from somebody who can write into the TCP stream: what
must not be altered is signed by itself, and a link that leaves the machine belongs inside a private network or tunnel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from tocsin.errors import TooLarge, VerificationError, WireError
from tocsin.trust.signing import HASH_BYTES, LINK, SIGNATURE_BYTES, Signer, verify
from tocsin.wire.limits import MAX_MESSAGE_BYTES

HELLO, PROOF, BODY, PING, PONG = range(5)
MAGIC = b"tocsin/1 link"
NONCE_BYTES = 32
TOKEN_BYTES = 8
MAX_HANDSHAKE_BYTES = 128
MAX_NODES = 1 << 20

_HEAD = struct.Struct(">IB")
_HELLO = struct.Struct(f">{len(MAGIC)}s{HASH_BYTES}sI{NONCE_BYTES}s")
_PROOF = struct.Struct(f">B{HASH_BYTES}sII{NONCE_BYTES}s{NONCE_BYTES}s")
KeyOf = Callable[[int], bytes | None]  # node -> Ed25519 public key; None: not a node of this fleet


def frame(kind: int, body: bytes) -> bytes:
    """`body` as it goes onto the stream. Raises TooLarge rather than send what the other end would refuse."""
    if len(body) > MAX_MESSAGE_BYTES:
        cause = f"a frame's body has {len(body)} bytes; the limit is {MAX_MESSAGE_BYTES}"
        raise TooLarge(cause, remedy="send it in smaller parts")
    return _HEAD.pack(len(body) + 1, kind) + body


class Frames:
    """Takes a stream apart. `limit` bounds a frame's body before anything is kept of it."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self.limit = limit
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each complete (kind, body). Raises WireError (TooLarge); the stream is of no use afterwards."""
        kept = self._kept
        if kept:
            kept += data
        stream = kept or data  # usually nothing was kept, and nothing is copied
        at = 0
        try:
            while len(stream) - at >= _HEAD.size:
                length, kind = _HEAD.unpack_from(stream, at)
                if not 1 <= length <= self.limit + 1:
                    raise TooLarge(f"a frame of {length} bytes; the limit is {self.limit}", remedy="close the link")
                if kind > PONG:
                    raise WireError(f"a frame of unknown kind {kind}", remedy="run one version everywhere")
                end = at + _HEAD.size - 1 + length
                if len(stream) < end:
                    return
                body = bytes(stream[at + _HEAD.size : end])
                at = end
                yield kind, body
        finally:
            if stream is kept:
                del kept[:at]
            else:
                kept += stream[at:]


class Handshake:
    """One end of a handshake, sans-I/O: write `opening()`, feed frames to `receive` until `peer` is known.

    `expected` is the node that was dialled; None at the end that accepted. `nonce`: 32 fresh random bytes.
    """

    def __init__(
        self, fleet: bytes, me: int, signer: Signer, key_of: KeyOf, nonce: bytes, expected: int | None = None
    ) -> None:
        self.peer: int | None = None  # proven
        self._fleet = fleet
        self._me = me
        self._signer = signer
        self._key_of = key_of
        self._nonce = nonce
        self._expected = expected
        self._claimed = -1
        self._theirs = b""

    def opening(self) -> bytes:
        """What to write at once: the dialler speaks first."""
        return b"" if self._expected is None else self._hello()

    def receive(self, kind: int, body: bytes) -> bytes:
        """Take in a frame; returns what to write. Raises WireError or VerificationError: close the link."""
        if kind == HELLO and self._claimed < 0:
            return self._on_hello(body)
        if kind == PROOF and self._claimed >= 0:
            return self._on_proof(body)
        raise WireError("a frame out of order in a handshake", remedy="close the link")

    def _hello(self) -> bytes:
        return frame(HELLO, _HELLO.pack(MAGIC, self._fleet, self._me, self._nonce))

    def _on_hello(self, body: bytes) -> bytes:
        if len(body) != _HELLO.size:
            raise WireError("a hello of the wrong size", remedy="run one version everywhere")
        magic, fleet, claimed, theirs = _HELLO.unpack(body)
        if magic != MAGIC:
            raise WireError("a hello of another protocol", remedy="run one version everywhere")
        if fleet != self._fleet:
            raise VerificationError("the other end belongs to another fleet", remedy="give every node one roster")
        if claimed == self._me or self._key_of(claimed) is None or self._expected not in (None, claimed):
            raise VerificationError(f"the other end says it is node {claimed}", remedy="check the nodes' addresses")
        self._claimed, self._theirs = claimed, theirs
        return self._hello() + self._proof() if self._expected is None else b""

    def _on_proof(self, body: bytes) -> bytes:
        key = self._key_of(self._claimed)
        dialler = self._expected is None  # the other end is the one that dialled
        if key is None or not verify(key, LINK, self._signed(dialler, self._claimed, self._me), body):
            raise VerificationError(f"the other end is not node {self._claimed}", remedy="check the nodes' keys")
        self.peer = self._claimed
        return b"" if dialler else self._proof()

    def _proof(self) -> bytes:
        dialler = self._expected is not None
        return frame(PROOF, self._signer.sign(LINK, self._signed(dialler, self._me, self._claimed)))

    def _signed(self, dialler: bool, signing: int, other: int) -> bytes:
        nonces = (self._nonce, self._theirs) if self._expected is not None else (self._theirs, self._nonce)
        return _PROOF.pack(dialler, self._fleet, signing, other, *nonces)


assert max(_HELLO.size, SIGNATURE_BYTES) <= MAX_HANDSHAKE_BYTES
