"""What must hold at every moment of a run, whatever goes wrong, and what must hold at its end.

Checked from outside, on what honest monitors make durable, send and announce, with arithmetic of its own: a checker
that asked the code under test whether it was right would learn little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tocsin.consensus import journal
from tocsin.consensus.certificate import verify_verdict
from tocsin.consensus.cut import cut_root, empty_cut
from tocsin.consensus.lean import Filled
from tocsin.consensus.messages import (
    ENVELOPE,
    AnyMessage,
    Certified,
    Cut,
    Decide,
    Lean,
    Prepared,
    Propose,
    Timeout,
    Tip,
    Vote,
)
from tocsin.consensus.pruning import Snapshot, decode_snapshot
from tocsin.consensus.quorum import certificate_of, leader_of, vote_holds
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import VerificationError
from tocsin.model.evidence import EvidenceBatch
from tocsin.model.posterior import Decision
from tocsin.model.verdict import QuorumCertificate, Roster, Verdict
from tocsin.sim.central import UNITS_PER_NAT, Central, differs
from tocsin.sim.seat import Seat
from tocsin.trust import bls
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.signing import VOTE, domain_hash
from tocsin.wire.evidence import open_batch

# Decoding everything sent would double a run's time. A message's tag begins after version, array and string headers.
TAG = slice(3, 5)
SIGNED_TAGS = frozenset(tag[:2].encode() for tag in ("VOTE", "PROPOSE", "TIMEOUT", "QC1", "DECIDE", "LEAN"))
Slot = tuple[int, int, str]  # epoch, view, what: 'P' and 'C' votes, 'propose', 'timeout'
Value = tuple[bytes, bytes]  # cut root, posterior root


class Violation(AssertionError):
    """An invariant does not hold. `kind` is short and the same for the same cause; the message has the details."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


@dataclass(slots=True)
class Known:
    """What one honest monitor is known to have bound itself to, crashes included."""

    epoch: int = 0  # decisions durable
    announced: int = 0
    locked_view: int = -1  # in the current epoch
    gave_up_view: int = -1
    proposal: tuple[int, Value] | None = None  # view and value of its own latest proposal
    cut: Cut = ()
    stated: set[bytes] = field(default_factory=set[bytes])  # its own batches that its disk held
    leaps: set[int] = field(default_factory=set[int])  # epochs whose state it took over from others


class Invariants:
    """Told by seats what they do; raises Violation. `roster` is the true one, whatever the code under test believes."""

    def __init__(self, roster: Roster, faulty: tuple[int, ...]) -> None:
        self.roster = roster
        self.cuts: list[Cut] = [empty_cut(roster.n)]  # cuts[e + 1] is what epoch e decided
        self.values: dict[int, Value] = {}  # decided, by epoch
        self.posterior = FleetPosterior(roster)
        self.central = Central(roster)
        self.verdict_ids: set[str] = set()
        self._faulty = frozenset(faulty)
        self._known = {i: Known() for i in range(roster.n) if i not in self._faulty}
        self._said: dict[tuple[int, Slot], object] = {}
        self._backing: dict[tuple[Slot, Value], set[int]] = {}
        self._certifiable: dict[int, Value] = {}
        self._cut_under: dict[bytes, Cut] = {}
        self._gave_up: dict[int, dict[int, int]] = {}  # epoch -> honest monitor -> latest view it gave up
        self._outcomes: dict[int, bytes] = {}  # what the first honest monitor made of a decision, by epoch
        self._opened: dict[bytes, bytes] = {}  # evidence as recorded -> its hash
        self._batches: dict[bytes, EvidenceBatch] = {}  # all that any honest monitor's disk held, by hash

    # --- what seats do

    def durable(self, seat: Seat, kind: str, record: bytes) -> None:
        """A record of an honest monitor's journal has reached the disk."""
        if not seat.honest:
            return
        known = self._known[seat.index]
        if kind == journal.DECIDED:
            self._decision_durable(known, journal.decode_decided(record))
        elif kind == journal.SNAPSHOT:
            self._snapshot_durable(seat, known, decode_snapshot(record))
        elif kind == journal.EVIDENCE:
            self._evidence_durable(seat, known, record)
        else:
            self._promise_durable(seat, known, kind, record)

    def _evidence_durable(self, seat: Seat, known: Known, record: bytes) -> None:
        if record not in self._opened:
            signed = open_batch(record, self.roster)
            self._opened[record] = signed.head
            self._batches[signed.head] = signed.batch
        head = self._opened[record]
        if self._batches[head].monitor == seat.index:
            known.stated.add(head)

    def _promise_durable(self, seat: Seat, known: Known, kind: str, record: bytes) -> None:
        if kind == journal.PROPOSED:
            message = ENVELOPE.decode(record)
            assert isinstance(message, Propose)
            value = (cut_root(message.cut), message.posterior_root)
            known.proposal = (message.view, value)
            self._says(seat.index, (message.epoch, message.view, "propose"), value)
        elif kind == journal.VOTED:
            vote = msgspec.msgpack.decode(record, type=journal.VotedRecord)
            if vote.view <= known.gave_up_view:
                raise Violation("a vote in a view that was given up", f"monitor {seat.index}, view {vote.view}")
            # A leader's own vote is in no message; it can only be for its proposal.
            if leader_of(self.roster, known.epoch, vote.view) == seat.index and known.proposal is not None:
                view, value = known.proposal
                if view == vote.view:
                    self._voted(seat.index, (known.epoch, view, vote.phase), value)
        elif kind == journal.TIMED_OUT:
            message = ENVELOPE.decode(record)
            assert isinstance(message, Timeout)
            known.gave_up_view = max(known.gave_up_view, message.view)
            self._gave_up.setdefault(message.epoch, {})[seat.index] = known.gave_up_view
        elif kind == journal.LOCKED:
            view = msgspec.msgpack.decode(record, type=Certified).votes.view
            if view <= known.locked_view:
                raise Violation("a lock went back", f"monitor {seat.index}, view {known.locked_view} to {view}")
            known.locked_view = view

    def _decision_durable(self, known: Known, certified: Certified) -> None:
        if certified.votes.epoch != known.epoch:
            raise Violation("epochs out of order", f"{certified.votes.epoch} after {known.epoch - 1}")
        self._stands_after(known, certified)

    def _stands_after(self, known: Known, certified: Certified) -> None:
        known.epoch = certified.votes.epoch + 1
        known.locked_view = known.gave_up_view = -1
        known.proposal = None
        known.cut = certified.cut
        self._cut_under[cut_root(certified.cut)] = certified.cut

    def _snapshot_durable(self, seat: Seat, known: Known, snapshot: Snapshot) -> None:
        """It says where the journal stood, or leaps forward to what others decided; all promises are still in it."""
        epoch = snapshot.certified.votes.epoch + 1 if snapshot.certified else 0
        if epoch < known.epoch:
            raise Violation("a snapshot went back", f"monitor {seat.index}, epoch {known.epoch} to {epoch}")
        if snapshot.certified is not None and epoch > known.epoch:
            self._check_signatures(certificate_of(self.roster, snapshot.certified.votes))
            self._stands_after(known, snapshot.certified)
            known.leaps.add(epoch - 1)
            known.announced = max(known.announced, epoch - 1)
        promises = journal.Promises()
        for kind, record in snapshot.records:
            if kind == journal.EVIDENCE:
                self._evidence_durable(seat, known, record)
            else:
                promises.replay(kind, record)
        if (promises.high_view, promises.timed_out_view) != (known.locked_view, known.gave_up_view):
            raise Violation("a snapshot without a promise", f"monitor {seat.index}, epoch {epoch}")

    def sent(self, seat: Seat, body: bytes) -> None:
        """An honest monitor sends a message, or one that lost its journal and still must not contradict itself."""
        if not (seat.honest or seat.loses_disk) or body[TAG] not in SIGNED_TAGS:
            return
        message = self._with_cuts(ENVELOPE.decode(body))
        if isinstance(message, Vote):
            slot = (message.epoch, message.view, message.phase)
            self._voted(seat.index, slot, (message.cut_root, message.posterior_root))
        elif isinstance(message, Propose):
            value = (cut_root(message.cut), message.posterior_root)
            self._says(seat.index, (message.epoch, message.view, "propose"), value)
        elif isinstance(message, Timeout):
            self._says(seat.index, (message.epoch, message.view, "timeout"), message.signature)
        elif isinstance(message, Prepared | Decide) and seat.honest:
            self._check_signatures(certificate_of(self.roster, message.certified.votes))

    def _with_cuts(self, message: AnyMessage) -> AnyMessage:
        if not isinstance(message, Lean):
            return message
        return Filled(self.cuts[message.epoch], message.cuts).message(ENVELOPE.decode(message.body))

    def _says(self, monitor: int, slot: Slot, value: object) -> None:
        if self._said.setdefault((monitor, slot), value) != value:
            raise Violation("an honest monitor signed two statements in a slot", f"monitor {monitor}, {slot}")

    def _voted(self, monitor: int, slot: Slot, value: Value) -> None:
        self._says(monitor, slot, value)
        backers = self._backing.setdefault((slot, value), set(self._faulty))
        backers.add(monitor)
        # With the vote of every liar, no second value could be certified in any epoch.
        if slot[2] == "C" and len(backers) >= self.roster.quorum:
            epoch = slot[0]
            if self._certifiable.setdefault(epoch, value) != value:
                raise Violation("two values can be certified in one epoch", f"epoch {epoch}")

    def decided(self, seat: Seat, decision: Decision) -> None:
        """An honest monitor announces a decision."""
        if not seat.honest:
            return
        epoch = decision.epoch
        known = self._known[seat.index]
        if epoch > known.announced:  # again after a restart is allowed, a gap is not
            raise Violation("a decision was left out", f"monitor {seat.index}, {epoch} after {known.announced - 1}")
        known.announced = max(known.announced, epoch + 1)
        statement = decision.certificate.statement
        value = (statement.cut_root, statement.posterior_root)
        self._check_certificate(decision, value)
        if self.values.get(epoch, value) != value:
            raise Violation("two decisions in one epoch", f"epoch {epoch}")
        if epoch in known.leaps:
            return  # it tells what changed since the state it had before
        if epoch not in self.values:
            self.values[epoch] = value
            self._check_value(epoch, value)
        outcome = msgspec.msgpack.encode((decision.changed, decision.proofs, decision.dissent))
        if self._outcomes.setdefault(epoch, outcome) != outcome:
            raise Violation("one decision means different things to honest monitors", f"epoch {epoch}")

    def _check_certificate(self, decision: Decision, value: Value) -> None:
        statement = decision.certificate.statement
        if statement.phase != "C":
            raise Violation("a decision without a commit certificate", f"epoch {decision.epoch}")
        self._check_signatures(decision.certificate)
        for signer in decision.certificate.monitors:
            if signer not in self._faulty:
                cast = self._said.get((signer, (statement.epoch, statement.view, "C")))
                if cast != value:
                    raise Violation("a certificate counts a vote that was never cast", f"signer {signer}")

    def _check_signatures(self, certificate: QuorumCertificate) -> None:
        epoch, monitors = certificate.statement.epoch, certificate.monitors
        if len(set(monitors)) < self.roster.quorum:
            raise Violation("a certificate of too few signers", f"epoch {epoch}, signers {monitors}")
        if self.roster.adds_up:
            keys = [self.roster.bls_keys[signer] for signer in monitors]
            signed = domain_hash(VOTE, statement_bytes(certificate.statement))
            holds = bls.holds(keys, signed, certificate.aggregate)
        else:
            holds = all(
                vote_holds(self.roster, signer, certificate.statement, signature)
                for signer, signature in certificate.signatures.items()
            )
        if not holds:
            raise Violation("a certificate with a signature that does not hold", f"epoch {epoch}, signers {monitors}")

    def _check_value(self, epoch: int, value: Value) -> None:
        """The cut extends the last one, its evidence is authentic, and folding it anew gives the certified root."""
        cut = self._cut_under.get(value[0])
        if epoch != len(self.cuts) - 1 or cut is None:
            raise Violation("a decision that is in no journal", f"epoch {epoch}")
        batches: list[EvidenceBatch] = []
        for monitor, (old, new) in enumerate(zip(self.cuts[-1], cut, strict=True)):
            if new.seq < old.seq:
                raise Violation("a cut that gives up what was decided", f"epoch {epoch}")
            part: list[EvidenceBatch] = []
            head = new.head
            while len(part) < new.seq - old.seq:
                batch = self._batches.get(head)
                if batch is None:
                    raise Violation("a decision over evidence that is not held", f"epoch {epoch}")
                if (batch.monitor, batch.seq) != (monitor, new.seq - len(part)):
                    raise Violation("a cut that does not extend the last one", f"epoch {epoch}")
                part.append(batch)
                head = batch.prev_hash
            if head != old.head:
                raise Violation("a cut that does not extend the last one", f"epoch {epoch}")
            batches.extend(reversed(part))
        preview = self.posterior.preview(batches)
        if preview.root != value[1]:
            raise Violation("a certified posterior that does not follow", f"epoch {epoch}")
        self.cuts.append(cut)
        self.posterior.commit(preview.handle)
        for name in self.central.add(batches):
            self.check_belief(name, self.central.log_odds(name))

    def check_belief(self, agent_id: str, log_odds: float) -> None:
        """What was certified last about an agent is `log_odds`, in nats."""
        agreed = self.posterior.entries[agent_id].log_odds_q32
        if differs(agreed, log_odds):
            detail = f"{agent_id}: {agreed / UNITS_PER_NAT} and not {log_odds} nats"
            raise Violation("a posterior that is not the centralised one", detail)

    def entered(self, seat: Seat, epoch: int, view: int) -> None:
        """An honest monitor takes part in a later view: a quorum, with all the liars, gave up on the one before."""
        if not seat.honest:
            return
        gave_up = sum(latest >= view - 1 for latest in self._gave_up.get(epoch, {}).values())
        if gave_up + len(self._faulty) < self.roster.quorum:
            raise Violation("a view that no quorum opened", f"monitor {seat.index}, epoch {epoch}, view {view}")

    def verdict(self, seat: Seat, verdict: Verdict) -> None:
        """An honest monitor announces a verdict."""
        if not seat.honest:
            return
        if verdict.epoch not in self._known[seat.index].leaps:  # what it took over has another number elsewhere
            self.verdict_ids.add(verdict.verdict_id)
        try:
            verify_verdict(verdict, self.roster)
        except VerificationError as error:
            raise Violation("a verdict that does not verify", str(error)) from None

    # --- about the end

    def cut_of(self, monitor: int) -> Cut:
        """What an honest monitor has decided, as far as its disk knows."""
        return self._known[monitor].cut or self.cuts[0]

    def epoch_of(self, monitor: int) -> int:
        """How many decisions an honest monitor's disk holds."""
        return self._known[monitor].epoch

    def leapt(self, monitor: int) -> bool:
        """Whether an honest monitor ever took over a state, so that there are decisions it did not announce."""
        return bool(self._known[monitor].leaps)

    def check_authorship(self, seat: Seat) -> None:
        """What is decided in an honest monitor's name is what it stated, and it stated every event once at most."""
        tip: Tip = self.cuts[-1][seat.index]
        spoken: dict[str, int] = {}
        head, own = tip.head, list[EvidenceBatch]()
        for _ in range(tip.seq + 1):
            if head not in self._known[seat.index].stated:
                raise Violation("evidence was decided that its author never stated", f"monitor {seat.index}")
            own.append(self._batches[head])
            head = own[-1].prev_hash
        for batch in reversed(own):
            for item in batch.items:
                if item.first_seq <= spoken.get(item.agent_id, -1):
                    raise Violation("events were stated twice", f"monitor {seat.index} about {item.agent_id}")
                spoken[item.agent_id] = item.last_seq
