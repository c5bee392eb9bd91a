"""Every monitor's hash chain of evidence, as far as this replica holds it.

A batch is accepted when it extends a chain we hold; duplicates, replays, forgeries and batches out of order are
refused and counted. Two signed batches of one monitor with one number are an equivocation: proof is kept and the
monitor's chain is excluded from that number on. A batch that a proposal or a certificate names (`wanted`) is always
accepted, fork or not, because the quorum's choice of branch counts and not which one reached us first. Wanted batches
are fetched backwards: each is vouched for by the hash that the next one, or the cut, holds.

What is decided is forgotten in time: of each chain only the base, number and hash of its last forgotten link, is left,
which is all that the next link needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from tocsin.consensus.cut import NOTHING
from tocsin.consensus.messages import Cut, Fork, Tip
from tocsin.errors import VerificationError, WireError
from tocsin.model.evidence import EvidenceBatch
from tocsin.model.verdict import Roster
from tocsin.wire.evidence import SignedBatch, batch_head, open_batch, open_header

MAX_ORPHANS = 4096


class Outcome(StrEnum):
    """What became of an offered batch; also the reason under which a refusal is counted."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate evidence"
    REPLAYED = "replayed evidence"
    MALFORMED = "malformed evidence"
    FORGED = "forged evidence"
    OUT_OF_ORDER = "evidence out of order"
    EQUIVOCATION = "equivocating evidence"
    OVER_QUOTA = "evidence over its author's quota"


# Pure, so remembering is safe: replicas of one process open the same bytes, and a batch is offered more than once.
_open = lru_cache(maxsize=256)(open_batch)


@dataclass(frozen=True, slots=True)
class Link:
    """A batch in its chain, with its bytes as received."""

    raw: bytes
    signed: SignedBatch

    @property
    def tip(self) -> Tip:
        return Tip(self.signed.batch.seq, self.signed.head)

    @property
    def batch(self) -> EvidenceBatch:
        return self.signed.batch


@dataclass(frozen=True, slots=True)
class Gap:
    """A cut cannot be folded yet: the batch with this hash, of this monitor, is missing."""

    head: bytes
    monitor: int


class Conflict(Exception):
    """A cut does not extend the one before it."""


Offered = tuple[Outcome, SignedBatch | None, list[Link]]


class EvidenceLog:
    """Chains of `roster.n` monitors. Anything that raises in here is a bug: `offer` takes any bytes."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._links: dict[bytes, Link] = {}  # connected to the start of their chain, all branches
        self._orphans: dict[bytes, Link] = {}  # wanted, but what they extend is missing
        self._chains: list[list[Link]] = [[] for _ in range(roster.n)]  # the branch seen first, after its base
        self._bases: list[Tip] = [NOTHING] * roster.n
        self._through = [0] * roster.n  # through_offset of the last forgotten batch
        self._fork_seq: dict[int, int] = {}
        self._newest: tuple[Cut, int, Cut] | None = None  # what newest_cut was asked last, and answered
        self.forks: dict[int, Fork] = {}
        self.wanted: set[bytes] = set()
        self.refused: Counter[str] = Counter()

    def offer(self, raw: bytes, certified: Cut, ahead: int | None = None) -> Offered:
        """Take in a batch. Returns the outcome, the batch where it is authentic, and the links newly connected.

        One that lies more than `ahead` batches beyond the certified cut is refused, unless it is wanted.
        """
        try:
            signed = _open(raw, self._roster)
        except WireError:
            return self._refuse(Outcome.MALFORMED)
        except VerificationError:
            return self._refuse(Outcome.FORGED)
        old = signed.batch.seq <= certified[signed.batch.monitor].seq
        if signed.batch.seq <= self._bases[signed.batch.monitor].seq:
            return self._refuse(Outcome.REPLAYED)
        if signed.head in self._links or signed.head in self._orphans:
            return self._refuse(Outcome.REPLAYED if old else Outcome.DUPLICATE)
        forked = self._notice_fork(signed)
        if signed.head not in self.wanted:
            if ahead is not None and signed.batch.seq > certified[signed.batch.monitor].seq + ahead:
                return self._refuse(Outcome.OVER_QUOTA, signed)
            if forked:
                return self._refuse(Outcome.EQUIVOCATION, signed)
            if not self._extends(signed):
                return self._refuse(Outcome.OUT_OF_ORDER, signed)
        return Outcome.ACCEPTED, signed, self._take(Link(raw, signed))

    def restore(self, raw: bytes) -> bool:
        """Take in a batch that was connected before a restart. Whether it connects again."""
        try:
            signed = _open(raw, self._roster)
        except (WireError, VerificationError):
            return False
        self._notice_fork(signed)
        return self._extends(signed) and bool(self._take(Link(raw, signed)))

    def _refuse(self, outcome: Outcome, signed: SignedBatch | None = None) -> Offered:
        self.refused[outcome] += 1
        return outcome, signed, []

    def _extends(self, signed: SignedBatch) -> bool:
        batch = signed.batch
        base = self._bases[batch.monitor]
        if batch.seq == base.seq + 1:
            return batch.prev_hash == base.head
        before = self._links.get(batch.prev_hash)
        return before is not None and (before.batch.monitor, before.batch.seq) == (batch.monitor, batch.seq - 1)

    def _take(self, link: Link) -> list[Link]:
        self.wanted.discard(link.signed.head)
        if not self._extends(link.signed):
            if len(self._orphans) < MAX_ORPHANS:
                self._orphans[link.signed.head] = link
            return []
        connected: list[Link] = []
        ready = [link]
        while ready:
            one = ready.pop()
            self._connect(one)
            connected.append(one)
            for head in [h for h, o in self._orphans.items() if o.batch.prev_hash == one.signed.head]:
                orphan = self._orphans.pop(head)
                if self._extends(orphan.signed):
                    ready.append(orphan)
        return connected

    def _connect(self, link: Link) -> None:
        self._links[link.signed.head] = link
        monitor = link.batch.monitor
        if link.batch.prev_hash == self.tip(monitor).head:
            self._chains[monitor].append(link)
            self._newest = None

    # --- forgetting

    def forget(self, cut: Cut) -> None:
        """Forget what `cut`, which is decided, covers, whether it is held or not."""
        for monitor, tip in enumerate(cut):
            if tip.seq > self._bases[monitor].seq:
                self._rebase(monitor, tip)
        for head in [h for h, o in self._orphans.items() if o.batch.seq <= self._bases[o.batch.monitor].seq]:
            del self._orphans[head]
        self._newest = None

    def _rebase(self, monitor: int, tip: Tip) -> None:
        known = self._at(monitor, tip.seq)
        chain = self._chains[monitor]
        if known is not None and known.tip == tip and monitor not in self._fork_seq:
            self._through[monitor] = known.batch.through_offset
            count = tip.seq - self._bases[monitor].seq
            for link in chain[:count]:
                del self._links[link.signed.head]
            self._chains[monitor] = chain[count:]
            self._bases[monitor] = tip
            return
        # The quorum chose another branch, or knows a chain further than we do: see what is held that follows from it.
        held = [link for link in self._links.values() if link.batch.monitor == monitor]
        held += [link for link in self._orphans.values() if link.batch.monitor == monitor]
        self._through[monitor] = next((one.batch.through_offset for one in held if one.tip == tip), 0)
        self._chains[monitor] = []
        self._bases[monitor] = tip
        for link in held:
            self._links.pop(link.signed.head, None)
            self._orphans.pop(link.signed.head, None)
        for link in sorted(held, key=lambda link: link.batch.seq):
            if self._extends(link.signed):
                self._connect(link)

    def stated_through(self, monitor: int, through_offset: int) -> None:
        """What the forgotten part of a chain speaks of."""
        self._through[monitor] = through_offset

    def beyond(self, cut: Cut) -> list[bytes]:
        """Bytes of all batches held that follow from `cut`, in an order in which they connect."""
        reached = {tip.head for tip in cut}
        out: list[bytes] = []
        for link in sorted(self._links.values(), key=lambda link: (link.batch.monitor, link.batch.seq)):
            if link.batch.prev_hash in reached and link.batch.seq > cut[link.batch.monitor].seq:
                reached.add(link.signed.head)
                out.append(link.raw)
        return out

    def _at(self, monitor: int, seq: int) -> Link | None:
        """The batch with this number, on the branch seen first."""
        index = seq - self._bases[monitor].seq - 1
        chain = self._chains[monitor]
        return chain[index] if 0 <= index < len(chain) else None

    # --- equivocation

    def _notice_fork(self, signed: SignedBatch) -> bool:
        monitor, seq = signed.batch.monitor, signed.batch.seq
        known = self._at(monitor, seq)
        if known is not None and known.signed.head != signed.head:
            first = known.signed
            self._record_fork(monitor, seq, Fork(first.header, first.signature, signed.header, signed.signature))
        return seq >= self._fork_seq.get(monitor, seq + 1)

    def _record_fork(self, monitor: int, seq: int, fork: Fork) -> bool:
        if seq >= self._fork_seq.get(monitor, seq + 1):
            return False
        self._fork_seq[monitor] = seq
        self.forks[monitor] = fork
        self._newest = None
        return True

    def learn_fork(self, fork: Fork) -> int | None:
        """Take in somebody's proof. Returns the equivocating monitor when the proof holds and tells us something."""
        if fork.header_a == fork.header_b:
            return None
        try:
            a = open_header(fork.header_a, fork.signature_a, self._roster)
            b = open_header(fork.header_b, fork.signature_b, self._roster)
        except (WireError, VerificationError):
            return None
        if (a.monitor, a.seq) != (b.monitor, b.seq) or batch_head(fork.header_a) == batch_head(fork.header_b):
            return None
        return a.monitor if self._record_fork(a.monitor, a.seq, fork) else None

    def may_reach(self, monitor: int, seq: int, certified: Tip) -> bool:
        """Whether a free proposal may extend `monitor`'s chain to `seq`: not into a known fork."""
        return seq <= certified.seq or seq < self._fork_seq.get(monitor, seq + 1)

    # --- cuts

    def newest_cut(self, certified: Cut, batches_per_cut: int) -> Cut:
        """The furthest cut that extends `certified` by at most `batches_per_cut` batches of each monitor."""
        if self._newest is None or self._newest[0] is not certified or self._newest[1] != batches_per_cut:
            cut = tuple(self._newest_tip(m, tip, batches_per_cut) for m, tip in enumerate(certified))
            self._newest = certified, batches_per_cut, cut
        return self._newest[2]

    def _newest_tip(self, monitor: int, certified: Tip, batches_per_cut: int) -> Tip:
        if certified != self._bases[monitor]:
            known = self._at(monitor, certified.seq)
            if known is None or known.tip != certified:
                return certified  # the quorum chose another branch than the one we saw first: a fork, so it ends here
        end = self.tip(monitor).seq
        last = self._at(monitor, min(end, certified.seq + batches_per_cut, self._fork_seq.get(monitor, end + 1) - 1))
        return last.tip if last is not None and last.batch.seq > certified.seq else certified

    def between(self, certified: Cut, cut: Cut) -> list[Link] | Gap:
        """Links that `cut` adds to `certified`, ordered by (monitor, seq), or what is missing. Raises Conflict."""
        links: list[Link] = []
        for monitor, (old, new) in enumerate(zip(certified, cut, strict=True)):
            if new.seq < old.seq:
                raise Conflict
            part: list[Link] = []
            for link in self._backwards(new.head):
                if (link.batch.monitor, link.batch.seq) != (monitor, new.seq - len(part)):
                    raise Conflict
                if link.batch.seq == old.seq:
                    break
                part.append(link)
            reached = part[-1].batch.prev_hash if part else new.head
            if new.seq - len(part) > old.seq:
                return Gap(reached, monitor)
            if reached != old.head:
                raise Conflict
            links.extend(reversed(part))
        return links

    def missing_under(self, head: bytes) -> bytes | None:
        """Hash of the first batch missing on the way from `head` to the start of its chain; None: none is."""
        for link in self._backwards(head):
            if link.signed.head in self._links or link.batch.seq <= self._bases[link.batch.monitor].seq + 1:
                return None  # connected, or of a branch that was not decided
            head = link.batch.prev_hash
        return head

    def _backwards(self, head: bytes) -> Iterator[Link]:
        while (link := self._links.get(head) or self._orphans.get(head)) is not None:
            yield link
            head = link.batch.prev_hash

    def collect(self, head: bytes, above_seq: int, max_bytes: int) -> list[bytes]:
        """Bytes of the batch `head` and those before it, newest first, within `max_bytes`."""
        out: list[bytes] = []
        for link in self._backwards(head):
            max_bytes -= len(link.raw)
            if link.batch.seq <= above_seq or max_bytes < 0:
                break
            out.append(link.raw)
        return out

    def stretch(self, monitor: int, above_seq: int, to_seq: int) -> list[bytes]:
        """Bytes of the branch seen first, oldest first, numbers above_seq+1..to_seq."""
        first = self._bases[monitor].seq + 1
        return [link.raw for link in self._chains[monitor][max(0, above_seq + 1 - first) : max(0, to_seq + 1 - first)]]

    def batches(self, monitor: int) -> Iterator[EvidenceBatch]:
        """The branch of `monitor` that was seen first, as far as it is held, oldest first."""
        return (link.batch for link in self._chains[monitor])

    def tip(self, monitor: int) -> Tip:
        """End of the branch of `monitor` that was seen first."""
        chain = self._chains[monitor]
        return chain[-1].tip if chain else self._bases[monitor]

    def through_offset(self, monitor: int) -> int:
        """Ingest log position that the batch at `tip(monitor)` speaks of; 0 where that is not known."""
        chain = self._chains[monitor]
        return chain[-1].batch.through_offset if chain else self._through[monitor]
