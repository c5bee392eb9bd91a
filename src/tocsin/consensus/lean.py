"""Large fleets' messages without what the receiver has: cuts are told by what they add to the last decided one.

A cut of 1000 monitors has 38 kB and stands in every proposal and certificate, which go to everybody; most of it is the
last decided cut again, which whoever is in the same epoch has. A `Lean` holds a message of the sender's current epoch
with its cuts left empty, and for each of them the tips that differ. Who is in another epoch asks for decisions, or is
told one, as for any message of another epoch, without looking at cuts.
"""

from __future__ import annotations

import msgspec

from tocsin.consensus.messages import (
    AnyMessage,
    Certified,
    Cut,
    Decide,
    LeanCut,
    Prepared,
    Propose,
    Step,
    Timeout,
    TimeoutCertificate,
    Tip,
)

LEAN_FROM = 64  # monitors


def epoch_of(message: AnyMessage) -> int | None:
    """Epoch of a message that may hold cuts."""
    if isinstance(message, Propose | Timeout):
        return message.epoch
    return message.certified.votes.epoch if isinstance(message, Prepared | Decide) else None


def steps(base: Cut, cut: Cut) -> LeanCut:
    """Where `cut` differs from `base`."""
    pairs = zip(base, cut, strict=True)
    return tuple(Step(i, new.seq, new.head) for i, (old, new) in enumerate(pairs) if new is not old and new != old)


def stepped(base: Cut, lean: LeanCut) -> Cut | None:
    """Inverse of `steps`; None where it names no monitor of the fleet, or monitors out of order."""
    cut = list(base)
    before = -1
    for step in lean:
        if not before < step.monitor < len(cut):
            return None
        before = step.monitor
        cut[step.monitor] = Tip(step.seq, step.head)
    return tuple(cut)


class _Cuts:
    """Replaces the cuts of a message one after the other, in the order in which they stand in it."""

    def next(self, cut: Cut) -> Cut:
        raise NotImplementedError

    def message(self, m: AnyMessage) -> AnyMessage:
        if isinstance(m, Propose):
            return msgspec.structs.replace(m, cut=self.next(m.cut), timeouts=self._timeouts(m.timeouts))
        if isinstance(m, Timeout):
            return msgspec.structs.replace(m, high=self._certified(m.high), timeouts=self._timeouts(m.timeouts))
        if isinstance(m, Prepared | Decide):
            return msgspec.structs.replace(m, certified=self._certified(m.certified))
        return m

    def _certified(self, one: Certified | None) -> Certified | None:
        return one if one is None else msgspec.structs.replace(one, cut=self.next(one.cut))

    def _timeouts(self, one: TimeoutCertificate | None) -> TimeoutCertificate | None:
        return one if one is None else msgspec.structs.replace(one, high=self._certified(one.high))


class Emptied(_Cuts):
    """Takes cuts out: `lean` holds what they add to `base`."""

    def __init__(self, base: Cut) -> None:
        self._base = base
        self.lean: list[LeanCut] = []

    def next(self, cut: Cut) -> Cut:
        self.lean.append(steps(self._base, cut))
        return ()


class Filled(_Cuts):
    """Puts cuts in. `sound` is false where they were not as many as the message has, or no cuts of this fleet."""

    def __init__(self, base: Cut, lean: tuple[LeanCut, ...]) -> None:
        self._base = base
        self._lean = list(reversed(lean))
        self._sound = True

    @property
    def sound(self) -> bool:
        return self._sound and not self._lean

    def next(self, cut: Cut) -> Cut:
        made = stepped(self._base, self._lean.pop()) if self._lean and not cut else None
        self._sound = self._sound and made is not None
        return made or ()
