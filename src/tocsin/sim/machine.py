"""One replica whose state can be taken out, named, and put back: what an exhaustive search needs of it."""

from __future__ import annotations

from typing import Any

from tocsin.consensus import journal
from tocsin.consensus.cut import cut_root
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.messages import (
    AnyMessage,
    Certified,
    Decide,
    Prepared,
    Propose,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.posterior import FoldResult
from tocsin.model.verdict import Roster
from tocsin.trust.signing import Signer


class RootFold(FleetPosterior):
    """A fold that only says what was folded: agreement needs no more of it."""

    def commit(self, handle: object) -> FoldResult:  # noqa: ARG002 - one epoch is all there is
        """Nothing: no second epoch follows."""
        return FoldResult()


# What a replica holds in an epoch. Attributes of `Replica`; the rest does not change before a decision.
_HELD = ("_promises", "_proposed", "_votes", "_timeouts", "_entered", "_examined", "_armed", "_gathering", "_decision")
_EPOCH = ("_epoch", "_cut", "_prev_cert_hash")


class Machine:
    """One honest replica whose state can be taken out and put back."""

    def __init__(self, kind: type[Replica], roster: Roster, me: int, signer: Signer) -> None:
        self.replica = kind(roster, me, signer, RootFold(roster), ConsensusConfig())
        self._base: dict[str, Any] = {}

    def settle(self) -> None:
        """What is held now is what every state has in common."""
        self._base = {name: getattr(self.replica, name) for name in _EPOCH}

    def take(self) -> tuple[Any, ...]:
        """The state; not to be changed."""
        held = [getattr(self.replica, name) for name in _HELD]
        promises: journal.Promises = held[0]
        held[0] = journal.Promises(*(getattr(promises, name) for name in journal.Promises.__slots__))
        me = self.replica.me
        held[2] = {phase: {i: vote for i, vote in votes.items() if i == me} for phase, votes in held[2].items()}
        held[3] = {i: timeout for i, timeout in held[3].items() if i == me}
        return tuple(held)

    def put(self, state: tuple[Any, ...]) -> None:
        """Make `state` the replica's own."""
        for name, value in zip(_HELD, state, strict=True):
            setattr(self.replica, name, value)
        held = self.take()  # copies of what the replica changes in place
        for name, value in zip(_HELD, held, strict=True):
            setattr(self.replica, name, value)
        for name, value in self._base.items():
            setattr(self.replica, name, value)


def _value_of(certified: Certified | None) -> object:
    """A certificate but for its signers."""
    return None if certified is None else (certified.votes.view, certified.votes.phase, certified.votes.cut_root)


def _opening_of(certificate: TimeoutCertificate | None) -> object:
    return None if certificate is None else (certificate.view, _value_of(certificate.high))


def name_of(message: AnyMessage | None) -> tuple[object, ...]:
    """A message but for whose signatures make its certificates."""
    if isinstance(message, Propose):
        return ("propose", message.view, cut_root(message.cut), _opening_of(message.timeouts))
    if isinstance(message, Vote):
        return ("vote", message.view, message.phase, message.cut_root)
    if isinstance(message, Prepared | Decide):
        return ("certificate", _value_of(message.certified))
    if isinstance(message, Timeout):
        return ("timeout", message.view, _value_of(message.high), _opening_of(message.timeouts))
    return ("other", type(message).__name__)


def fingerprint(state: tuple[Any, ...]) -> tuple[object, ...]:
    """What tells a state of `Machine.take` from others, but for whose signatures make its certificates."""
    promises, proposed, votes, timeouts, entered, examined, armed, gathering, decision = state
    return (
        promises.view,
        promises.prepared_view,
        promises.committed_view,
        name_of(promises.timeout),
        name_of(promises.proposal),
        _value_of(promises.high),
        name_of(proposed),
        frozenset(votes["P"]),
        frozenset(votes["C"]),
        frozenset((i, name_of(timeout)) for i, timeout in timeouts.items()),
        _opening_of(entered),
        name_of(examined),
        armed,
        gathering,
        _value_of(decision),
    )
