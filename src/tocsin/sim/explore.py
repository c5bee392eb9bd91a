"""Every order of events, not a random one: an exhaustive search of the real state machine, small but complete.

Four monitors, one of them a liar, decide one epoch in a bounded number of views. What was sent may arrive at anyone it
was sent to at any later time, in any order, or never; timers fire whenever they like. The liar reads all messages,
votes and times out in every way its key allows, proposes either of two values whenever it leads, and assembles every
certificate that the signatures sent so far allow. With `crashes`, honest monitors may crash after any step, as often as
they like, and come back with what they had made durable; what a crash in the middle of a step would leave is a step
whose messages never arrive, or none. In no reachable state may two values be certifiable.

A replica is a function from (state, input) to (state, messages), so each such step is taken once by the real
`Replica` and remembered; the search itself moves numbers. Two reductions, neither of which loses a reachable promise
or message: states that differ only in whose signatures make a certificate are one; and a vote or timeout of somebody
else that has been counted but did nothing yet is not kept, since it can be delivered again, so these come in pairs:
with one's own, a pair is a quorum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import msgspec

from tocsin.consensus import journal, view_change
from tocsin.consensus.cut import NOTHING, cut_root
from tocsin.consensus.inputs import ConsensusConfig, Start, SubmitEvidence
from tocsin.consensus.messages import (
    ENVELOPE,
    AnyMessage,
    Certified,
    Cut,
    Decide,
    PhaseName,
    Prepared,
    Propose,
    Timeout,
    TimeoutCertificate,
    Vote,
    Votes,
)
from tocsin.consensus.quorum import NO_CERTIFICATE, leader_of, sign_vote, statement_of
from tocsin.consensus.replica import Replica
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.steps import EVERYONE, Effect, Emit, Fired, Persist, Received, Send
from tocsin.sim.machine import Machine, RootFold, fingerprint, name_of
from tocsin.sim.world import committee
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.signing import PROPOSE

N = 4
LOCAL_BITS = 16
LOCAL_MASK = (1 << LOCAL_BITS) - 1
SENT_AT = (N - 1) * LOCAL_BITS
LOCALS_MASK = (1 << SENT_AT) - 1
PHASES: tuple[PhaseName, ...] = ("P", "C")


CRASH = "crash"
Records = tuple[tuple[str, bytes], ...]
Key = str | tuple[int, ...]  # a timer's token, CRASH, or the numbers of messages to deliver in a row


class Explored(msgspec.Struct, frozen=True):
    """What a search found. `complete`: no reachable state was left out. `violation` is '' where all held."""

    liar: int
    views: int
    states: int
    local_states: int
    messages: int
    complete: bool
    violation: str


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        mask ^= lowest
        yield lowest.bit_length() - 1


def _persisted(effects: Sequence[Effect]) -> list[tuple[str, bytes]]:
    return [(effect.kind, effect.record) for effect in effects if isinstance(effect, Persist)]


def _packed(locals_: Sequence[int], sent: int) -> int:
    """A state of the whole as one number: of millions of them, tuples would not fit in memory."""
    return sum(local << place * LOCAL_BITS for place, local in enumerate(locals_)) | sent << SENT_AT


class Explorer:
    """`run()` searches. `kind` is what honest monitors run; views are numbered 0..`last_view`."""

    def __init__(self, liar: int, last_view: int, kind: type[Replica] = Replica, *, crashes: bool = False) -> None:
        self._liar = liar
        self._last_view = last_view
        self._roster, self._signers = committee(N)
        self._honest = [i for i in range(N) if i != liar]
        self._kind = kind
        self._crashes = crashes
        self._machines = {i: Machine(kind, self._roster, i, self._signers[i]) for i in self._honest}
        self._names: dict[tuple[object, ...], int] = {}  # (source, target, message's name) -> number
        self._sent: list[tuple[int, int, AnyMessage]] = []  # by number; target EVERYONE = all honest
        self._locals: dict[tuple[int, tuple[object, ...]], int] = {}
        self._states: list[tuple[int, tuple[Any, ...] | None]] = []  # by number: monitor, and state unless it decided
        self._durable: list[Records] = []  # by number of a local state: what its monitor's journal holds of the epoch
        self._evidence: dict[int, list[tuple[str, bytes]]] = {i: [] for i in range(N)}  # and of the time before it
        self._steps: dict[tuple[int, Key], tuple[int, int]] = {}  # (state, input) -> state, messages sent
        self._pairs: dict[tuple[int, int], list[Key]] = {}  # (monitor, messages) -> what to deliver together
        self._idle: dict[int, int] = {}  # state -> messages that change nothing in it
        self._deliverable: dict[int, int] = dict.fromkeys(self._honest, 0)
        self._made: dict[int, int] = {}  # messages sent -> those and what the liar makes of them
        self._commits: dict[int, tuple[int, bytes]] = {}  # number of a vote C -> view, value
        self._received: dict[int, Received] = {}
        self._first: Cut = ()
        self._second: Cut = ()
        self._roots: dict[bytes, bytes] = {}
        self._start = self._prepare()

    # --- the beginning: everybody holds everybody's evidence

    def _prepare(self) -> tuple[int, ...]:
        bodies: list[tuple[int, bytes]] = []
        liar = Replica(self._roster, self._liar, self._signers[self._liar], RootFold(self._roster), ConsensusConfig())
        everyone: dict[int, Replica] = {i: machine.replica for i, machine in self._machines.items()}
        everyone[self._liar] = liar
        for i, replica in everyone.items():
            item = Evidence(monitor=i, agent_id="ada", first_seq=0, last_seq=0, log_e_q32=0, log_bf_q32=i * Q32)
            effects = [*replica.step(0, Start()), *replica.step(0, SubmitEvidence((item,), 1))]
            self._evidence[i] += _persisted(effects)
            bodies += [(i, one.body) for one in effects if isinstance(one, Send)]
        for source, body in bodies:
            for i, replica in everyone.items():
                if i != source and b"EVIDENCE" in body[:12]:
                    self._evidence[i] += _persisted(replica.step(0, Received(source, body)))
        witness = everyone[self._honest[0]]
        tips = [witness.evidence_log.tip(i) for i in range(N)]
        self._first = tuple(tips)
        self._second = (*tips[:-1], NOTHING)
        nothing: Cut = (NOTHING,) * N
        for cut in (self._first, self._second):
            links = witness.evidence_log.between(nothing, cut)
            assert isinstance(links, list)
            self._roots[cut_root(cut)] = RootFold(self._roster).preview([link.batch for link in links]).root
        for machine in self._machines.values():
            machine.settle()
        return tuple(self._local(i, self._machines[i].take(), ()) for i in self._honest)

    def _local(self, monitor: int, state: tuple[Any, ...], durable: Records) -> int:
        """The number of a state. What it would be after a crash follows from it, whichever way led here."""
        key = (monitor, fingerprint(state))
        if key not in self._locals:
            self._locals[key] = len(self._states)
            self._states.append((monitor, state))
            self._durable.append(durable)
        return self._locals[key]

    def _message(self, source: int, target: int, message: AnyMessage) -> int:
        """The bit of a message. Who sent a certificate does not matter; the liar can always do so too."""
        if isinstance(message, Prepared | Decide):
            source = self._liar
        key = (source, target, name_of(message))
        if key not in self._names:
            number = self._names[key] = len(self._sent)
            self._sent.append((source, target, message))
            for i in self._honest:
                if i != source and target in (EVERYONE, i):
                    self._deliverable[i] |= 1 << number
            if isinstance(message, Vote) and message.phase == "C" and source != self._liar:
                self._commits[number] = (message.view, message.cut_root)
        return 1 << self._names[key]

    # --- honest steps

    def _step(self, local: int, key: Key) -> tuple[int, int]:
        """The state and the messages that one step leads to, or two deliveries in a row."""
        if (local, key) not in self._steps:
            monitor, state = self._states[local]
            assert state is not None
            machine = self._restarted(monitor, self._durable[local]) if key == CRASH else self._machines[monitor]
            if key == CRASH:
                effects = machine.replica.step(0, Start())
            else:
                machine.put(state)
                events = [Fired(key)] if isinstance(key, str) else [self._delivery(number) for number in key]
                effects = [effect for event in events for effect in machine.replica.step(0, event)]
            durable = (*self._durable[local], *_persisted(effects))
            decided = any(isinstance(one, Emit) and one.kind == "decided" for one in effects)
            after = self._decided(monitor) if decided else self._local(monitor, machine.take(), durable)
            self._steps[local, key] = after, self._sent_by(machine, effects)
            if decided:  # its evidence log has moved on, which is no part of the states put back into it
                self._machines[monitor] = self._restarted(monitor, ())
                self._machines[monitor].settle()
        return self._steps[local, key]

    def _restarted(self, monitor: int, durable: Records) -> Machine:
        machine = Machine(self._kind, self._roster, monitor, self._signers[monitor])
        machine.replica.recover([*self._evidence[monitor], *durable])
        return machine

    def _decided(self, monitor: int) -> int:
        """The state of one that decided: it takes no more part; its certificate is what the liar has too."""
        key = (monitor, ("decided",))
        if key not in self._locals:
            self._locals[key] = len(self._states)
            self._states.append((monitor, None))
            self._durable.append(())
        return self._locals[key]

    def _sent_by(self, machine: Machine, effects: Sequence[Effect]) -> int:
        sent, monitor = 0, machine.replica.me
        for effect in effects:
            if isinstance(effect, Send):
                message = ENVELOPE.decode(effect.body)
                if name_of(message)[0] != "other":
                    sent |= self._message(monitor, effect.to, message)
            elif isinstance(effect, Persist) and effect.kind == journal.VOTED:
                sent |= self._own_vote(machine, msgspec.msgpack.decode(effect.record, type=journal.VotedRecord))
        return sent

    def _own_vote(self, machine: Machine, vote: journal.VotedRecord) -> int:
        """A leader's own vote is sent to nobody, but counts."""
        monitor = machine.replica.me
        proposal = machine.replica._promises.proposal  # pyright: ignore[reportPrivateUsage]
        if leader_of(self._roster, 0, vote.view) != monitor or proposal is None or proposal.view != vote.view:
            return 0
        return self._message(monitor, monitor, self._vote(monitor, vote.view, vote.phase, cut_root(proposal.cut)))

    # --- what the liar can make of what was sent

    def _ballot(self, view: int, phase: PhaseName, root: bytes, signatures: Sequence[tuple[int, bytes]] = ()) -> Votes:
        return Votes(0, view, phase, NO_CERTIFICATE, root, self._roots[root], tuple(signatures))

    def _vote(self, monitor: int, view: int, phase: PhaseName, root: bytes) -> Vote:
        statement = statement_of(self._roster, self._ballot(view, phase, root))
        return Vote(0, view, phase, root, self._roots[root], sign_vote(self._signers[monitor], statement))

    def _makes(self, sent: int) -> int:
        """`sent` and everything that the liar can send, given that."""
        if sent not in self._made:
            known, before = sent, -1
            while known != before:
                before = known
                for message in list(self._lies(known)):
                    target = leader_of(self._roster, 0, message.view) if isinstance(message, Vote) else EVERYONE
                    known |= self._message(self._liar, target, message)
            self._made[sent] = known
        return self._made[sent]

    def _lies(self, sent: int) -> Iterator[AnyMessage]:
        certificates = list(self._certificates(sent))
        yield from certificates
        prepared = [one.certified for one in certificates if isinstance(one, Prepared)]
        timeouts: list[tuple[int, Timeout]] = [
            (source, message)
            for number, (source, _, message) in enumerate(self._sent)
            if sent >> number & 1 and isinstance(message, Timeout)
        ]
        signer = self._signers[self._liar]
        for view in range(self._last_view + 1):
            for high in (None, *(one for one in prepared if one.votes.view <= view)):
                yield view_change.make_timeout(self._roster, signer, 0, view, high, None)
            for cut in (self._first, self._second):
                for phase in PHASES:
                    yield self._vote(self._liar, view, phase, cut_root(cut))
                if leader_of(self._roster, 0, view) == self._liar:
                    for opening in self._openings(view, timeouts):
                        yield self._proposal(view, cut, opening)

    def _certificates(self, sent: int) -> Iterator[Prepared | Decide]:
        """Every certificate that the votes sent allow, with the liar's own."""
        cast: dict[tuple[int, PhaseName, bytes], dict[int, bytes]] = {}
        for number, (source, _, message) in enumerate(self._sent):
            if sent >> number & 1 and isinstance(message, Vote):
                cast.setdefault((message.view, message.phase, message.cut_root), {})[source] = message.signature
        for (view, phase, root), signatures in cast.items():
            signatures[self._liar] = self._vote(self._liar, view, phase, root).signature
            if len(signatures) >= self._roster.quorum:
                cut = self._first if root == cut_root(self._first) else self._second
                certified = Certified(self._ballot(view, phase, root, sorted(signatures.items())), cut)
                yield Prepared(certified) if phase == "P" else Decide(certified)

    def _openings(self, view: int, timeouts: Sequence[tuple[int, Timeout]]) -> Iterator[TimeoutCertificate | None]:
        if view == 0:
            yield None
            return
        given_up = [(source, one) for source, one in timeouts if one.view == view - 1]
        for chosen in combinations(given_up, self._roster.quorum):
            if len({source for source, _ in chosen}) == len(chosen):
                yield view_change.certificate_of_timeouts(dict(chosen))

    def _proposal(self, view: int, cut: Cut, opening: TimeoutCertificate | None) -> Propose:
        root = cut_root(cut)
        signed = statement_bytes(statement_of(self._roster, self._ballot(view, "P", root)))
        signature = self._signers[self._liar].sign(PROPOSE, signed)
        return Propose(0, view, cut, self._roots[root], opening, signature)

    # --- the search

    def run(self, most_states: int = 1_000_000, progress: Callable[[int], None] | None = None) -> Explored:
        """Search until nothing is left, a violation is found, or `most_states` were seen."""
        seen = {_packed(self._start, self._makes(0))}
        waiting = list(seen)
        violation = ""
        while waiting and not violation and len(seen) < most_states:
            for there in self._successors(waiting.pop()):
                if there not in seen:
                    seen.add(there)
                    waiting.append(there)
                    violation = violation or self._violation(there >> SENT_AT)
                    if progress is not None and len(seen) % 10_000 == 0:
                        progress(len(seen))
        complete = not waiting and not violation
        return Explored(
            self._liar, self._last_view + 1, len(seen), len(self._states), len(self._sent), complete, violation
        )

    def _successors(self, here: int) -> Iterator[int]:
        sent = here >> SENT_AT
        for place in range(N - 1):
            shift = place * LOCAL_BITS
            local = here >> shift & LOCAL_MASK
            monitor, state = self._states[local]
            if state is None:
                continue
            rest = here & ~(LOCAL_MASK << shift)
            for key in self._events(local, monitor, state, sent):
                after, messages = self._step(local, key)
                if after == local and not messages & ~sent:
                    if not messages and not isinstance(key, str) and len(key) == 1:
                        self._idle[local] = self._idle.get(local, 0) | 1 << key[0]
                    continue
                known = self._makes(sent | messages) if messages & ~sent else sent
                yield rest & LOCALS_MASK | after << shift | known << SENT_AT

    def _events(self, local: int, monitor: int, state: tuple[Any, ...], sent: int) -> Iterator[Key]:
        yield from ((number,) for number in _bits(sent & self._deliverable[monitor] & ~self._idle.get(local, 0)))
        if (monitor, sent) not in self._pairs:
            self._pairs[monitor, sent] = list(self._together(sent & self._deliverable[monitor]))
        yield from self._pairs[monitor, sent]
        armed, gathering = state[6], state[7]
        if armed and int(armed.split()[-1]) < self._last_view:
            yield armed
        if gathering:
            yield "propose 0"
        if self._crashes:
            yield CRASH

    def _together(self, deliverable: int) -> Iterator[Key]:
        """Pairs of timeouts, and of votes that count together, from two monitors."""
        by_ballot: dict[object, list[int]] = {}
        for number in _bits(deliverable):
            message = self._sent[number][2]
            if isinstance(message, Timeout):
                by_ballot.setdefault("timeout", []).append(number)
            elif isinstance(message, Vote):
                by_ballot.setdefault(name_of(message), []).append(number)
        for numbers in by_ballot.values():
            for one, other in combinations(numbers, 2):
                if self._sent[one][0] != self._sent[other][0]:
                    yield one, other
                    yield other, one

    def _delivery(self, number: int) -> Received:
        if number not in self._received:
            source, _, message = self._sent[number]
            self._received[number] = Received(source, ENVELOPE.encode(message))
        return self._received[number]

    def _violation(self, sent: int) -> str:
        """Whether two values have a quorum of votes C, each in one view, the liar's vote counting for both."""
        backing: dict[tuple[int, bytes], int] = {}
        for number, ballot in self._commits.items():
            if sent >> number & 1:
                backing[ballot] = backing.get(ballot, 0) + 1
        certifiable = {root for (_, root), votes in backing.items() if votes + 1 >= self._roster.quorum}
        return "two values can be certified" if len(certifiable) > 1 else ""
