"""Fetching a whole state from others, and serving it to them: the part of a replica that transfer.py is about."""

from __future__ import annotations

from tocsin.consensus.checkpoint import Checkpointer
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig, SubmitEvidence
from tocsin.consensus.messages import StateChunk, StateOffer, StatePull, Sync
from tocsin.consensus.pruning import LOST
from tocsin.consensus.transfer import MAX_DOUBLINGS, STATE_TIMER, STRIKES, StateServer, Transfer, chunk_of
from tocsin.errors import ConfigError, InternalError, WireError
from tocsin.model.verdict import Roster
from tocsin.trust.signing import Signer

PATIENCE = 4  # pull delays that an answer may take


class Fetcher(Checkpointer):
    """A learner that takes over a state where decisions alone would not help."""

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        super().__init__(roster, me, signer, fold, config)
        if config.rejoin and roster.f == 0:
            raise ConfigError(
                f"a monitor of {roster.n} cannot come back without its journal", remedy="restore the journal"
            )
        self._silent_below = LOST if config.rejoin else 0  # until a journal is found, or the others were asked
        self._standing: dict[int, int] = {}  # monitor -> decisions it proved, while we are lost
        self._unstated: list[SubmitEvidence] = []  # while we are silent
        self._server = StateServer()
        self._transfer: Transfer | None = None
        self._tried: set[int] = set()  # servers that were of no help since the last state we got
        self._asked: int | None = None  # for an offer
        self._rounds = 0  # in which all were tried in vain
        self._searching = False  # the timer is set

    @property
    def _lost(self) -> bool:
        return self._silent_below == LOST

    @property
    def silent(self) -> bool:
        """Whether this monitor signs nothing, because it may have signed what it does not remember."""
        return self._lost or self._epoch < self._silent_below

    # --- serving

    def _offer_state(self, source: int) -> None:
        """The same as before, where decisions from there on are kept: `source` may be fetching it."""
        held = self._server.held.get(source)
        if held is not None and held[0].votes.epoch >= self._decided.first - 1:
            self._out.send(source, StateOffer(held[0], held[1].size))
        else:
            self._offer_newest(source)

    def _offer_newest(self, source: int) -> None:
        if self._last is None:
            self._out.send(source, StateOffer(None))
            return
        folded = self._fold.folded()
        self._server.hold(source, self._last, folded)
        self._out.send(source, StateOffer(self._last, folded.size))

    def _on_state_pull(self, source: int, m: StatePull) -> None:
        if not self._server.may_send(source, self._now_ns, self._config.pull_delay_ns):
            return
        if m.epoch < 0:
            self._offer_newest(source)
            return
        folded = self._server.state_for(source, m.epoch)
        chunk = chunk_of(self._roster.n, m.epoch, folded, m.index) if folded is not None else None
        if chunk is not None:
            self._out.send(source, chunk)

    # --- fetching

    def _on_state_offer(self, source: int, m: StateOffer) -> None:
        certified = m.certified
        if certified is not None and not (certified.votes.epoch < self._epoch or self._is_decision(certified)):
            self._out.refuse(f"an offer of a state that is not certified, from monitor {source}")
            self._try_another(source)
            return
        if self._lost:
            self._standing[source] = certified.votes.epoch + 1 if certified is not None else 0
            self._find_standing()
        if certified is None or certified.votes.epoch < self._epoch:
            if source == self._asked:
                self._asked = None  # it is no further than we are
            return
        if self._transfer is not None or source in self._tried:
            return
        transfer = Transfer(self._roster.n, source, certified, m.leaves)
        if transfer.possible:
            self._transfer = transfer
            self._pull_chunks()

    def _ask_for_decisions(self, source: int) -> None:
        if self._transfer is None:
            super()._ask_for_decisions(source)

    def _pull_chunks(self) -> None:
        transfer = self._transfer
        if transfer is None:
            return
        for index in transfer.wanted():
            self._out.send(transfer.server, StatePull(transfer.epoch, index))
        self._search_on()

    def _search_on(self) -> None:
        if not self._searching:
            self._searching = True
            doublings = min(self._rounds, MAX_DOUBLINGS)
            self._out.timer(STATE_TIMER, PATIENCE * self._config.pull_delay_ns << doublings)

    def _on_state_chunk(self, source: int, m: StateChunk) -> None:
        transfer = self._transfer
        if transfer is None or (source, m.epoch) != (transfer.server, transfer.epoch):
            return
        before = set(transfer.wanted())
        if not transfer.take(m):
            self._out.refuse(f"a chunk of state that does not hold, from monitor {source}")
            self._try_another(source)
            return
        wanted = transfer.wanted()
        for index in wanted:
            if index not in before:
                self._out.send(source, StatePull(transfer.epoch, index))
        if not wanted:
            self._install(transfer)

    def _search(self) -> None:
        """The state timer fired: ask again, or somebody else."""
        self._searching = False
        if self._lost:
            self._out.broadcast(StatePull(-1))
            self._search_on()
        transfer = self._transfer
        if transfer is not None and transfer.epoch < self._epoch:  # decisions were faster
            self._transfer = self._asked = transfer = None
            self._tried.clear()
        if transfer is not None:
            transfer.strikes += 1
            if transfer.strikes > STRIKES:
                self._try_another(transfer.server)
            else:
                self._pull_chunks()
        elif self._asked is not None:
            self._try_another(self._asked)

    def _try_another(self, useless: int) -> None:
        """`useless` does not help: ask the next one that was not tried for an offer."""
        if useless not in (self._asked, self._transfer.server if self._transfer else None):
            return
        self._transfer = None
        self._tried.add(useless)
        others = [i for i in range(self._roster.n) if i != self._me]
        if self._tried.issuperset(others):
            self._tried.clear()
            self._rounds += 1
        later = sorted(others, key=lambda i: (i - useless) % self._roster.n)
        self._asked = next(i for i in later if i not in self._tried)
        self._out.send(self._asked, StatePull(-1))
        self._search_on()

    def _install(self, transfer: Transfer) -> None:
        """Stand where the state stands. Every rule of a view begins anew: this epoch was never entered."""
        self._transfer = self._asked = None
        self._tried.clear()
        self._rounds = 0
        if transfer.epoch < self._epoch:
            return
        certified = transfer.certified
        try:
            result = self._fold.restore(transfer.items())
        except WireError as error:
            raise InternalError(f"a certified state does not decode: {error}") from None
        if self._fold.root != certified.votes.posterior_root:
            raise InternalError("a certified state has another root than its leaves")
        self._end_epoch()
        before = self._cut
        self._epoch = transfer.epoch
        decision = self._decision_of(certified, result)
        self._backlog.clear()
        self._more = None
        self._stand_at(certified)
        self._recent.add(decision)
        self._checkpoint(on_timer=False)
        self._out.emit("decided", decision)
        self._evidence.resend(before, self._cut)
        self._out.send(transfer.server, Sync(self._epoch))

    # --- coming back without a journal

    def _begin_lost(self) -> None:
        """At the start: `recover` found nothing, and there was something.

        That goes into the journal first: what is recorded from here on is no sign that nothing was lost.
        """
        if self._lost:
            self._checkpoint(on_timer=False)
            self._out.broadcast(StatePull(-1))
            self._search_on()

    def _find_standing(self) -> None:
        roster = self._roster
        if len(self._standing) >= roster.n - 1 - roster.f:
            self._silent_below = max(self._standing.values()) + 2
            self._checkpoint(on_timer=False)

    def _hold_back(self, submission: SubmitEvidence) -> None:
        """State it when we may sign: our chain may be longer than we know."""
        self._unstated.append(submission)

    def _state_held(self) -> None:
        while self._unstated and not self.silent:
            self._evidence.submit(self._unstated.pop(0), self._cut)

    def _journal_found(self) -> None:
        """There is a journal after all: it says whether anybody needs to be asked."""
        self._silent_below = 0
