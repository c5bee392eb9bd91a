"""What a replica must not forget: everything it signed, and the certificates it relied on.

Each record is durable before the message that depends on it leaves. Replaying the records of the current epoch gives
back exactly the promises made in it; a decision closes the epoch and releases them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from tocsin.consensus.messages import ENVELOPE, Certified, Decide, Propose, Timeout, TimeoutCertificate
from tocsin.errors import StorageCorrupt, WireError

EVIDENCE = "evidence"  # an accepted batch's bytes, own and others', in an order in which chains connect
PROPOSED = "proposed"  # a PROPOSE message as sent
VOTED = "voted"
ENTERED = "entered"  # the timeout certificate that opened a view, before a vote in it
LOCKED = "locked"  # a higher prepare certificate was seen
TIMED_OUT = "timed out"  # a TIMEOUT message as sent
DECIDED = "decided"  # a DECIDE message
SNAPSHOT = "snapshot"  # replaces every record before it: see pruning.py


class VotedRecord(msgspec.Struct, frozen=True, array_like=True):
    """A vote about to be sent. The certificate a commit vote relies on is in a LOCKED record before it."""

    view: Annotated[int, msgspec.Meta(ge=0)]
    phase: Literal["P", "C"]


@dataclass(slots=True)
class Promises:
    """Binding state of one epoch. Views are -1 where nothing was promised yet."""

    view: int = 0
    prepared_view: int = -1  # last view voted P in
    committed_view: int = -1  # last view voted C in
    timeout: Timeout | None = None
    proposal: Propose | None = None
    high: Certified | None = None
    entered: TimeoutCertificate | None = None

    @property
    def opening(self) -> TimeoutCertificate | None:
        """What opened `view`, as far as records hold it: others may need our timeout to prove it to them."""
        held = (
            self.entered,
            self.proposal.timeouts if self.proposal else None,
            self.timeout.timeouts if self.timeout else None,
        )
        return next((one for one in held if one is not None and one.view + 1 == self.view), None)

    @property
    def timed_out_view(self) -> int:
        return self.timeout.view if self.timeout else -1

    @property
    def high_view(self) -> int:
        return self.high.votes.view if self.high else -1

    def replay(self, kind: str, record: bytes) -> None:
        """Apply one record of this epoch. Raises StorageCorrupt."""
        try:
            self._apply(kind, record)
        except (msgspec.MsgspecError, ValueError, WireError) as error:
            raise StorageCorrupt(
                f"a journal record of kind {kind!r} does not decode: {error}", remedy="restore the journal from a copy"
            ) from None

    def records(self) -> list[tuple[str, bytes]]:
        """Records whose replay leads to the same promises."""
        out: list[tuple[str, bytes]] = []
        if self.high is not None:
            out.append((LOCKED, msgspec.msgpack.encode(self.high)))
        if self.entered is not None:
            out.append((ENTERED, msgspec.msgpack.encode(self.entered)))
        if self.proposal is not None:
            out.append((PROPOSED, ENVELOPE.encode(self.proposal)))
        if self.prepared_view >= 0:
            out.append((VOTED, msgspec.msgpack.encode(VotedRecord(self.prepared_view, "P"))))
        if self.committed_view >= 0:
            out.append((VOTED, msgspec.msgpack.encode(VotedRecord(self.committed_view, "C"))))
        if self.timeout is not None:
            out.append((TIMED_OUT, ENVELOPE.encode(self.timeout)))
        return out

    def _apply(self, kind: str, record: bytes) -> None:
        if kind == VOTED:
            vote = msgspec.msgpack.decode(record, type=VotedRecord)
            if vote.phase == "P":
                self.prepared_view = vote.view
            else:
                self.committed_view = vote.view
            self.view = max(self.view, vote.view)
            return
        if kind == LOCKED:
            self.high = msgspec.msgpack.decode(record, type=Certified)
            return
        if kind == ENTERED:
            self.entered = msgspec.msgpack.decode(record, type=TimeoutCertificate)
            return
        message = ENVELOPE.decode(record)
        if kind == TIMED_OUT and isinstance(message, Timeout):
            self.timeout = message
        elif kind == PROPOSED and isinstance(message, Propose):
            self.proposal = message
        else:
            raise ValueError("the record is not what its kind says")
        self.view = max(self.view, message.view)


def decode_decided(record: bytes) -> Certified:
    """The decision in a DECIDED record. Raises StorageCorrupt."""
    try:
        message = ENVELOPE.decode(record)
    except WireError as error:
        raise StorageCorrupt(f"a recorded decision does not decode: {error}", remedy="restore the journal") from None
    if not isinstance(message, Decide):
        raise StorageCorrupt("a recorded decision is another message", remedy="restore the journal from a copy")
    return message.certified
