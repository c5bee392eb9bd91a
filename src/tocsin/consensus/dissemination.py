"""Getting evidence to every replica: stating one's own, taking in others', fetching what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tocsin.consensus.evidence_log import EvidenceLog, Gap, Link, Outcome
from tocsin.consensus.inputs import ConsensusConfig, SubmitEvidence
from tocsin.consensus.journal import EVIDENCE
from tocsin.consensus.messages import Cut, EvidenceMessage, Fork, Pull, Want
from tocsin.consensus.outbox import Outbox
from tocsin.errors import InputError, InternalError, StorageCorrupt
from tocsin.model.evidence import EvidenceBatch
from tocsin.model.verdict import Roster
from tocsin.trust.keyring import roster_hash
from tocsin.trust.signing import Signer
from tocsin.wire import limits
from tocsin.wire.evidence import encode_evidence, sign_batch

PULL_TIMER = "pull"
MAX_EARLY = 64
MAX_PULLS = 8  # what nobody could send in so many rounds is forgotten
# The others happen between honest monitors too, whenever something is sent again; all are counted in the log.
_SUSPICIOUS = (Outcome.MALFORMED, Outcome.FORGED, Outcome.REPLAYED, Outcome.EQUIVOCATION)
_REPLY_BYTES = limits.MAX_MESSAGE_BYTES - 4 * limits.KIB


def _chunks(items: Iterable[bytes]) -> list[list[bytes]]:
    """Split encoded items so that each part fits a batch; at least one part, perhaps empty."""
    chunks: list[list[bytes]] = [[]]
    size = 0
    for item in items:
        if chunks[-1] and (len(chunks[-1]) == limits.MAX_BATCH_ITEMS or size + len(item) > limits.MAX_BATCH_ITEM_BYTES):
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += len(item)
    return chunks


class Dissemination:
    """Owns the evidence log and what is being fetched. `certified` arguments are the last decided cut."""

    def __init__(self, roster: Roster, me: int, signer: Signer, config: ConsensusConfig, outbox: Outbox) -> None:
        self.log = EvidenceLog(roster)
        self._roster = roster
        self._me = me
        self._signer = signer
        self._config = config
        self._out = outbox
        self._early: dict[bytes, tuple[int, int]] = {}  # batch that came out of order -> (monitor, pulls so far)
        self._needed: dict[bytes, int] = {}  # batch asked for -> monitor
        self._round = 0

    @property
    def through_offset(self) -> int:
        """Ingest log position up to which this monitor's own chain speaks."""
        return self.log.through_offset(self._me)

    def replay(self, raw: bytes) -> None:
        """Take in a batch from the journal. Raises StorageCorrupt where it is not one that was accepted."""
        if not self.log.restore(raw):
            raise StorageCorrupt("a recorded evidence batch does not hold", remedy="restore the journal from a copy")

    def submit(self, submission: SubmitEvidence, certified: Cut) -> None:
        """State evidence: sign it into our chain, persist, broadcast."""
        chunks = _chunks(self._encoded(submission))
        before = self.through_offset
        for i, chunk in enumerate(chunks):
            # Until the last part is durable the whole submission counts as not stated.
            through = submission.through_offset if i == len(chunks) - 1 else before
            raw = self._signed(chunk, through, submission.fleet_size)
            outcome, _, connected = self.log.offer(raw, certified)
            if outcome is Outcome.EQUIVOCATION:  # somebody else signs with our key, or our journal was lost
                self._out.refuse("our own evidence: our chain has forked")
                return
            if outcome is not Outcome.ACCEPTED:
                raise InternalError(f"our own evidence is refused: {outcome}")
            self._persist(connected)
            self._out.broadcast(EvidenceMessage((raw,)))

    def _encoded(self, submission: SubmitEvidence) -> Iterable[bytes]:
        for item in submission.items:
            try:
                data = encode_evidence(msgspec.structs.replace(item, attestation=b""))
            except InputError:
                self._out.refuse("evidence that does not fit the wire")
                continue
            if item.monitor == self._me:
                yield data
            else:
                self._out.refuse("evidence in another monitor's name")

    def _signed(self, items: Sequence[bytes], through_offset: int, fleet_size: int) -> bytes:
        tip = self.log.tip(self._me)
        header = EvidenceBatch(
            net=self._roster.net,
            config_hash=roster_hash(self._roster),
            monitor=self._me,
            seq=tip.seq + 1,
            prev_hash=tip.head,
            through_offset=through_offset,
            items=(),
            fleet_size=fleet_size,
        )
        return sign_batch(header, items, self._signer)

    def _persist(self, connected: Iterable[Link]) -> None:
        for link in connected:
            self._out.persist(EVIDENCE, link.raw)

    # --- messages

    def on_evidence(self, message: EvidenceMessage, certified: Cut) -> None:
        """Take in batches, newest first or in any order."""
        for raw in message.batches:
            known_forks = len(self.log.forks)
            outcome, signed, connected = self.log.offer(raw, certified, self._config.batches_ahead)
            self._persist(connected)
            if outcome is Outcome.ACCEPTED and signed and not connected:
                self.log.wanted.add(signed.batch.prev_hash)  # the next of this message, if it comes newest first
            elif outcome is Outcome.OUT_OF_ORDER and signed and len(self._early) < MAX_EARLY:
                self._early[signed.head] = (signed.batch.monitor, 0)
            if outcome in _SUSPICIOUS:
                self._out.refuse(outcome)
            if signed and len(self.log.forks) > known_forks:
                self._tell_fork(signed.batch.monitor)

    def on_fork(self, message: Fork) -> None:
        monitor = self.log.learn_fork(message)
        if monitor is not None:
            self._tell_fork(monitor)

    def _tell_fork(self, monitor: int) -> None:
        fork = self.log.forks[monitor]
        self._out.emit("equivocation", Equivocation(monitor, fork))
        self._out.broadcast(fork)

    def tell_forks_in(self, certified: Cut, cut: Cut) -> None:
        """Whoever proposed `cut` does not know of the forks it reaches into."""
        for monitor, (old, new) in enumerate(zip(certified, cut, strict=True)):
            if not self.log.may_reach(monitor, new.seq, old):
                self._out.broadcast(self.log.forks[monitor])

    def on_pull(self, source: int, message: Pull) -> None:
        budget = _REPLY_BYTES
        batches: list[bytes] = []
        for want in message.wants:
            found = self.log.collect(want.head, want.above_seq, budget)
            budget -= sum(map(len, found))
            batches.extend(found)
        if batches:
            self._out.send(source, EvidenceMessage(tuple(batches[: limits.MAX_BATCHES_PER_MESSAGE])))

    def resend(self, before: Cut, certified: Cut) -> None:
        """The cut has grown: others have room for as many of our own batches, which they may have refused."""
        ahead = self._config.batches_ahead
        batches: list[bytes] = []
        budget = _REPLY_BYTES
        for raw in self.log.stretch(self._me, before[self._me].seq + ahead, certified[self._me].seq + ahead):
            if len(raw) > budget or len(batches) == limits.MAX_BATCHES_PER_MESSAGE:
                self._out.broadcast(EvidenceMessage(tuple(batches)))
                batches, budget = [], _REPLY_BYTES
            batches.append(raw)
            budget -= len(raw)
        if batches:
            self._out.broadcast(EvidenceMessage(tuple(batches)))

    def rebroadcast(self, certified: Cut, cut: Cut) -> None:
        """Send what `cut` adds to `certified` again, one message's worth: a leader may not have got it."""
        batches: list[bytes] = []
        budget = _REPLY_BYTES
        for monitor, (old, new) in enumerate(zip(certified, cut, strict=True)):
            for raw in self.log.stretch(monitor, old.seq, new.seq):
                budget -= len(raw)
                if budget >= 0 and len(batches) < limits.MAX_BATCHES_PER_MESSAGE:
                    batches.append(raw)
        if batches:
            self._out.broadcast(EvidenceMessage(tuple(batches)))

    # --- fetching

    def fetch(self, gaps: Iterable[Gap], certified: Cut, likely: int) -> None:
        """Ask for the batches in `gaps`, and for what came out of order; `likely` is who probably has them."""
        needed = {gap.head: gap.monitor for gap in gaps}
        for head, (monitor, _) in list(self._early.items()):
            missing = self.log.missing_under(head)
            if missing is None:
                del self._early[head]
            else:
                needed[missing] = monitor
        new = {head: monitor for head, monitor in needed.items() if head not in self._needed}
        if needed and not self._needed:
            self._out.timer(PULL_TIMER, self._config.pull_delay_ns)
        self._needed = needed
        self.log.wanted = set(needed)
        if new:
            self._pull(new, certified, (likely,))

    def retry(self, certified: Cut, likely: int) -> None:
        """The pull timer fired: ask `likely` and two others, in an order that differs by monitor and round."""
        self._round += 1
        self._early = {head: (m, pulls + 1) for head, (m, pulls) in self._early.items() if pulls < MAX_PULLS}
        if self._needed:
            n = self._roster.n
            others = ((self._me + self._round) % n, (self._me + 2 * self._round + 1) % n)
            self._pull(self._needed, certified, (likely, *others))
            self._out.timer(PULL_TIMER, self._config.pull_delay_ns)

    def _pull(self, needed: dict[bytes, int], certified: Cut, targets: Sequence[int]) -> None:
        wants = [Want(head, certified[monitor].seq) for head, monitor in sorted(needed.items())]
        message = Pull(tuple(wants[: limits.MAX_WANTS_PER_MESSAGE]))
        for target in sorted(set(targets) - {self._me}):
            self._out.send(target, message)


class Equivocation(msgspec.Struct, frozen=True):
    """Emitted as "equivocation": `monitor` signed two batches with one number."""

    monitor: int
    proof: Fork
