"""How long an agreement takes on hardware that is not here: real replicas, a virtual network and charged time.

Every message is really encoded, decoded and judged by `consensus.Replica`; what the wire, the disk and the processor
would have taken is added up on a virtual clock:

* processor: the thread time of the very step, plus what this process has done before and a process of its own would
  not have: signatures (`Costs.verify_ns` each, a batch `open_ns`), BLS sums (`sum_ns`, and `key_ns` a signer), hashing
  a statement to the curve (`hash_ns`) and roots of cuts (`tip_ns` a monitor), plus carrying messages (`send_ns`,
  `receive_ns`, `byte_ns`);
* rounds as `runtime.host.Host` makes them: all that has arrived is stepped, then one commit of `commit_ns` for what
  follows a record, while what precedes it is on its way already;
* network: latency of the pair, and a link of `bits_per_second` out of and into every machine.

Monitors live in hosts: one each (a deployment), or all in one (what a benchmark on one machine runs, with one core and
one cache of verified signatures). Same seed, same delays; the processor's part is measured, so runs differ a little.
"""

from __future__ import annotations

import gc
import heapq
import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tocsin.consensus.inputs import ConsensusConfig, Start, SubmitEvidence
from tocsin.consensus.journal import PROPOSED
from tocsin.consensus.messages import (
    ENVELOPE,
    Certificates,
    Certified,
    Decide,
    EvidenceMessage,
    Fork,
    Lean,
    Prepared,
    Propose,
    Sift,
    Sifted,
    Sum,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.replica import Replica
from tocsin.consensus.sums import bitmap_of
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import WireError
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.posterior import Decision
from tocsin.model.steps import EVERYONE, Effect, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.sim.links import Network
from tocsin.trust import bls
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.signing import SIGNATURE_BYTES, VOTE

HEADER_BYTES = 66  # Ethernet, IP and TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What this machine takes, in nanoseconds; `benchmarks.consensus_sockets` measures them."""

    verify_ns: int  # one Ed25519 signature
    open_ns: int  # one evidence batch with one item, its signature included
    send_ns: int  # handing one message to one peer
    receive_ns: int  # taking one message from the wire
    tip_ns: int = 0  # one monitor's part in the root of a cut
    sum_ns: int = 0  # one BLS sum, but for
    key_ns: int = 0  # adding up the keys of its signers
    hash_ns: int = 0  # a statement to a point
    byte_ns: float  # carrying one byte, both ends together
    commit_ns: int  # one fsynced commit of the journal
    stretch: float = 1.0  # wall time of a unit of processor time: more than 1 where others want the core


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """`silent` monitors never do anything; `garbling` ones vote with signatures that do not hold and vouch for such."""

    silent: frozenset[int] = frozenset()
    garbling: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Milliseconds from the statement to each honest monitor's certificate; messages and bytes on the wire."""

    certificate_ms: tuple[float, ...]
    proposed_ms: float  # when the first proposal left
    messages: int
    message_bytes: int
    views: int  # of the decided epoch: 1 where the first leader did it


@dataclass(slots=True)
class _Host:
    """One process: its machines, what waits for it, and what its cache of verified signatures knows."""

    machines: list[int]
    inbox: list[tuple[int, Any]] = field(default_factory=list[tuple[int, Any]])
    free_ns: int = 0
    planned: bool = False
    known: set[bytes] = field(default_factory=set[bytes])
    unwritten: bool = False


def _certified(certified: Certified | None) -> Iterator[bytes]:
    if certified is not None:
        yield from (signature for _, signature in certified.votes.signatures)


def _timeouts(certificate: TimeoutCertificate | None) -> Iterator[bytes]:
    if certificate is not None:
        yield from (vote.signature for vote in certificate.votes)
        yield from _certified(certificate.high)


def signatures_in(message: Any) -> Iterator[bytes]:
    """Every Ed25519 signature that a replica may have to check for `message`, evidence apart."""
    if isinstance(message, Propose | Vote | Timeout) and len(message.signature) == SIGNATURE_BYTES:
        yield message.signature
    if isinstance(message, Propose | Timeout):
        yield from _timeouts(message.timeouts)
    if isinstance(message, Prepared | Decide):
        yield from _certified(message.certified)
    elif isinstance(message, Timeout):
        yield from _certified(message.high)
    elif isinstance(message, Certificates):
        for certified in message.certified:
            yield from _certified(certified)
    elif isinstance(message, Fork):
        yield from (message.signature_a, message.signature_b)


def sums_in(message: Any) -> Iterator[Sum]:
    """Every BLS sum that a replica may have to check for `message`."""
    votes: list[Certified | None] = []
    if isinstance(message, Propose | Timeout) and message.timeouts is not None:
        yield from (one.total for one in message.timeouts.sums)
        votes.append(message.timeouts.high)
    if isinstance(message, Prepared | Decide):
        votes.append(message.certified)
    elif isinstance(message, Timeout):
        votes.append(message.high)
    elif isinstance(message, Certificates):
        votes.extend(message.certified)
    yield from (one.votes.total for one in votes if one is not None and one.votes.total is not None)


class LatencyModel:
    """n monitors on `network`. `agree` makes some state evidence and runs until every live monitor has decided it."""

    def __init__(
        self,
        n: int,
        network: Network,
        costs: Costs,
        *,
        config: ConsensusConfig | None = None,
        faults: Faults | None = None,
        together: bool = False,
        adds_up: bool = False,
        nats: int = 1,
        seed: int = 0,
        kind: type[Replica] = Replica,
    ) -> None:
        self.n = n
        self.messages = 0
        self.message_bytes = 0
        self._network = network
        self._costs = costs
        self._faults = faults or Faults()
        self._together = together
        self._rng = random.Random(seed)  # noqa: S311 - a simulation
        self._signers = signers = deterministic_signers(b"latency", n)
        self._junk: dict[int, bytes] = {}
        self.roster = roster_of("latency", signers, adds_up=adds_up)
        self.replicas = [
            kind(self.roster, i, signer, FleetPosterior(self.roster), config or ConsensusConfig())
            for i, signer in enumerate(signers)
        ]
        groups = [list(range(n))] if together else [[i] for i in range(n)]
        self._hosts = [_Host(group) for group in groups]
        self._host_of = {i: host for host in self._hosts for i in host.machines}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._pushed = 0
        self._now = 0
        self._out_free = [0] * n
        self._in_free = [0] * n
        self._timers: dict[tuple[int, str], int] = {}
        self._nats = nats  # of each statement
        self._stated = 0
        self._proposed = -1  # when the first proposal of the current agreement was made
        self.decision: Decision | None = None  # the latest
        self._decided: dict[int, dict[int, int]] = {}  # epoch -> monitor -> when
        self._views: dict[int, int] = {}
        for replica in self.replicas:
            replica.step(0, Start())  # n * n questions whether anything was missed, which nobody needs to answer

    @property
    def live(self) -> list[int]:
        """Monitors that are not silent."""
        return [i for i in range(self.n) if i not in self._faults.silent]

    def agree(self, stating: Collection[int]) -> Outcome:
        """Milliseconds until each live, honest monitor has the certificate of what `stating` state now."""
        epoch = max(replica.epoch for replica in self.replicas)
        began, messages, size = self._now, self.messages, self.message_bytes
        self._proposed = -1
        seq, self._stated = self._stated, self._stated + 1
        for i in stating:
            item = Evidence(
                monitor=i,
                agent_id=f"agent-{seq % 16}",
                first_seq=seq * 8,
                last_seq=seq * 8 + 7,
                log_e_q32=self._nats * Q32,
                log_bf_q32=self._nats * Q32,
            )
            self._submit(i, SubmitEvidence((item,), seq + 1))
        collecting = gc.isenabled()
        gc.disable()  # a collection would be charged to whoever steps when it comes
        try:
            self._run(lambda: len(self._decided.get(epoch, ())) == len(self.live))
        finally:
            if collecting:
                gc.enable()
        return Outcome(
            certificate_ms=tuple((at - began) / 1e6 for at in sorted(self._decided[epoch].values())),
            proposed_ms=(self._proposed - began) / 1e6,
            messages=self.messages - messages,
            message_bytes=self.message_bytes - size,
            views=1 + self._views.get(epoch, 0),
        )

    # --- the machine room

    def _at(self, when: int, action: Callable[[], None]) -> None:
        self._pushed += 1
        heapq.heappush(self._queue, (when, self._pushed, action))

    def _run(self, over: Callable[[], bool]) -> None:
        while self._queue and not over():
            self._now, _, action = heapq.heappop(self._queue)
            action()

    def _submit(self, number: int, event: Any) -> None:
        host = self._host_of[number]
        host.inbox.append((number, event))
        if not host.planned:
            host.planned = True
            self._at(max(self._now, host.free_ns), lambda: self._round(host))

    def _round(self, host: _Host) -> None:
        host.planned = False
        inputs, host.inbox = host.inbox, []
        clock = self._now
        waiting: list[tuple[int, Effect]] = []
        left = False
        for number, event in inputs:
            charge = self._charge(host, event)
            began = time.thread_time_ns()
            effects = self.replicas[number].step(clock, event)
            clock += int((charge + time.thread_time_ns() - began) * self._costs.stretch)
            behind = host.unwritten
            for effect in effects:
                if isinstance(effect, Persist):
                    behind = host.unwritten = True
                    if effect.kind == PROPOSED and self._proposed < 0:
                        self._proposed = clock
                elif behind and not isinstance(effect, SetTimer):
                    waiting.append((number, effect))
                else:
                    left = left or isinstance(effect, Send)
                    clock = self._execute(clock, number, effect)
        if waiting or (left and host.unwritten):
            clock += self._costs.commit_ns
            host.unwritten = False
            for number, effect in waiting:
                clock = self._execute(clock, number, effect)
        host.free_ns = clock
        if host.inbox and not host.planned:
            host.planned = True
            self._at(clock, lambda: self._round(host))

    def _charge(self, host: _Host, event: Any) -> int:
        """Processor time of taking a message in, beyond the step itself as it runs here."""
        if not isinstance(event, Received):
            return 0
        costs = self._costs
        charge = costs.receive_ns + int(costs.byte_ns * len(event.body))
        try:
            message = ENVELOPE.decode(event.body)
            if isinstance(message, Lean):
                message = ENVELOPE.decode(message.body)
        except WireError:
            return charge
        if self._together:  # the step itself met with the same caches
            return charge
        if isinstance(message, EvidenceMessage):
            fresh = [raw for raw in message.batches if raw not in host.known]
            host.known.update(fresh)
            return charge + costs.open_ns * len(fresh)
        if isinstance(message, Propose) and message.signature not in host.known:
            charge += costs.tip_ns * self.n
        if isinstance(message, Sift):
            bls.forget()  # other helpers looked at the same shares
        if self.roster.adds_up:
            charge += self._charge_sums(host, message)
        new = [one for one in signatures_in(message) if one not in host.known]
        host.known.update(new)
        return charge + costs.verify_ns * len(new)

    def _charge_sums(self, host: _Host, message: Any) -> int:
        costs, charge = self._costs, 0
        if isinstance(message, Propose | Prepared):  # each is followed by a vote of another phase
            charge += costs.hash_ns
        for total in sums_in(message):
            if total.signature not in host.known:
                host.known.add(total.signature)
                charge += costs.sum_ns + costs.key_ns * int.from_bytes(total.signers, "little").bit_count()
        return charge

    def _execute(self, clock: int, number: int, effect: Effect) -> int:
        if isinstance(effect, Send):
            body = self._garbled(number, effect.body)
            everyone = [(number + k) % self.n for k in range(1, self.n)]
            for target in everyone if effect.to == EVERYONE else [effect.to]:
                clock += int(self._costs.send_ns * self._costs.stretch)
                self._send(clock, number, target, body)
        elif isinstance(effect, SetTimer):
            self._set_timer(clock, number, effect)
        elif isinstance(effect, Emit) and effect.kind == "decided":
            self.decision = effect.value
            self._decided.setdefault(effect.value.epoch, {})[number] = clock
            self._views[effect.value.epoch] = effect.value.certificate.statement.view
        return clock

    def _garbled(self, number: int, body: bytes) -> bytes:
        if number not in self._faults.garbling:
            return body
        message = ENVELOPE.decode(body)
        if isinstance(message, Sifted):  # vouches for everybody: the leader checks that in vain
            return ENVELOPE.encode(msgspec.structs.replace(message, good=bitmap_of(range(self.n), self.n)))
        return self._garbage(number, message) if isinstance(message, Vote) else body

    def _garbage(self, number: int, vote: Vote) -> bytes:
        """The dearest kind to find: a signature of something else, which looks like one until it is checked."""
        if number not in self._junk:
            signer = self._signers[number]
            self._junk[number] = signer.share(VOTE, b"") if self.roster.adds_up else signer.sign(VOTE, b"")
        return ENVELOPE.encode(msgspec.structs.replace(vote, signature=self._junk[number]))

    def _send(self, clock: int, source: int, target: int, body: bytes) -> None:
        self.messages += 1
        self.message_bytes += len(body)
        wire_ns = int((len(body) + HEADER_BYTES) * 8e9 / self._network.bits_per_second)
        self._out_free[source] = out = max(clock, self._out_free[source]) + wire_ns
        if target in self._faults.silent:
            return
        arrives = out + self._network.latency_ns(source, target, self._rng)
        self._at(arrives, lambda: self._arrive(source, target, body, wire_ns))

    def _arrive(self, source: int, target: int, body: bytes, wire_ns: int) -> None:
        self._in_free[target] = ready = max(self._now, self._in_free[target] + wire_ns)
        self._at(ready, lambda: self._submit(target, Received(source, body)))

    def _set_timer(self, clock: int, number: int, effect: SetTimer) -> None:
        key = (number, effect.token)
        serial = self._timers[key] = self._timers.get(key, 0) + 1
        if effect.delay_ns >= 0:
            self._at(clock + effect.delay_ns, lambda: self._fire(key, serial))

    def _fire(self, key: tuple[int, str], serial: int) -> None:
        if self._timers[key] == serial:
            self._submit(key[0], Fired(key[1]))
