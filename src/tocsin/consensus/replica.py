"""The agreement itself: one decision per epoch, two voting phases, leader-driven. README.md here states the rules.

evidence ─> cut ─PROPOSE─> vote P ─QC1─> vote C ─DECIDE─> fold ─> Emit "decided"
              └── silence or lies ── TIMEOUT ── timeout certificate ── next view, next leader
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tocsin.consensus import journal, view_change
from tocsin.consensus.dissemination import PULL_TIMER
from tocsin.consensus.evidence_log import Gap
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig, Input, SubmitEvidence
from tocsin.consensus.lean import Filled, epoch_of
from tocsin.consensus.messages import (
    ENVELOPE,
    AnyMessage,
    Certificates,
    Decide,
    EvidenceMessage,
    Fork,
    Lean,
    Prepared,
    Propose,
    Pull,
    Sift,
    Sifted,
    StateChunk,
    StateOffer,
    StatePull,
    Sync,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.provisional import PROVISIONAL_TIMER, Minority
from tocsin.consensus.pruning import CHECKPOINT_TIMER
from tocsin.consensus.quorum import leader_of
from tocsin.consensus.transfer import STATE_TIMER
from tocsin.errors import WireError
from tocsin.model.posterior import Decision
from tocsin.model.steps import Effect, Fired, Received
from tocsin.model.verdict import Roster
from tocsin.trust.signing import Signer

__all__ = ["ConsensusConfig", "Decision", "Replica"]


class Replica(Minority):
    """Monitor `me` of `roster`. Feed `Start()` once, after `recover` if there is a journal, then any inputs.

    Emits "decided" (Decision), "provisional" (Decision, see provisional.py), "equivocation" (Equivocation), "refused"
    (reason as str) and "view" ((epoch, view)).
    Raises ConfigError for a roster that does not fit; `step` raises nothing for any bytes received.
    """

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        super().__init__(roster, me, signer, fold, config)
        self._handlers: dict[type[Any], Callable[[int, Any], None]] = {
            EvidenceMessage: lambda _, m: self._evidence.on_evidence(m, self._cut),
            Pull: self._evidence.on_pull,
            Fork: lambda _, m: self._evidence.on_fork(m),
            Propose: self._on_propose,
            Vote: self._on_vote,
            Sift: self._on_sift,
            Sifted: self._on_sifted,
            Prepared: self._on_prepared_message,
            Decide: self._on_decide,
            Timeout: self._on_timeout,
            Sync: self._on_sync,
            Certificates: self._on_certificates,
            StatePull: self._on_state_pull,
            StateOffer: self._on_state_offer,
            StateChunk: self._on_state_chunk,
        }

    # --- driving

    def recover(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Rebuild from the journal, oldest record first, before the first step. Raises StorageCorrupt."""
        for number, (kind, record) in enumerate(records):
            if number == 0:
                self._journal_found()
            if kind == journal.SNAPSHOT:
                for inner_kind, inner in self._restore(record).records:
                    self._replay(inner_kind, inner)
            else:
                self._snapshot_at -= len(record)  # it counts as journaled since
                self._replay(kind, record)
        self._entered = self._promises.opening

    def _replay(self, kind: str, record: bytes) -> None:
        if kind == journal.DECIDED:
            self._replay_decision(journal.decode_decided(record))
        elif kind == journal.EVIDENCE:
            self._evidence.replay(record)
        else:
            self._promises.replay(kind, record)

    def step(self, now_ns: int, event: Input) -> list[Effect]:
        """Advance by one input."""
        self._now_ns = now_ns
        if isinstance(event, Received):
            self._receive(event.source, event.body)
        elif isinstance(event, Fired):
            self._fire(event.token)
        elif isinstance(event, SubmitEvidence):
            self._hold_back(event)
        else:
            self._start()
        self._progress()
        return self._out.drain()

    def _start(self) -> None:
        for decision in self._recent.in_doubt(on_timer=False):
            self._out.emit("decided", decision)
        self._out.broadcast(Sync(self._epoch))
        self._begin_lost()
        self._evidence.rebroadcast(self._cut, self._newest_cut())
        timeout, proposal = self._promises.timeout, self._promises.proposal
        if timeout is not None and timeout.view == self.view:
            self._out.broadcast(timeout)
            self._on_timeout(self._me, timeout)
        elif proposal is not None and proposal.view == self.view:
            self._repropose(proposal)

    def _receive(self, source: int, body: bytes) -> None:
        if source == self._me or not 0 <= source < self._roster.n:
            return
        try:
            message = ENVELOPE.decode(body)
            if isinstance(message, Lean):
                message = self._filled(message)
        except WireError:
            self._out.refuse("malformed message")
            return
        self._handlers[type(message)](source, message)

    def _filled(self, lean: Lean) -> AnyMessage:
        """The message with its cuts, if it is of our epoch; of another no handler looks at them."""
        message = ENVELOPE.decode(lean.body)
        if epoch_of(message) != lean.epoch:
            raise WireError("a lean message is of another epoch than it says", remedy="run one version everywhere")
        filled = Filled(self._cut, lean.cuts)
        if lean.epoch == self._epoch:
            message = filled.message(message)
            if not filled.sound:
                raise WireError("a lean message's cuts do not fit it", remedy="run one version everywhere")
        return message

    def _fire(self, token: str) -> None:
        if token == PULL_TIMER:
            self._evidence.retry(self._cut, self._leader())
        elif token == CHECKPOINT_TIMER:
            self._checkpoint(on_timer=True)
        elif token == PROVISIONAL_TIMER:
            self._say_provisionally()
        elif token == STATE_TIMER:
            self._search()
        elif token == f"propose {self._epoch}":
            self._gathering = False
            if self.view == 0 and self._may_propose():
                self._propose(None)
        elif token == self._armed:
            self._armed = ""
            self._give_up(self.view)

    def _progress(self) -> None:
        """Do what the state allows, whatever input brought it about."""
        self._state_held()
        gap = self._settle()
        self._state_held()
        if self.view > 0 and self._entered is not None and self._may_propose():
            self._propose(self._entered)
            gap = self._settle()
        self._evidence.fetch([gap] if gap else [], self._cut, self._leader())
        uncut = self._newest_cut() != self._cut
        if uncut and self.view == 0 and not self._gathering and self._may_propose():
            self._gathering = True
            self._out.timer(f"propose {self._epoch}", self._config.proposal_delay_ns)
        if (
            not self._armed
            and not self.silent
            and (uncut or self.view > 0 or self._examined or self._promises.prepared_view >= 0)
        ):
            self._arm()
        if uncut:
            self._watch_for_quorum()
        self._watch_size()

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

    def _end_epoch(self) -> None:
        super()._end_epoch()
        self._disarm()
        self._out.cancel(f"propose {self._epoch}")

    # --- changing the view

    def _give_up(self, view: int) -> None:
        """Time out of `view`, once; later calls re-send the same bytes."""
        if self.silent:
            return
        timeout, first = self._promises.timeout, False
        if timeout is None or timeout.view < view:
            timeout = view_change.make_timeout(
                self._roster, self._signer, self._epoch, view, self._promises.high, self._entered
            )
            self._promises.timeout = timeout
            self._out.persist(journal.TIMED_OUT, ENVELOPE.encode(timeout))
            first = True
        if first and self._roster.adds_up:
            self._tell_next_leader(timeout)
            return
        self._out.broadcast(timeout)
        self._evidence.rebroadcast(self._cut, self._newest_cut())
        self._on_timeout(self._me, timeout)

    def _on_timeout(self, source: int, m: Timeout) -> None:
        if m.epoch < self._epoch:
            self._help(source, m.epoch)
        if not self._is_current(source, m.epoch):
            return
        if source != self._me:
            if not view_change.timeout_holds(self._roster, source, m, self._prev_cert_hash):
                self._out.refuse("forged timeout")
                return
            self._see(m.high)
            if m.timeouts is not None and m.timeouts.view >= self.view and self._opens(m.timeouts, m.timeouts.view + 1):
                self._see(m.timeouts.high)
                self._enter(m.timeouts.view + 1, m.timeouts)
            self._enter(m.high_view, None)
        if source not in self._timeouts or self._timeouts[source].view <= m.view:
            self._timeouts[source] = m
        self._count_timeouts()

    def _count_timeouts(self) -> None:
        views = [timeout.view for timeout in self._timeouts.values()]
        if len(views) <= self._roster.f:
            return
        honest = sorted(views, reverse=True)[self._roster.f]  # one honest monitor gave up on this view or a later one
        if honest >= self.view and honest > self._promises.timed_out_view:
            self._enter(honest, None)
            self._give_up(honest)
        elif views.count(self.view) >= self._roster.quorum:
            same = {i: timeout for i, timeout in self._timeouts.items() if timeout.view == self.view}
            certificate = self._certificate_of(same)
            if certificate is not None:
                self._enter(self.view + 1, certificate)

    def _tell_next_leader(self, timeout: Timeout) -> None:
        """In a large fleet a timeout first goes to who has use for it; sent again, it goes to everybody."""
        leader = leader_of(self._roster, self._epoch, timeout.view + 1)
        if leader != self._me:
            self._out.send(leader, timeout)
        self._on_timeout(self._me, timeout)

    def _certificate_of(self, timeouts: dict[int, Timeout]) -> TimeoutCertificate | None:
        """Of a quorum of timeouts of the current view; None where too few of their shares hold."""
        if not self._roster.adds_up:
            return view_change.certificate_of_timeouts(timeouts)
        sound = view_change.without_spoilers(self._roster, timeouts)
        for monitor in timeouts.keys() - sound.keys():
            del self._timeouts[monitor]
            self._out.refuse("forged timeout")
        return view_change.sum_of_timeouts(self._roster, sound) if len(sound) >= self._roster.quorum else None
