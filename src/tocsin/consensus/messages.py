"""Messages between replicas. Fields carry their limits; meaning and signatures are the replica's to check."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tocsin.trust.signing import HASH_BYTES, SIGNATURE_BYTES
from tocsin.wire import limits
from tocsin.wire.envelope import Envelope

Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
MonitorIndex = Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_MONITORS)]
Counter = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_COUNTER)]
CounterOrNone = Annotated[int, msgspec.Meta(ge=-1, le=limits.MAX_COUNTER)]  # -1 = none
PhaseName = Literal["P", "C"]


class Tip(msgspec.Struct, frozen=True, array_like=True):
    """How far a cut reaches into one monitor's chain: last batch's number and hash (-1 and zeros: not at all)."""

    seq: CounterOrNone
    head: Hash


Cut = tuple[Tip, ...]  # index = monitor
_WireCut = Annotated[tuple[Tip, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]


class Votes(msgspec.Struct, frozen=True, array_like=True):
    """A certificate without what every replica knows (net, roster). See quorum.statement_of."""

    epoch: Counter
    view: Counter
    phase: PhaseName
    prev_cert_hash: Hash
    cut_root: Hash
    posterior_root: Hash
    signatures: Annotated[tuple[tuple[MonitorIndex, Signature], ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]


class Certified(msgspec.Struct, frozen=True, array_like=True):
    """A certificate and the cut under its cut_root."""

    votes: Votes
    cut: _WireCut


class TimeoutVote(msgspec.Struct, frozen=True, array_like=True):
    """One monitor's signature in a timeout certificate."""

    monitor: MonitorIndex
    high_view: CounterOrNone
    signature: Signature


class TimeoutCertificate(msgspec.Struct, frozen=True, array_like=True):
    """A quorum gave up on (epoch, view); `high` is the highest prepare certificate any of them had seen."""

    epoch: Counter
    view: Counter
    votes: Annotated[tuple[TimeoutVote, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
    high: Certified | None


class EvidenceMessage(msgspec.Struct, frozen=True, array_like=True, tag="EVIDENCE"):
    """Signed batches (wire/evidence.py); newest first when answering a PULL."""

    batches: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=limits.MAX_BATCHES_PER_MESSAGE)]


class Propose(msgspec.Struct, frozen=True, array_like=True, tag="PROPOSE"):
    """The leader's value for a view, signed over the P statement."""

    epoch: Counter
    view: Counter
    cut: _WireCut
    posterior_root: Hash
    timeouts: TimeoutCertificate | None
    signature: Signature


class Vote(msgspec.Struct, frozen=True, array_like=True, tag="VOTE"):
    """A vote for the statement that these fields and the epoch's history make."""

    epoch: Counter
    view: Counter
    phase: PhaseName
    cut_root: Hash
    posterior_root: Hash
    signature: Signature


class Prepared(msgspec.Struct, frozen=True, array_like=True, tag="QC1"):
    """The QC1 of a view."""

    certified: Certified


class Decide(msgspec.Struct, frozen=True, array_like=True, tag="DECIDE"):
    """A decision, with its proof."""

    certified: Certified


class Timeout(msgspec.Struct, frozen=True, array_like=True, tag="TIMEOUT"):
    """`timeouts` justifies being in `view` to those who are not there yet."""

    epoch: Counter
    view: Counter
    high_view: CounterOrNone
    high: Certified | None
    timeouts: TimeoutCertificate | None
    signature: Signature


class Sync(msgspec.Struct, frozen=True, array_like=True, tag="SYNC"):
    """The sender has decided everything below `epoch`; what is it missing?"""

    epoch: Counter


class Certificates(msgspec.Struct, frozen=True, array_like=True, tag="CERTS"):
    """Consecutive decisions, oldest first."""

    certified: Annotated[tuple[Certified, ...], msgspec.Meta(max_length=limits.MAX_CERTIFICATES_PER_MESSAGE)]


class Want(msgspec.Struct, frozen=True, array_like=True):
    """The batch with hash `head`, and those before it down to, not including, number `above_seq`."""

    head: Hash
    above_seq: CounterOrNone


class Pull(msgspec.Struct, frozen=True, array_like=True, tag="PULL"):
    """Asks for batches by hash."""

    wants: Annotated[tuple[Want, ...], msgspec.Meta(max_length=limits.MAX_WANTS_PER_MESSAGE)]


class Fork(msgspec.Struct, frozen=True, array_like=True, tag="FORK"):
    """Two headers with one monitor and number, both signed: transferable proof that the monitor equivocated."""

    header_a: Annotated[bytes, msgspec.Meta(max_length=limits.MAX_HEADER_BYTES)]
    signature_a: Signature
    header_b: Annotated[bytes, msgspec.Meta(max_length=limits.MAX_HEADER_BYTES)]
    signature_b: Signature


AnyMessage = EvidenceMessage | Propose | Vote | Prepared | Decide | Timeout | Sync | Certificates | Pull | Fork
ENVELOPE: Envelope[AnyMessage] = Envelope(AnyMessage)
