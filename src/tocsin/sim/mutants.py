"""Every rule of the protocol, broken on purpose: a simulation that finds none of these would find nothing.

Honest monitors run the broken code; `hunt` says which seed notices, by which invariant. What breaks is as small as it
can be, a method or a function of one rule, so that each line of the table is about that rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec

from tocsin.consensus import evidence_log, journal, learner, quorum, replica, view_change
from tocsin.consensus.evidence_log import Gap
from tocsin.consensus.inputs import Input
from tocsin.consensus.messages import Certified, Cut, PhaseName, Propose, Sync, Timeout, TimeoutCertificate, Votes
from tocsin.consensus.replica import Replica
from tocsin.model.posterior import Preview
from tocsin.model.steps import Effect, Persist
from tocsin.model.verdict import Roster, Statement
from tocsin.monitor.monitor import Monitor
from tocsin.sim.campaign import campaign
from tocsin.sim.world import Build
from tocsin.trust.canonical import statement_bytes
from tocsin.wire import evidence

Records = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken rule. `build` is what honest monitors run, `patch` what is replaced while they do."""

    rule: str
    build: Build
    patch: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True)
class Caught:
    """What came of a hunt: the first seed that noticed and by what, or `seed` None where none did."""

    rule: str
    seed: int | None
    seeds: int
    seconds: float
    noticed: str


def hunt(mutant: Mutant, seeds: range, monitors: int = 4) -> Caught:
    """Run seeds on the broken code until one violates an invariant."""
    began = time.process_time()
    with mutant.patch():
        totals = campaign(seeds, monitors, build=mutant.build)
    failure = totals.failures[0] if totals.failures else None
    seconds = time.process_time() - began
    return Caught(mutant.rule, failure.seed if failure else None, totals.runs, seconds, failure.kind if failure else "")


@contextmanager
def _patched(*replacements: tuple[Any, str, Any]) -> Generator[None]:
    """Module attributes replaced for a while."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


# --- quorums and certificates


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


def _weakened(kind: type[Roster], roster: Roster) -> Roster:
    return kind(net=roster.net, keys=roster.keys, alpha_ppm=roster.alpha_ppm, prior_ppm=roster.prior_ppm)


def _one_phase_is_like_the_other(statement: Statement) -> bytes:
    return statement_bytes(msgspec.structs.replace(statement, phase="P"))


def _every_signature_counts(roster: Roster, votes: Votes) -> bool:
    statement = quorum.statement_of(roster, votes)
    enough = len(votes.signatures) >= roster.quorum
    return enough and all(quorum.vote_holds(roster, i, statement, signature) for i, signature in votes.signatures)


def _signatures_unchecked(roster: Roster, votes: Votes) -> bool:
    return len({monitor for monitor, _ in votes.signatures}) >= roster.quorum


def _always(*_: object) -> bool:
    return True


_TIMEOUTS_HOLD = view_change.timeouts_hold


def _believes_stripped(
    roster: Roster, certificate: TimeoutCertificate, epoch: int, view: int, prev_cert_hash: bytes
) -> bool:
    """Checks the timeouts, but not that the certificate they name is there."""
    if certificate.high is not None or not certificate.votes:
        return _TIMEOUTS_HOLD(roster, certificate, epoch, view, prev_cert_hash)
    lower = [vote for vote in certificate.votes if vote.high_view == -1]
    rest = [vote for vote in certificate.votes if vote.high_view >= 0]
    signers = {vote.monitor for vote in certificate.votes}
    return (certificate.epoch, certificate.view) == (epoch, view) and all(
        (len(signers) == len(lower) + len(rest), len(signers) >= roster.quorum, max(signers) < roster.n)
    )


@contextmanager
def _forged_evidence_passes() -> Generator[None]:
    remembered = evidence_log._open  # pyright: ignore[reportPrivateUsage]
    with _patched((evidence, "verify", _always)):
        remembered.cache_clear()
        yield
    remembered.cache_clear()


class WeakTimeouts(Replica):
    """f + 1 timeouts open the next view."""

    def _count_timeouts(self) -> None:
        true, self._roster = self._roster, _weakened(FPlusOne, self._roster)
        try:
            super()._count_timeouts()
        finally:
            self._roster = true

    def _opens(self, certificate: TimeoutCertificate, view: int) -> bool:
        weak = _weakened(FPlusOne, self._roster)
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


class DecisionsUnannounced(Replica):
    """Decisions that were durable before a crash but not announced are not announced after it."""

    def recover(self, records: Records) -> None:
        super().recover(records)
        self._unannounced.clear()


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


def _runs(kind: type[Replica]) -> Build:
    return Build(replica=kind)


MUTANTS = (
    Mutant("a quorum is 2f", Build(believed=lambda roster: _weakened(TwoF, roster))),
    Mutant("f + 1 timeouts open a view", _runs(WeakTimeouts)),
    Mutant(
        "votes of both phases sign the same bytes",
        Build(),
        lambda: _patched((quorum, "statement_bytes", _one_phase_is_like_the_other)),
    ),
    Mutant(
        "a signer counts as often as it signed",
        Build(),
        lambda: _patched(
            (learner, "votes_hold", _every_signature_counts), (view_change, "votes_hold", _every_signature_counts)
        ),
    ),
    Mutant(
        "signatures in certificates are not checked",
        Build(),
        lambda: _patched(
            (learner, "votes_hold", _signatures_unchecked), (view_change, "votes_hold", _signatures_unchecked)
        ),
    ),
    Mutant("signatures of votes are not checked", Build(), lambda: _patched((replica, "vote_holds", _always))),
    Mutant("signatures of evidence are not checked", Build(), _forged_evidence_passes),
    Mutant(
        "a timeout certificate without its lock is believed",
        Build(),
        lambda: _patched((view_change, "timeouts_hold", _believes_stripped)),
    ),
    Mutant("a decision of another epoch is taken", _runs(Undated)),
    Mutant("locks are ignored", _runs(LockIgnored)),
    Mutant("a leader's respect for the lock is not checked", _runs(LockUnchecked)),
    Mutant("votes twice in a view", _runs(VotesTwice)),
    Mutant("votes P after a timeout", _runs(PreparesLate)),
    Mutant("votes C after a timeout", _runs(CommitsLate)),
    Mutant("votes C without a prepare certificate", _runs(CommitsUnprepared)),
    Mutant("a timeout is made anew", _runs(TimeoutsAnew)),
    Mutant("a cut may give up what was decided", _runs(CutsShrink)),
    Mutant("the posterior is not recomputed", _runs(PosteriorBelieved)),
    Mutant("promises are forgotten in a crash", _runs(Amnesia)),
    Mutant("the lock is forgotten in a crash", _runs(LockForgotten)),
    Mutant("votes are forgotten in a crash", _runs(VotesForgotten)),
    Mutant("timeouts are forgotten in a crash", _runs(TimeoutForgotten)),
    Mutant("messages leave before records are durable", _runs(SendsFirst)),
    Mutant("decisions are not announced after a crash", _runs(DecisionsUnannounced)),
    Mutant("evidence is stated again after a crash", Build(monitor=StatesAgain)),
    Mutant("laggards get no decisions", _runs(NoHelp)),
    Mutant("a view timer is not armed", _runs(TimerLost)),
    Mutant("a timeout is sent once", _runs(TimeoutsOnce)),
)
