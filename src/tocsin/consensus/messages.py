"""Messages between replicas. Fields carry their limits; meaning and signatures are the replica's to check."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tocsin.trust import bls
from tocsin.trust.signing import HASH_BYTES, SIGNATURE_BYTES
from tocsin.wire import limits
from tocsin.wire.envelope import Envelope

Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Share = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=bls.SHARE_BYTES)]  # Ed25519 or BLS
Aggregate = Annotated[bytes, msgspec.Meta(min_length=bls.SIGNATURE_BYTES, max_length=bls.SIGNATURE_BYTES)]
Bitmap = Annotated[bytes, msgspec.Meta(max_length=limits.MAX_MONITORS // 8)]  # of monitors; see quorum.members
MonitorIndex = Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_MONITORS)]
Counter = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_COUNTER)]
CounterOrNone = Annotated[int, msgspec.Meta(ge=-1, le=limits.MAX_COUNTER)]  # -1 = none
PhaseName = Literal["P", "C"]
MAX_SIFTED = 31  # shares that one helper is asked about
MAX_TIMEOUT_SUMS = 64  # different highest views in one timeout certificate


class Tip(msgspec.Struct, frozen=True, array_like=True):
    """How far a cut reaches into one monitor's chain: last batch's number and hash (-1 and zeros: not at all)."""

    seq: CounterOrNone
    head: Hash


class Step(msgspec.Struct, frozen=True, array_like=True):
    """Where a cut reaches in one monitor's chain, if not where the last decided one does."""

    monitor: MonitorIndex
    seq: CounterOrNone
    head: Hash


LeanCut = Annotated[tuple[Step, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
Cut = tuple[Tip, ...]  # index = monitor
_WireCut = Annotated[tuple[Tip, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """One BLS signature in place of those of all `signers`."""

    signers: Bitmap
    signature: Aggregate


class Votes(msgspec.Struct, frozen=True, array_like=True):
    """A certificate without what every replica knows (net, roster). See quorum.statement_of."""

    epoch: Counter
    view: Counter
    phase: PhaseName
    prev_cert_hash: Hash
    cut_root: Hash
    posterior_root: Hash
    signatures: Annotated[tuple[tuple[MonitorIndex, Signature], ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
    total: Sum | None = None  # in place of `signatures` under a roster with BLS keys


class Certified(msgspec.Struct, frozen=True, array_like=True):
    """A certificate and the cut under its cut_root."""

    votes: Votes
    cut: _WireCut


class TimeoutVote(msgspec.Struct, frozen=True, array_like=True):
    """One monitor's signature in a timeout certificate."""

    monitor: MonitorIndex
    high_view: CounterOrNone
    signature: Signature


class TimeoutSum(msgspec.Struct, frozen=True, array_like=True):
    """Everybody in a timeout certificate who had seen the same highest view."""

    high_view: CounterOrNone
    total: Sum


class TimeoutCertificate(msgspec.Struct, frozen=True, array_like=True):
    """A quorum gave up on (epoch, view); `high` is the highest prepare certificate any of them had seen."""

    epoch: Counter
    view: Counter
    votes: Annotated[tuple[TimeoutVote, ...], msgspec.Meta(max_length=limits.MAX_MONITORS)]
    high: Certified | None
    sums: Annotated[tuple[TimeoutSum, ...], msgspec.Meta(max_length=MAX_TIMEOUT_SUMS)] = ()  # in place of `votes`


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
    signature: Share


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
    signature: Share


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


class Sift(msgspec.Struct, frozen=True, array_like=True, tag="SIFT"):
    """A leader asks which of these shares are votes for its proposal (tally.py)."""

    epoch: Counter
    view: Counter
    phase: PhaseName
    cut_root: Hash
    posterior_root: Hash
    shares: Annotated[tuple[tuple[MonitorIndex, Share], ...], msgspec.Meta(max_length=MAX_SIFTED)]


class Sifted(msgspec.Struct, frozen=True, array_like=True, tag="SIFTED"):
    """A helper's claim that the shares of `good` hold."""

    epoch: Counter
    view: Counter
    phase: PhaseName
    good: Bitmap


class Lean(msgspec.Struct, frozen=True, array_like=True, tag="LEAN"):
    """A message of `epoch` whose cuts are empty, and what they add to the cut decided before it (lean.py)."""

    epoch: Counter
    cuts: Annotated[tuple[LeanCut, ...], msgspec.Meta(max_length=3)]
    body: bytes


class StatePull(msgspec.Struct, frozen=True, array_like=True, tag="STATE_PULL"):
    """Asks for a chunk of the state after `epoch`, offered before; epoch -1: for an offer of the newest."""

    epoch: CounterOrNone
    index: Counter = 0


class StateOffer(msgspec.Struct, frozen=True, array_like=True, tag="STATE_OFFER"):
    """The state after this decision, of so many leaves, can be had. None: nothing was decided yet."""

    certified: Certified | None
    leaves: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_STATE_LEAVES)] = 0


class StateChunk(msgspec.Struct, frozen=True, array_like=True, tag="STATE_CHUNK"):
    """Leaves of the state after `epoch`, a whole subtree, and its path to the certified root."""

    epoch: Counter
    index: Counter
    items: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=limits.MAX_LEAVES_PER_CHUNK)]
    proof: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=limits.MAX_PATH)]


AnyMessage = (
    EvidenceMessage
    | Propose
    | Vote
    | Prepared
    | Decide
    | Timeout
    | Sync
    | Certificates
    | Pull
    | Fork
    | Lean
    | Sift
    | Sifted
    | StatePull
    | StateOffer
    | StateChunk
)
ENVELOPE: Envelope[AnyMessage] = Envelope(AnyMessage)
