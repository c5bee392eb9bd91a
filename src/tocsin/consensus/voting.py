"""Proposing a cut, voting on it in two phases, and counting votes. `Replica` drives this and changes views."""

from __future__ import annotations

import msgspec

from tocsin.consensus import journal, view_change
from tocsin.consensus.cut import cut_root, is_well_formed
from tocsin.consensus.evidence_log import Gap
from tocsin.consensus.fetching import Fetcher
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.messages import (
    ENVELOPE,
    Certified,
    Cut,
    Decide,
    PhaseName,
    Prepared,
    Propose,
    Sift,
    Sifted,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.quorum import leader_of, sign_vote, vote_holds
from tocsin.consensus.sums import bitmap_of, members, spoilers
from tocsin.consensus.tally import Question, Tally
from tocsin.errors import InternalError
from tocsin.model.posterior import Preview
from tocsin.model.verdict import Roster, Statement
from tocsin.trust.bls import is_share
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.signing import PROPOSE, VOTE, Signer, verify


class Voter(Fetcher):
    """What a monitor binds itself to within an epoch: proposals and votes, each once a view."""

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        self._doubted: frozenset[int] = frozenset()  # whose shares did not add up
        super().__init__(roster, me, signer, fold, config)

    @property
    def view(self) -> int:
        """View of the current epoch; 0 unless a leader failed."""
        return self._promises.view

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        self._promises = journal.Promises()
        self._proposed: Propose | None = None  # our own, in the current view
        self._proposed_root = b""  # of its cut: looked at with every vote
        self._votes: dict[PhaseName, dict[int, bytes]] = {"P": {}, "C": {}}  # for our own proposal
        self._tallies: dict[PhaseName, Tally] = {}  # the same, where votes add up
        self._helped: set[tuple[int, PhaseName]] = set()  # views in which we looked at shares for the leader
        self._timeouts: dict[int, Timeout] = {}  # latest of each monitor
        self._entered: TimeoutCertificate | None = None  # what opened the current view
        self._examined: Propose | None = None  # valid in form; waiting for the evidence under it
        self._armed: str = ""  # token of the view timer
        self._gathering = False

    def _records(self) -> list[tuple[str, bytes]]:
        return [*super()._records(), *self._promises.records()]

    def _leader(self) -> int:
        return leader_of(self._roster, self._epoch, self.view)

    def _enter(self, view: int, entered: TimeoutCertificate | None) -> None:
        if view <= self.view:
            return
        self._promises.view = view
        self._entered = entered
        self._proposed = self._examined = None
        self._votes = {"P": {}, "C": {}}
        self._tallies = {}
        self._doubted = frozenset()  # an honest monitor may be among them
        self._disarm()
        self._out.emit("view", (self._epoch, view))

    def _arm(self) -> None:
        self._armed = f"view {self._epoch} {self.view}"
        doublings = min(self.view, self._config.max_doublings)
        promised = max(self._promises.prepared_view, self._promises.timed_out_view)
        heard = self._examined is not None or promised == self.view  # or given up: the next leader needs its time
        patience_ns = self._config.view_timeout_ns
        self._out.timer(
            self._armed, (patience_ns if heard else min(patience_ns, self._config.leader_timeout_ns)) << doublings
        )

    def _disarm(self) -> None:
        if self._armed:
            self._out.cancel(self._armed)
            self._armed = ""

    # --- proposing

    def _may_propose(self) -> bool:
        """We lead this view and have promised nothing in it."""
        view, promises = self.view, self._promises
        promised = max(
            promises.prepared_view, promises.timed_out_view, promises.proposal.view if promises.proposal else -1
        )
        return self._leader() == self._me and promised < view and self._decision is None and not self.silent

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
        self._proposed_root = root = cut_root(proposal.cut)
        promises = self._promises
        if promises.prepared_view < proposal.view:
            self._on_propose(self._me, proposal)
            return
        voted: tuple[tuple[PhaseName, int], ...] = (("P", promises.prepared_view), ("C", promises.committed_view))
        for phase, promised in voted:
            if promised == proposal.view:  # voted before a restart
                statement = self._statement(proposal.view, phase, root, proposal.posterior_root)
                self._votes[phase][self._me] = sign_vote(self._signer, statement, adds_up=self._roster.adds_up)

    def _on_propose(self, source: int, m: Propose) -> None:
        promises = self._promises
        if not self._is_current(source, m.epoch):
            return
        if m.view < self.view or promises.prepared_view >= m.view or promises.timed_out_view >= m.view:
            return
        if not is_well_formed(m.cut, self._roster.n):
            self._out.refuse("malformed cut")
            return
        leader = leader_of(self._roster, m.epoch, m.view)
        statement = self._statement(m.view, "P", cut_root(m.cut), m.posterior_root)
        if not verify(self._roster.keys[leader], PROPOSE, statement_bytes(statement), m.signature):
            self._out.refuse("forged proposal")
            return
        if m.view > 0:
            if m.timeouts is None or not self._opens(m.timeouts, m.view):
                self._out.refuse("proposal without its timeout certificate")
                return
            if not self._respects_lock(m):
                self._out.refuse("proposal against a lock")
                return
            self._see(m.timeouts.high)
            self._enter(m.view, m.timeouts)
        if self._examined is None:
            self._examined = m
            if self._config.leader_timeout_ns < self._config.view_timeout_ns:
                self._disarm()  # armed again at once, with the patience for a leader that works

    def _opens(self, certificate: TimeoutCertificate, view: int) -> bool:
        return view_change.timeouts_hold(self._roster, certificate, self._epoch, view - 1, self._prev_cert_hash)

    def _respects_lock(self, m: Propose) -> bool:
        high = m.timeouts.high if m.timeouts else None
        return high is None or (high.cut, high.votes.posterior_root) == (m.cut, m.posterior_root)

    # --- voting

    def _vote_on(self, m: Propose) -> Gap | None:
        """Vote P for a proposal once all evidence under it is here and gives the same posterior."""
        if self.silent or max(self._promises.prepared_view, self._promises.timed_out_view) >= m.view:
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

    def _vote(self, phase: PhaseName, view: int, root: bytes, posterior_root: bytes) -> None:
        if self._entered is not None and self._promises.opening != self._entered:
            # After a crash we are in this view again, and must be able to show others the way into it.
            self._promises.entered = self._entered
            self._out.persist(journal.ENTERED, msgspec.msgpack.encode(self._entered))
        self._out.persist(journal.VOTED, msgspec.msgpack.encode(journal.VotedRecord(view, phase)))
        statement = self._statement(view, phase, root, posterior_root)
        signature = sign_vote(self._signer, statement, adds_up=self._roster.adds_up)
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
        root = self._proposed_root
        votes = self._votes[m.phase]
        if (m.cut_root, m.posterior_root) != (root, mine.posterior_root) or len(votes) >= self._roster.quorum:
            return
        statement = self._statement(m.view, m.phase, root, m.posterior_root)
        if self._roster.adds_up:
            self._count_share(source, m, statement)
            return
        if vote_holds(self._roster, source, statement, m.signature):
            votes[source] = m.signature
        else:
            self._out.refuse("forged vote")
        self._certify(m.phase)

    def _certify(self, phase: PhaseName) -> None:
        """Make the certificate of our proposal, if its votes suffice."""
        mine, votes = self._proposed, self._votes[phase]
        if mine is None or len(votes) < self._roster.quorum:
            return
        ballot = self._ballot(mine.view, phase, self._proposed_root, mine.posterior_root, votes)
        certified = Certified(ballot, mine.cut)
        if phase == "P":
            self._out.broadcast(Prepared(certified))
            self._on_prepared(certified)
        else:
            self._out.broadcast(Decide(certified))
            self._on_decided(certified)

    # --- votes that add up

    def _count_share(self, source: int, m: Vote, statement: Statement) -> None:
        if not is_share(m.signature):
            self._out.refuse("forged vote")
            return
        if m.phase not in self._tallies:
            tally = Tally(self._roster, self._me, statement_bytes(statement), self._doubted)
            tally.votes.update(self._votes[m.phase])  # our own, from before a restart
            self._tallies[m.phase], self._votes[m.phase] = tally, tally.votes
        self._after(m.phase, self._tallies[m.phase].add(source, m.signature))

    def _after(self, phase: PhaseName, questions: list[Question]) -> None:
        """Ask what the tally wants to know, and certify if it has a quorum."""
        mine, tally = self._proposed, self._tallies[phase]
        if mine is None:
            return
        for _ in tally.bad - self._doubted:
            self._out.refuse("forged vote")
        self._doubted |= tally.bad
        for question in questions:
            shares = tuple(question.shares.items())
            sift = Sift(mine.epoch, mine.view, phase, self._proposed_root, mine.posterior_root, shares)
            self._out.send(question.helper, sift)
        if len(tally.votes) >= self._roster.quorum:
            self._doubted = tally.doubted
        self._certify(phase)

    def _on_sift(self, source: int, m: Sift) -> None:
        """Help a leader, once a view and phase: it costs a check for nearly every share."""
        if not self._is_current(source, m.epoch) or m.view != self.view or source != self._leader():
            return
        shares = dict(m.shares)
        if (m.view, m.phase) in self._helped or not self._roster.adds_up or max(shares, default=0) >= self._roster.n:
            self._out.refuse("a question out of turn")
            return
        self._helped.add((m.view, m.phase))
        signed = statement_bytes(self._statement(m.view, m.phase, m.cut_root, m.posterior_root))
        good = shares.keys() - spoilers(self._roster, shares, VOTE, signed)
        self._out.send(source, Sifted(m.epoch, m.view, m.phase, bitmap_of(good, self._roster.n)))

    def _on_sifted(self, source: int, m: Sifted) -> None:
        mine, tally = self._proposed, self._tallies.get(m.phase)
        if not self._is_current(source, m.epoch) or mine is None or tally is None or mine.view != m.view:
            return
        if len(tally.votes) < self._roster.quorum:
            self._after(m.phase, tally.answer(source, set(members(m.good, self._roster.n) or ())))

    def _on_prepared_message(self, source: int, m: Prepared) -> None:
        if self._is_current(source, m.certified.votes.epoch):
            self._on_prepared(m.certified)

    def _on_prepared(self, certified: Certified) -> None:
        votes = certified.votes
        if not view_change.prepared_holds(self._roster, certified, self._epoch, self._prev_cert_hash):
            self._out.refuse("prepare certificate that does not hold")
            return
        self._see(certified)
        self._enter(votes.view, None)
        promises = self._promises
        if (
            self.silent
            or votes.view != self.view
            or max(promises.timed_out_view, promises.committed_view) >= votes.view
        ):
            return
        promises.committed_view = votes.view
        self._vote("C", votes.view, votes.cut_root, votes.posterior_root)

    def _see(self, certified: Certified | None) -> None:
        """Remember the highest prepare certificate: the lock that our timeouts will carry."""
        if certified is not None and certified.votes.view > self._promises.high_view:
            self._promises.high = certified
            self._out.persist(journal.LOCKED, msgspec.msgpack.encode(certified))
