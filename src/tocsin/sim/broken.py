"""Monitors that break one rule each: what mutants.py hunts for."""

from __future__ import annotations

from collections.abc import Iterable

from tocsin.consensus import journal, quorum, view_change
from tocsin.consensus.evidence_log import Gap
from tocsin.consensus.inputs import Input
from tocsin.consensus.messages import Certified, Cut, PhaseName, Propose, Sync, Timeout, TimeoutCertificate
from tocsin.consensus.replica import Replica
from tocsin.consensus.tally import Question, Tally
from tocsin.model.posterior import Preview
from tocsin.model.steps import Effect, Persist
from tocsin.model.verdict import Roster
from tocsin.monitor.monitor import Monitor
from tocsin.sim.patching import patched

Records = Iterable[tuple[str, bytes]]


class TwoF(Roster, frozen=True):
    """One vote too few: two quorums of 2f share no honest monitor."""

    @property
    def quorum(self) -> int:
        return 2 * self.f


class FPlusOne(Roster, frozen=True):
    """Enough to know that one honest monitor is among them, not that two quorums meet."""

    @property
    def quorum(self) -> int:
        return self.f + 1


def weakened(kind: type[Roster], roster: Roster) -> Roster:
    """The same roster with another idea of a quorum."""
    return kind(net=roster.net, keys=roster.keys, alpha_ppm=roster.alpha_ppm, prior_ppm=roster.prior_ppm)


def _nothing(*_: object) -> None:
    return None


class WeakTimeouts(Replica):
    """f + 1 timeouts open the next view."""

    def _count_timeouts(self) -> None:
        true, self._roster = self._roster, weakened(FPlusOne, self._roster)
        try:
            super()._count_timeouts()
        finally:
            self._roster = true

    def _opens(self, certificate: TimeoutCertificate, view: int) -> bool:
        weak = weakened(FPlusOne, self._roster)
        return view_change.timeouts_hold(weak, certificate, self._epoch, view - 1, self._prev_cert_hash)


class Undated(Replica):
    """A decision of any epoch is taken for one of this epoch."""

    def _decides(self, certified: Certified) -> bool:
        return certified.votes.phase == "C" and quorum.votes_hold(self._roster, certified.votes)

    def _is_current(self, source: int, epoch: int) -> bool:
        return super()._is_current(source, epoch) or epoch < self._epoch


# --- locks and votes


class LockIgnored(Replica):
    """Proposes and accepts something new although a prepared value must be repeated."""

    def _value(self, entered: TimeoutCertificate | None) -> tuple[Cut, bytes]:  # noqa: ARG002
        return super()._value(None)

    def _respects_lock(self, m: Propose) -> bool:  # noqa: ARG002
        return True


class LockUnchecked(Replica):
    """Repeats prepared values, but does not check that other leaders do."""

    def _respects_lock(self, m: Propose) -> bool:  # noqa: ARG002
        return True


class VotesTwice(Replica):
    """Forgets having voted for a proposal."""

    def _vote_on(self, m: Propose) -> Gap | None:
        try:
            return super()._vote_on(m)
        finally:
            self._promises.prepared_view = -1


class PreparesLate(Replica):
    """Votes for a proposal of a view it has given up on."""

    def _on_propose(self, source: int, m: Propose) -> None:
        kept, self._promises.timeout = self._promises.timeout, None
        super()._on_propose(source, m)
        self._promises.timeout = self._promises.timeout or kept

    def _vote_on(self, m: Propose) -> Gap | None:
        kept, self._promises.timeout = self._promises.timeout, None
        try:
            return super()._vote_on(m)
        finally:
            self._promises.timeout = kept


class CommitsLate(Replica):
    """Votes to commit in a view it has given up on."""

    def _on_prepared(self, certified: Certified) -> None:
        kept, self._promises.timeout = self._promises.timeout, None
        super()._on_prepared(certified)
        self._promises.timeout = self._promises.timeout or kept


class CommitsUnprepared(Replica):
    """Votes to commit what it has only seen proposed."""

    def _vote(self, phase: PhaseName, view: int, root: bytes, posterior_root: bytes) -> None:
        super()._vote(phase, view, root, posterior_root)
        if phase == "P" and self._promises.committed_view < view:
            self._promises.committed_view = view
            super()._vote("C", view, root, posterior_root)


class TimeoutsAnew(Replica):
    """Makes a timeout anew, with what it knows by now, instead of sending the same bytes again."""

    def _give_up(self, view: int) -> None:
        self._promises.timeout = None
        super()._give_up(view)


class ClaimsBelieved(Tally):
    """Counts the shares that a helper says hold."""

    def answer(self, helper: int, good: set[int]) -> list[Question]:
        if helper in self._asked:
            shares = self._asked[helper].shares
            self.votes.update((monitor, shares[monitor]) for monitor in good & shares.keys())
        return super().answer(helper, good)


# --- values


class CutsShrink(Replica):
    """A cut may take back what was decided."""

    def _preview(self, cut: Cut) -> Preview | Gap | None:
        grown = tuple(new if new.seq >= old.seq else old for old, new in zip(self._cut, cut, strict=True))
        return super()._preview(grown)


class PosteriorBelieved(Replica):
    """Takes the posterior that the leader states for the one that follows."""

    _stated: bytes | None = None

    def _preview(self, cut: Cut) -> Preview | Gap | None:
        preview = super()._preview(cut)
        if isinstance(preview, Preview) and self._stated is not None:
            return Preview(root=self._stated, handle=preview.handle)
        return preview

    def _vote_on(self, m: Propose) -> Gap | None:
        self._stated = m.posterior_root
        try:
            return super()._vote_on(m)
        finally:
            self._stated = None

    def _apply(self, certified: Certified) -> Gap | None:
        self._stated = certified.votes.posterior_root
        try:
            return super()._apply(certified)
        finally:
            self._stated = None


# --- what must survive a crash


class _Forgets(Replica):
    """Recovers without the records of these kinds."""

    forgotten: frozenset[str] = frozenset()

    def recover(self, records: Records) -> None:
        super().recover((kind, record) for kind, record in records if kind not in self.forgotten)


class Amnesia(_Forgets):
    """Nothing of what was promised."""

    forgotten = frozenset((journal.PROPOSED, journal.VOTED, journal.LOCKED, journal.TIMED_OUT))


class LockForgotten(_Forgets):
    """Not what it had locked."""

    forgotten = frozenset((journal.LOCKED,))


class VotesForgotten(_Forgets):
    """Not its votes."""

    forgotten = frozenset((journal.VOTED,))


class TimeoutForgotten(_Forgets):
    """Not its timeouts."""

    forgotten = frozenset((journal.TIMED_OUT,))


class PromisesUnsaved(Replica):
    """A snapshot holds what is decided, and nothing of what was promised since."""

    def _records(self) -> list[tuple[str, bytes]]:
        return [record for record in super()._records() if record[0] == journal.EVIDENCE]


class DecisionsUnannounced(Replica):
    """Decisions that were durable before a crash but not announced are not announced after it."""

    def recover(self, records: Records) -> None:
        super().recover(records)
        self._recent.clear()


class SendsFirst(Replica):
    """Messages leave before the records they depend on are durable."""

    def step(self, now_ns: int, event: Input) -> list[Effect]:
        effects = super().step(now_ns, event)
        return sorted(effects, key=lambda effect: isinstance(effect, Persist))


class StatesAgain(Monitor):
    """After a restart, states again what its chain already states."""

    def recover(self, records: Records) -> None:
        self.replica.recover(records)


# --- liveness


class NoHelp(Replica):
    """Does not send decisions to those who lag behind."""

    def _on_sync(self, source: int, m: Sync) -> None:
        """Nothing."""

    def _on_timeout(self, source: int, m: Timeout) -> None:
        if m.epoch >= self._epoch:
            super()._on_timeout(source, m)


class NeverResends(Replica):
    """What others had no room for is not sent again."""

    def _apply(self, certified: Certified) -> Gap | None:
        with patched((self._evidence, "resend", _nothing)):
            return super()._apply(certified)

    def _give_up(self, view: int) -> None:
        with patched((self._evidence, "rebroadcast", _nothing)):
            super()._give_up(view)


class TimerLost(Replica):
    """Arms a view timer in the first view of an epoch only."""

    def _arm(self) -> None:
        if self.view > 0:
            self._armed = "lost"
        else:
            super()._arm()


class TimeoutsOnce(Replica):
    """Says once that it gave up on a view."""

    def _give_up(self, view: int) -> None:
        if self._promises.timed_out_view < view:
            super()._give_up(view)


class NoStates(Replica):
    """Who asks for decisions that are not kept gets nothing."""

    def _offer_state(self, source: int) -> None:
        """Nothing."""
