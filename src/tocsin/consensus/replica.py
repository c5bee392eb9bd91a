"""The agreement itself: one decision per epoch, two voting phases, leader-driven. README.md here states the rules.

    evidence ─> cut ─PROPOSE─> vote P ─QC1─> vote C ─DECIDE─> fold ─> Emit "decided"
                  └── silence or lies ── TIMEOUT ── timeout certificate ── next view, next leader
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tocsin.consensus import journal
from tocsin.consensus.cut import cut_root, empty_cut, is_well_formed
from tocsin.consensus.dissemination import PULL_TIMER, Dissemination
from tocsin.consensus.evidence_log import Conflict, EvidenceLog, Gap
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig, Input, SubmitEvidence
from tocsin.consensus.messages import (
    ENVELOPE,
    Certificates,
    Certified,
    Cut,
    Decide,
    EvidenceMessage,
    Fork,
    PhaseName,
    Prepared,
    Propose,
    Pull,
    Sync,
    Timeout,
    TimeoutCertificate,
    Vote,
    Votes,
)
from tocsin.consensus.outbox import Outbox
from tocsin.consensus.quorum import (
    NO_CERTIFICATE,
    certificate_of,
    decision_hash,
    leader_of,
    sign_vote,
    statement_of,
    vote_holds,
    votes_hold,
)
from tocsin.consensus.view_change import (
    certificate_of_timeouts,
    make_timeout,
    prepared_holds,
    timeout_holds,
    timeouts_hold,
)
from tocsin.errors import InternalError, StorageCorrupt, WireError
from tocsin.model.evidence import EvidenceBatch
from tocsin.model.posterior import Decision, FoldResult, Preview
from tocsin.model.steps import Effect, Fired, Received
from tocsin.model.verdict import Roster, Statement
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.keyring import check_roster
from tocsin.trust.signing import PROPOSE, Signer, verify
from tocsin.wire.limits import MAX_BATCHES_PER_CUT, MAX_CERTIFICATES_PER_MESSAGE

__all__ = ["ConsensusConfig", "Decision", "Replica"]


class Replica:
    """Monitor `me` of `roster`. Feed `Start()` once, after `recover` if there is a journal, then any inputs.

    Emits "decided" (Decision), "equivocation" (Equivocation), "refused" (reason as str) and "view" ((epoch, view)).
    Raises ConfigError for a roster that does not fit; `step` raises nothing for any bytes received.
    """

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        self._roster = check_roster(roster)
        if not 0 <= me < roster.n or roster.keys[me] != signer.public_key:
            raise InternalError(f"the signer does not hold the key of monitor {me}")
        self._me = me
        self._signer = signer
        self._fold = fold
        self._config = config
        self._out = Outbox()
        self._evidence = Dissemination(roster, me, signer, config, self._out)
        self._now_ns = 0
        self._epoch = 0
        self._cut: Cut = empty_cut(roster.n)
        self._prev_cert_hash = NO_CERTIFICATE
        self._decided: list[Certified] = []
        self._backlog: deque[Certified] = deque()  # decisions one peer sent for catching up, oldest first
        self._more: tuple[int, int] | None = None  # a peer with more of them, and our epoch when it answered
        self._unannounced: list[Decision] = []  # durable before a restart, perhaps not emitted before it
        self._synced_ns: dict[int, int] = {}  # peer -> when we last asked it for decisions
        self._handlers: dict[type[Any], Callable[[int, Any], None]] = {
            EvidenceMessage: lambda _, m: self._evidence.on_evidence(m, self._cut),
            Pull: lambda source, m: self._evidence.on_pull(source, m),
            Fork: lambda _, m: self._evidence.on_fork(m),
            Propose: self._on_propose,
            Vote: self._on_vote,
            Prepared: self._on_prepared_message,
            Decide: self._on_decide,
            Timeout: self._on_timeout,
            Sync: self._on_sync,
            Certificates: self._on_certificates,
        }
        self._begin_epoch()

    @property
    def through_offset(self) -> int:
        """Ingest log position up to which this monitor's evidence is durable."""
        return self._evidence.through_offset

    @property
    def epoch(self) -> int:
        """Number of decisions so far."""
        return self._epoch

    @property
    def view(self) -> int:
        """View of the current epoch; 0 unless a leader failed."""
        return self._promises.view

    @property
    def refused(self) -> dict[str, int]:
        """Refused evidence, reason -> count."""
        return dict(self._evidence.log.refused)

    @property
    def evidence_log(self) -> EvidenceLog:
        """Every monitor's chain of evidence as held here; to be read only."""
        return self._evidence.log

    @property
    def settled(self) -> bool:
        """Whether all evidence held here is in a certified cut."""
        return self._newest_cut() == self._cut

    def _begin_epoch(self) -> None:
        self._promises = journal.Promises()
        self._proposed: Propose | None = None  # our own, in the current view
        self._votes: dict[PhaseName, dict[int, bytes]] = {"P": {}, "C": {}}  # for our own proposal
        self._timeouts: dict[int, Timeout] = {}  # latest of each monitor
        self._entered: TimeoutCertificate | None = None  # what opened the current view
        self._examined: Propose | None = None  # valid in form; waiting for the evidence under it
        self._decision: Certified | None = None  # certified; waiting for the evidence under it
        self._previews: dict[bytes, Preview] = {}
        self._armed: str = ""  # token of the view timer
        self._gathering = False

    # --- driving

    def recover(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Rebuild from the journal, oldest record first, before the first step. Raises StorageCorrupt."""
        for kind, record in records:
            if kind == journal.DECIDED:
                self._replay_decision(journal.decode_decided(record))
                continue
            self._unannounced.clear()  # more happened after those decisions: they had been announced
            if kind == journal.EVIDENCE:
                self._evidence.replay(record)
            else:
                self._promises.replay(kind, record)

    def _replay_decision(self, certified: Certified) -> None:
        preview = self._preview(certified.cut) if self._decides(certified) else None
        if not isinstance(preview, Preview) or preview.root != certified.votes.posterior_root:
            cause = f"the recorded decision of epoch {self._epoch} does not hold"
            raise StorageCorrupt(cause, remedy="restore the journal from a copy")
        self._unannounced.append(self._decision_of(certified, self._fold.commit(preview.handle)))
        self._advance(certified)

    def step(self, now_ns: int, event: Input) -> list[Effect]:
        """Advance by one input."""
        self._now_ns = now_ns
        if isinstance(event, Received):
            self._receive(event.source, event.body)
        elif isinstance(event, Fired):
            self._fire(event.token)
        elif isinstance(event, SubmitEvidence):
            self._evidence.submit(event, self._cut)
        else:
            self._start()
        self._progress()
        return self._out.drain()

    def _start(self) -> None:
        for decision in self._unannounced:
            self._out.emit("decided", decision)
        self._unannounced.clear()
        if self._roster.n > 1:
            self._out.broadcast(Sync(self._epoch))
        self._evidence.rebroadcast(self._cut, self._newest_cut())
        promises = self._promises
        if promises.timeout is not None and promises.timeout.view == promises.view:
            self._out.broadcast(promises.timeout)
            self._on_timeout(self._me, promises.timeout)
        elif promises.proposal is not None and promises.proposal.view == promises.view:
            self._repropose(promises.proposal)

    def _receive(self, source: int, body: bytes) -> None:
        if source == self._me or not 0 <= source < self._roster.n:
            return
        try:
            message = ENVELOPE.decode(body)
        except WireError:
            self._out.refuse("malformed message")
            return
        self._handlers[type(message)](source, message)

    def _fire(self, token: str) -> None:
        if token == PULL_TIMER:
            self._evidence.retry(self._cut, self._leader())
        elif token == f"propose {self._epoch}":
            self._gathering = False
            if self.view == 0 and self._may_propose():
                self._propose(None)
        elif token == self._armed:
            self._armed = ""
            self._give_up(self.view)

    def _progress(self) -> None:
        """Do what the state allows, whatever input brought it about."""
        gap = self._settle()
        if self.view > 0 and self._entered is not None and self._may_propose():
            self._propose(self._entered)
            gap = self._settle()
        self._evidence.fetch([gap] if gap else [], self._cut, self._leader())
        uncut = self._newest_cut() != self._cut
        if uncut and self.view == 0 and not self._gathering and self._may_propose():
            self._gathering = True
            self._out.timer(f"propose {self._epoch}", self._config.proposal_delay_ns)
        if not self._armed and (uncut or self.view > 0 or self._examined or self._promises.prepared_view >= 0):
            self._arm()

    def _settle(self) -> Gap | None:
        """Apply what is decided and vote on what is proposed, as far as the evidence held allows."""
        while True:
            if self._decision is not None:
                if (gap := self._apply(self._decision)) is not None:
                    return gap
            elif self._examined is not None:
                if (gap := self._vote_on(self._examined)) is not None:
                    return gap
            else:
                return None

    def _arm(self) -> None:
        self._armed = f"view {self._epoch} {self.view}"
        doublings = min(self.view, self._config.max_doublings)
        self._out.timer(self._armed, self._config.view_timeout_ns << doublings)

    def _disarm(self) -> None:
        if self._armed:
            self._out.cancel(self._armed)
            self._armed = ""

    # --- the value agreed on

    def _newest_cut(self) -> Cut:
        return self._evidence.log.newest_cut(self._cut, self._config.batches_per_cut)

    def _preview(self, cut: Cut) -> Preview | Gap | None:
        """What folding up to `cut` gives; the first gap; or None where it does not extend the last cut."""
        root = cut_root(cut)
        if root not in self._previews:
            try:
                links = self._evidence.log.between(self._cut, cut)
            except Conflict:
                return None
            if isinstance(links, Gap):
                return links
            batches: list[EvidenceBatch] = [link.batch for link in links]
            self._previews[root] = self._fold.preview(batches)
        return self._previews[root]

    def _statement(self, view: int, phase: PhaseName, root: bytes, posterior_root: bytes) -> Statement:
        return statement_of(self._roster, self._ballot(view, phase, root, posterior_root, {}))

    def _ballot(self, view: int, phase: PhaseName, root: bytes, posterior_root: bytes, votes: dict[int, bytes]) -> Votes:
        signatures = tuple(sorted(votes.items()))
        return Votes(self._epoch, view, phase, self._prev_cert_hash, root, posterior_root, signatures)

    def _leader(self) -> int:
        return leader_of(self._roster, self._epoch, self.view)

    # --- proposing

    def _may_propose(self) -> bool:
        """We lead this view and have promised nothing in it."""
        view, promises = self.view, self._promises
        promised = max(promises.prepared_view, promises.timed_out_view, promises.proposal.view if promises.proposal else -1)
        return self._leader() == self._me and promised < view and self._decision is None

    def _value(self, entered: TimeoutCertificate | None) -> tuple[Cut, bytes]:
        """What to propose: the locked value where there is one, else all the evidence there is."""
        if entered is not None and entered.high is not None:
            return entered.high.cut, entered.high.votes.posterior_root
        cut = self._newest_cut()
        preview = self._preview(cut)
        if not isinstance(preview, Preview):
            raise InternalError("a cut of evidence held does not fold")
        return cut, preview.root

    def _propose(self, entered: TimeoutCertificate | None) -> None:
        cut, posterior_root = self._value(entered)
        statement = self._statement(self.view, "P", cut_root(cut), posterior_root)
        signature = self._signer.sign(PROPOSE, statement_bytes(statement))
        proposal = Propose(self._epoch, self.view, cut, posterior_root, entered, signature)
        self._out.persist(journal.PROPOSED, ENVELOPE.encode(proposal))
        self._promises.proposal = proposal
        self._repropose(proposal)

    def _repropose(self, proposal: Propose) -> None:
        """Send a proposal that is durable, and count our own votes for it."""
        self._out.broadcast(proposal)
        self._proposed = proposal
        root = cut_root(proposal.cut)
        promises = self._promises
        if promises.prepared_view < proposal.view:
            return self._on_propose(self._me, proposal)
        voted: tuple[tuple[PhaseName, int], ...] = (("P", promises.prepared_view), ("C", promises.committed_view))
        for phase, promised in voted:
            if promised == proposal.view:  # voted before a restart
                statement = self._statement(proposal.view, phase, root, proposal.posterior_root)
                self._votes[phase][self._me] = sign_vote(self._signer, statement)

    def _on_propose(self, source: int, m: Propose) -> None:
        promises = self._promises
        if not self._is_current(source, m.epoch):
            return
        if m.view < self.view or promises.prepared_view >= m.view or promises.timed_out_view >= m.view:
            return
        if not is_well_formed(m.cut, self._roster.n):
            return self._out.refuse("malformed cut")
        leader = leader_of(self._roster, m.epoch, m.view)
        statement = self._statement(m.view, "P", cut_root(m.cut), m.posterior_root)
        if not verify(self._roster.keys[leader], PROPOSE, statement_bytes(statement), m.signature):
            return self._out.refuse("forged proposal")
        if m.view > 0:
            if m.timeouts is None or not self._opens(m.timeouts, m.view):
                return self._out.refuse("proposal without its timeout certificate")
            if not self._respects_lock(m):
                return self._out.refuse("proposal against a lock")
            self._see(m.timeouts.high)
            self._enter(m.view, m.timeouts)
        if self._examined is None:
            self._examined = m

    def _opens(self, certificate: TimeoutCertificate, view: int) -> bool:
        return timeouts_hold(self._roster, certificate, self._epoch, view - 1, self._prev_cert_hash)

    def _respects_lock(self, m: Propose) -> bool:
        high = m.timeouts.high if m.timeouts else None
        return high is None or (high.cut, high.votes.posterior_root) == (m.cut, m.posterior_root)

    # --- voting

    def _vote_on(self, m: Propose) -> Gap | None:
        """Vote P for a proposal once all evidence under it is here and gives the same posterior."""
        if max(self._promises.prepared_view, self._promises.timed_out_view) >= m.view:
            self._examined = None  # we gave up on this view while we waited
            return None
        forced = m.timeouts is not None and m.timeouts.high is not None
        preview = self._preview(m.cut) if forced or self._is_acceptable(m) else None
        if isinstance(preview, Gap):
            return preview
        self._examined = None
        if preview is None:
            self._out.refuse("unacceptable cut")
            self._evidence.tell_forks_in(self._cut, m.cut)
        elif preview.root != m.posterior_root:
            self._out.refuse("posterior that does not follow from the evidence")
        else:
            self._promises.prepared_view = m.view
            self._vote("P", m.view, cut_root(m.cut), m.posterior_root)
        return None

    def _is_acceptable(self, m: Propose) -> bool:
        """A freely chosen cut adds something, unless the view changed, and reaches into no known fork."""
        if m.view == 0 and m.cut == self._cut:
            return False
        pairs = zip(self._cut, m.cut, strict=True)
        log = self._evidence.log
        return all(
            log.may_reach(monitor, new.seq, old) and new.seq - old.seq <= MAX_BATCHES_PER_CUT
            for monitor, (old, new) in enumerate(pairs)
        )

    def _vote(self, phase: PhaseName, view: int, root: bytes, posterior_root: bytes) -> None:
        self._out.persist(journal.VOTED, msgspec.msgpack.encode(journal.VotedRecord(view, phase)))
        signature = sign_vote(self._signer, self._statement(view, phase, root, posterior_root))
        vote = Vote(self._epoch, view, phase, root, posterior_root, signature)
        leader = leader_of(self._roster, self._epoch, view)
        if leader == self._me:
            self._on_vote(self._me, vote)
        else:
            self._out.send(leader, vote)

    def _on_vote(self, source: int, m: Vote) -> None:
        mine = self._proposed
        if not self._is_current(source, m.epoch) or mine is None or mine.view != m.view:
            return
        root = cut_root(mine.cut)
        votes = self._votes[m.phase]
        if (m.cut_root, m.posterior_root) != (root, mine.posterior_root) or len(votes) >= self._roster.quorum:
            return
        if not vote_holds(self._roster, source, self._statement(m.view, m.phase, root, m.posterior_root), m.signature):
            return self._out.refuse("forged vote")
        votes[source] = m.signature
        if len(votes) < self._roster.quorum:
            return
        certified = Certified(self._ballot(m.view, m.phase, root, m.posterior_root, votes), mine.cut)
        if m.phase == "P":
            self._out.broadcast(Prepared(certified))
            self._on_prepared(certified)
        else:
            self._out.broadcast(Decide(certified))
            self._on_decided(certified)

    def _on_prepared_message(self, source: int, m: Prepared) -> None:
        if self._is_current(source, m.certified.votes.epoch):
            self._on_prepared(m.certified)

    def _on_prepared(self, certified: Certified) -> None:
        votes = certified.votes
        if not prepared_holds(self._roster, certified, self._epoch, self._prev_cert_hash):
            return self._out.refuse("prepare certificate that does not hold")
        self._see(certified)
        self._enter(votes.view, None)
        promises = self._promises
        if votes.view != self.view or max(promises.timed_out_view, promises.committed_view) >= votes.view:
            return
        promises.committed_view = votes.view
        self._vote("C", votes.view, votes.cut_root, votes.posterior_root)

    def _see(self, certified: Certified | None) -> None:
        """Remember the highest prepare certificate: the lock that our timeouts will carry."""
        if certified is not None and certified.votes.view > self._promises.high_view:
            self._promises.high = certified
            self._out.persist(journal.LOCKED, msgspec.msgpack.encode(certified))

    # --- changing the view

    def _enter(self, view: int, entered: TimeoutCertificate | None) -> None:
        if view <= self.view:
            return
        self._promises.view = view
        self._entered = entered
        self._proposed = self._examined = None
        self._votes = {"P": {}, "C": {}}
        self._disarm()
        self._out.emit("view", (self._epoch, view))

    def _give_up(self, view: int) -> None:
        """Time out of `view`, once; later calls re-send the same bytes."""
        timeout = self._promises.timeout
        if timeout is None or timeout.view < view:
            timeout = make_timeout(self._roster, self._signer, self._epoch, view, self._promises.high, self._entered)
            self._promises.timeout = timeout
            self._out.persist(journal.TIMED_OUT, ENVELOPE.encode(timeout))
        self._out.broadcast(timeout)
        self._evidence.rebroadcast(self._cut, self._newest_cut())
        self._on_timeout(self._me, timeout)

    def _on_timeout(self, source: int, m: Timeout) -> None:
        if m.epoch < self._epoch:
            self._out.send(source, Decide(self._decided[m.epoch]))
        if not self._is_current(source, m.epoch):
            return
        if source != self._me:
            if not timeout_holds(self._roster, source, m, self._prev_cert_hash):
                return self._out.refuse("forged timeout")
            self._see(m.high)
            if m.timeouts is not None and m.timeouts.view >= self.view and self._opens(m.timeouts, m.timeouts.view + 1):
                self._see(m.timeouts.high)
                self._enter(m.timeouts.view + 1, m.timeouts)
            self._enter(m.high_view, None)
        if source not in self._timeouts or self._timeouts[source].view <= m.view:
            self._timeouts[source] = m
        self._count_timeouts()

    def _count_timeouts(self) -> None:
        views = sorted((timeout.view for timeout in self._timeouts.values()), reverse=True)
        if len(views) > self._roster.f:
            honest = views[self._roster.f]  # at least one honest monitor gave up on this view or a later one
            if honest >= self.view and honest > self._promises.timed_out_view:
                self._enter(honest, None)
                return self._give_up(honest)
        same = {i: timeout for i, timeout in self._timeouts.items() if timeout.view == self.view}
        if len(same) >= self._roster.quorum:
            certificate = certificate_of_timeouts(same)
            self._enter(self.view + 1, certificate)

    # --- deciding and catching up

    def _is_current(self, source: int, epoch: int) -> bool:
        if epoch > self._epoch:
            self._ask_for_decisions(source)
        return epoch == self._epoch

    def _decides(self, certified: Certified) -> bool:
        votes = certified.votes
        return (
            (votes.phase, votes.epoch, votes.prev_cert_hash) == ("C", self._epoch, self._prev_cert_hash)
            and is_well_formed(certified.cut, self._roster.n)
            and cut_root(certified.cut) == votes.cut_root
            and votes_hold(self._roster, votes)
        )

    def _on_decide(self, source: int, m: Decide) -> None:
        if self._is_current(source, m.certified.votes.epoch):
            self._on_decided(m.certified)

    def _on_decided(self, certified: Certified) -> None:
        if self._decision is not None:
            return
        if self._decides(certified):
            self._decision = certified
        else:
            self._out.refuse("certificate that does not hold")

    def _apply(self, certified: Certified) -> Gap | None:
        """Fold a certified cut, or say what evidence is missing."""
        preview = self._preview(certified.cut)
        if isinstance(preview, Gap):
            return preview
        if preview is None or preview.root != certified.votes.posterior_root:
            # At least one honest monitor signed this only if it follows: more than f of them lie, or we have a bug.
            # Standing still is all that is safe.
            self._out.refuse("certified posterior that does not follow from the evidence")
            self._decision = None
            return None
        self._out.persist(journal.DECIDED, ENVELOPE.encode(Decide(certified)))
        self._out.emit("decided", self._decision_of(certified, self._fold.commit(preview.handle)))
        self._disarm()
        if self._gathering:
            self._out.cancel(f"propose {self._epoch}")
        self._advance(certified)
        self._next_from_backlog()
        return None

    def _decision_of(self, certified: Certified, result: FoldResult) -> Decision:
        return Decision(
            epoch=self._epoch,
            certificate=certificate_of(self._roster, certified.votes),
            changed=result.changed,
            proofs=result.proofs,
            dissent=result.dissent,
        )

    def _advance(self, certified: Certified) -> None:
        self._decided.append(certified)
        self._cut = certified.cut
        self._prev_cert_hash = decision_hash(statement_of(self._roster, certified.votes))
        self._epoch += 1
        self._begin_epoch()

    def _ask_for_decisions(self, source: int) -> None:
        due = self._synced_ns.get(source, -self._config.pull_delay_ns) + self._config.pull_delay_ns
        if self._now_ns >= due:
            self._synced_ns[source] = self._now_ns
            self._out.send(source, Sync(self._epoch))

    def _on_sync(self, source: int, m: Sync) -> None:
        part = self._decided[m.epoch : m.epoch + MAX_CERTIFICATES_PER_MESSAGE]
        if part:
            self._out.send(source, Certificates(tuple(part)))

    def _on_certificates(self, source: int, m: Certificates) -> None:
        self._backlog = deque(c for c in m.certified if c.votes.epoch >= self._epoch)
        self._more = (source, self._epoch) if len(m.certified) == MAX_CERTIFICATES_PER_MESSAGE else None
        self._next_from_backlog()

    def _next_from_backlog(self) -> None:
        while self._backlog and self._decision is None:
            if (certified := self._backlog.popleft()).votes.epoch == self._epoch:
                self._on_decided(certified)
        if self._decision is None and self._more is not None:
            source, epoch = self._more
            self._more = None
            if self._epoch > epoch:  # it helped: ask for the rest
                self._out.send(source, Sync(self._epoch))
