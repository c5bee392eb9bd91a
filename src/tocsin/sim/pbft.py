"""The normal case of classic PBFT (Castro & Liskov 1999), to be compared with what tocsin runs.

PRE-PREPARE is our PROPOSE, PREPARE and COMMIT are our two votes; but every vote goes to everybody, and everybody counts
for itself: no certificate is ever sent, and n monitors exchange about 2 n * n messages a decision. Evidence, cuts and
the fold are ours, so that both decide the same. Two things are not as in the paper: votes are signed, where PBFT has
authenticators (which would save processor time and add bytes, a tag for each receiver), and a failed leader is replaced
by our view change. Faultless runs see neither difference but the first.
"""

from __future__ import annotations

import msgspec

from tocsin.consensus import journal
from tocsin.consensus.cut import cut_root
from tocsin.consensus.messages import Certified, Cut, PhaseName, Propose, TimeoutCertificate, Vote
from tocsin.consensus.quorum import sign_vote, vote_holds
from tocsin.consensus.replica import Replica

Ballot = tuple[int, PhaseName, bytes, bytes]  # view, phase, cut root, posterior root


class Pbft(Replica):
    """A replica that sends its votes to everybody. Same inputs, effects and journal as `Replica`."""

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        self._cast: dict[Ballot, dict[int, bytes]] = {}
        self._cuts: dict[bytes, Cut] = {}  # proposed ones, by root

    def _enter(self, view: int, entered: TimeoutCertificate | None) -> None:
        super()._enter(view, entered)
        self._cast = {ballot: votes for ballot, votes in self._cast.items() if ballot[0] >= self.view}

    def _on_propose(self, source: int, m: Propose) -> None:
        super()._on_propose(source, m)
        if self._examined is m:
            self._cuts[cut_root(m.cut)] = m.cut
            for ballot in list(self._cast):
                self._count(ballot)

    def _vote(self, phase: PhaseName, view: int, root: bytes, posterior_root: bytes) -> None:
        self._out.persist(journal.VOTED, msgspec.msgpack.encode(journal.VotedRecord(view, phase)))
        statement = self._statement(view, phase, root, posterior_root)
        signature = sign_vote(self._signer, statement, adds_up=self._roster.adds_up)
        vote = Vote(self._epoch, view, phase, root, posterior_root, signature)
        self._out.broadcast(vote)
        self._on_vote(self._me, vote)

    def _on_vote(self, source: int, m: Vote) -> None:
        if not self._is_current(source, m.epoch) or m.view < self.view:
            return
        ballot = (m.view, m.phase, m.cut_root, m.posterior_root)
        if len(self._cast.get(ballot, ())) >= self._roster.quorum:
            return
        if not vote_holds(self._roster, source, self._statement(*ballot), m.signature):
            self._out.refuse("forged vote")
            return
        self._cast.setdefault(ballot, {})[source] = m.signature
        self._count(ballot)

    def _count(self, ballot: Ballot) -> None:
        """Prepared, or committed, once a quorum voted for a proposal that is here."""
        view, phase, root, posterior_root = ballot
        votes = self._cast.get(ballot, {})
        if len(votes) < self._roster.quorum or root not in self._cuts:
            return
        certified = Certified(self._ballot(view, phase, root, posterior_root, votes), self._cuts[root])
        if phase == "P":
            self._on_prepared(certified)
        else:
            self._on_decided(certified)
