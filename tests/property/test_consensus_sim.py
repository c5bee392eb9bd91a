"""Agreement under faults, in a deterministic simulation: real replicas, real keys, simulated network and clock.

Each seed draws delays, loss, duplication, reordering, partitions, crashes in the middle of a step, and one Byzantine
monitor of four: a pair of twins (Bano et al. 2022) that share a key and run the protocol twice, whose messages pass
through lies: hidden locks, stripped certificates, votes for the other phase, early decisions, forged evidence. After
a time of healing every honest monitor must decide everything that honest monitors stated. Planted protocol errors
must each be found: see MUTANTS.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from tocsin.consensus import journal, quorum, view_change
from tocsin.consensus.certificate import verify_certificate
from tocsin.consensus.cut import cut_root
from tocsin.consensus.inputs import MILLISECOND_NS, Start, SubmitEvidence
from tocsin.consensus.messages import (
    ENVELOPE,
    AnyMessage,
    Decide,
    EvidenceMessage,
    Prepared,
    Propose,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.replica import ConsensusConfig, Decision, Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import VerificationError
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.steps import EVERYONE, Effect, Fired, Persist, Received, Send, SetTimer
from tocsin.model.verdict import Roster, Statement
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.signing import PROPOSE, verify

N = 4
SIGNERS = deterministic_signers(b"simulation", N)
ROSTER = roster_of("simulation", SIGNERS)
CONFIG = ConsensusConfig()
HEAL_NS = 4_000 * MILLISECOND_NS
END_NS = 120_000 * MILLISECOND_NS
SLICES = 8
Slot = tuple[int, int, str]


class Violation(AssertionError):
    """An invariant does not hold."""


class Recording(Replica):
    """A replica that also notes each vote it makes: [(epoch, view, phase), value]."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.votes_made: list[tuple[Slot, tuple[bytes, bytes]]] = []

    def _vote(self, phase: Any, view: int, root: bytes, posterior_root: bytes) -> None:
        self.votes_made.append(((self.epoch, view, phase), (root, posterior_root)))
        super()._vote(phase, view, root, posterior_root)


class Node:
    """One running copy of a monitor and its disk."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.replica: Recording | None = None
        self.disk: list[tuple[str, bytes]] = []
        self.incarnation = 0
        self.crash_after: int | None = None
        self.timers: dict[str, int] = {}
        self.stated = 0
        self.epoch = 0


class World:
    """`run()` raises Violation, or returns the number of epochs decided."""

    def __init__(self, seed: int, make: type[Recording] = Recording, roster: Roster = ROSTER) -> None:
        self.rng = random.Random(seed)
        self.make, self.roster = make, roster
        self.now = 0
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.pushed = 0
        rng = self.rng
        self.liar = rng.randrange(N)
        self.nodes = [Node(i) for i in range(N)] + [Node(self.liar)]
        self.honest = [node for node in self.nodes if node.index != self.liar]
        if rng.random() < 0.15:  # a plainly silent monitor
            self.nodes = list(self.honest)
        # Each lie is told never, sometimes, or always.
        self.lies = {
            lie: rng.choice((0.0, 0.0, 0.2, 1.0))
            for lie in ("hide", "vote", "strip", "decide", "forge", "mute", "alter")
        }
        self.loss = rng.choice((0.0, 0.0, 0.02, 0.1))
        self.groups = [[rng.randrange(rng.choice((1, 2, 2, 3))) for _ in self.nodes] for _ in range(SLICES)]
        self.decided: dict[int, tuple[bytes, bytes]] = {}
        self.released: dict[tuple[int, Slot], tuple[bytes, bytes]] = {}
        for node in self.nodes:
            self.boot(node)
        for node in self.nodes:
            for _ in range(rng.choice((2, 3))):
                self.at(rng.randrange(HEAL_NS), lambda node=node: self.state(node))
            if node in self.honest:
                self.at(HEAL_NS + rng.randrange(100 * MILLISECOND_NS), lambda node=node: self.state(node))
                for _ in range(rng.choice((0, 0, 1, 2))):
                    self.at(rng.randrange(HEAL_NS), lambda node=node: self.plan_crash(node))

    # --- the machine room

    def at(self, when: int, action: Callable[[], None]) -> None:
        self.pushed += 1
        heapq.heappush(self.queue, (when, self.pushed, action))

    def boot(self, node: Node) -> None:
        node.replica = self.make(self.roster, node.index, SIGNERS[node.index], FleetPosterior(self.roster), CONFIG)
        node.incarnation += 1
        node.timers = {}
        node.replica.recover(node.disk)
        self.step(node, Start())

    def plan_crash(self, node: Node) -> None:
        node.crash_after = self.rng.randrange(6)

    def state(self, node: Node) -> None:
        if node.replica is None:
            return self.at(self.now + 50 * MILLISECOND_NS, lambda: self.state(node))
        seq, node.stated = node.stated, node.stated + 1
        item = Evidence(
            monitor=node.index,
            agent_id=self.rng.choice(("ada", "bob")),
            first_seq=seq * 8,
            last_seq=seq * 8 + 7,
            log_e_q32=self.rng.randrange(20) * Q32,
            log_bf_q32=self.rng.randrange(-5, 20) * Q32,
        )
        return self.step(node, SubmitEvidence((item,), seq))

    def step(self, node: Node, event: Any) -> None:
        replica = node.replica
        if replica is None:
            return
        replica.votes_made.clear()
        effects = replica.step(self.now, event)
        limit, node.crash_after = node.crash_after, None
        for done, effect in enumerate(effects):
            if limit is not None and done >= limit:
                self.crash(node)
                return
            self.execute(node, effect)
        if node in self.honest:
            for slot, value in replica.votes_made:
                self.release(node.index, slot, value)
        if limit is not None:
            self.crash(node)

    def crash(self, node: Node) -> None:
        node.replica = None
        self.at(self.now + self.rng.randrange(5, 300) * MILLISECOND_NS, lambda: self.boot(node))

    def execute(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Persist):
            node.disk.append((effect.kind, effect.record))
            if effect.kind == journal.VOTED and node in self.honest and node.replica is not None:
                voted = msgspec.msgpack.decode(effect.record, type=journal.VotedRecord)
                for slot, value in node.replica.votes_made:
                    if slot[1:] == (voted.view, voted.phase):
                        self.release(node.index, slot, value)
        elif isinstance(effect, Send):
            self.send(node, effect)
        elif isinstance(effect, SetTimer):
            self.set_timer(node, effect)
        elif effect.kind == "decided" and node in self.honest:
            self.check_decision(node, effect.value)

    def set_timer(self, node: Node, effect: SetTimer) -> None:
        number = node.timers[effect.token] = node.timers.get(effect.token, 0) + 1
        incarnation = node.incarnation

        def fire() -> None:
            if node.incarnation == incarnation and node.timers[effect.token] == number:
                self.step(node, Fired(effect.token))

        if effect.delay_ns >= 0:
            self.at(self.now + int(effect.delay_ns * self.rng.uniform(0.9, 1.3)), fire)

    # --- the network

    def send(self, node: Node, effect: Send) -> None:
        if node in self.honest:
            message = ENVELOPE.decode(effect.body)
            if isinstance(message, Vote):
                slot = (message.epoch, message.view, message.phase)
                self.release(node.index, slot, (message.cut_root, message.posterior_root))
        for target in self.nodes:
            if target.index != node.index and effect.to in (EVERYONE, target.index):
                bodies = [effect.body] if node in self.honest else self.lie(node, effect.body)
                for body in bodies:
                    self.deliver(node, target, body)

    def deliver(self, source: Node, target: Node, body: bytes) -> None:
        rng, delay = self.rng, int(self.rng.expovariate(1 / 8) * MILLISECOND_NS)
        if self.now >= HEAL_NS:
            delay = rng.randrange(1, 12) * MILLISECOND_NS
        else:
            if rng.random() < self.loss:
                return
            if rng.random() < 0.03:
                self.arrive(source, target, body, rng.randrange(400) * MILLISECOND_NS)
            now_slice = self.now * SLICES // HEAL_NS
            group = self.groups[now_slice]
            if group[self.nodes.index(source)] != group[self.nodes.index(target)]:
                if rng.random() < 0.5:
                    return
                delay += (now_slice + 1) * HEAL_NS // SLICES - self.now
        self.arrive(source, target, body, delay)

    def arrive(self, source: Node, target: Node, body: bytes, delay: int) -> None:
        self.at(self.now + delay, lambda: self.step(target, Received(source.index, body)))

    # --- lies

    def tells(self, lie: str) -> bool:
        return self.rng.random() < self.lies[lie]

    def lie(self, node: Node, body: bytes) -> list[bytes]:
        """What the Byzantine monitor sends in place of `body`, signed with its own key."""
        if self.tells("mute") and self.rng.random() < 0.5:
            return []
        message, signer = ENVELOPE.decode(body), SIGNERS[self.liar]
        out: list[AnyMessage] = [message]
        if isinstance(message, Timeout) and self.tells("hide"):
            out = [view_change.make_timeout(self.roster, signer, message.epoch, message.view, None, None)]
        elif isinstance(message, Propose) and message.view > 0 and self.tells("strip"):
            out = [self.stripped(node, message)]
        elif isinstance(message, Vote) and self.tells("vote"):
            out = [self.other_vote(node, message)]
        elif isinstance(message, Prepared) and self.tells("decide"):
            votes = msgspec.structs.replace(message.certified.votes, phase="C")
            early = Decide(msgspec.structs.replace(message.certified, votes=votes))
            out = self.rng.choice(([early], [message, early], []))
        elif isinstance(message, EvidenceMessage) and self.tells("forge"):
            out = [message, EvidenceMessage(tuple(self.damaged(raw) for raw in message.batches))]
        bodies = [ENVELOPE.encode(one) for one in out]
        if self.tells("alter") and self.rng.random() < 0.1:
            bodies.append(self.damaged(body))
        return bodies

    def stripped(self, node: Node, message: Propose) -> Propose:
        """A proposal of whatever is newest, against the lock: the certificate that proves the lock is left out."""
        assert node.replica is not None
        assert message.timeouts is not None
        if message.epoch != node.replica.epoch:
            return message
        timeouts = msgspec.structs.replace(message.timeouts, high=None)
        cut, root = Replica._value(node.replica, None)
        votes = node.replica._ballot(message.view, "P", cut_root(cut), root, {})
        signed = statement_bytes(quorum.statement_of(self.roster, votes))
        signature = SIGNERS[self.liar].sign(PROPOSE, signed)
        # The liar votes for its own lie.
        own = quorum.sign_vote(SIGNERS[self.liar], quorum.statement_of(self.roster, votes))
        vote = Vote(message.epoch, message.view, "P", votes.cut_root, root, own)
        lie = Propose(message.epoch, message.view, cut, root, timeouts, signature)
        replica = node.replica
        replica._proposed = lie
        replica._votes = {"P": {}, "C": {}}
        self.at(self.now + 1, lambda: replica._on_vote(self.liar, vote))
        return lie

    def other_vote(self, node: Node, message: Vote) -> Vote:
        assert node.replica is not None
        if message.epoch != node.replica.epoch:
            return message
        phase = self.rng.choice(("P", "C"))
        view = max(0, message.view + self.rng.choice((0, 0, 1, -1)))
        votes = node.replica._ballot(view, phase, message.cut_root, message.posterior_root, {})
        signature = quorum.sign_vote(SIGNERS[self.liar], quorum.statement_of(self.roster, votes))
        return Vote(message.epoch, view, phase, message.cut_root, message.posterior_root, signature)

    def damaged(self, data: bytes) -> bytes:
        at = self.rng.randrange(len(data))
        return data[:at] + bytes((data[at] ^ 1 << self.rng.randrange(8),)) + data[at + 1 :]

    # --- invariants

    def release(self, monitor: int, slot: Slot, value: tuple[bytes, bytes]) -> None:
        if self.released.setdefault((monitor, slot), value) != value:
            raise Violation(f"honest monitor {monitor} signed two values in {slot}")

    def check_decision(self, node: Node, decision: Decision) -> None:
        statement = decision.certificate.statement
        value = (statement.cut_root, statement.posterior_root)
        try:
            verify_certificate(decision.certificate, ROSTER)
        except VerificationError as error:
            raise Violation(f"decided without a certificate: {error}") from None
        for signer in set(decision.certificate.signatures) - {self.liar}:
            if self.released.get((signer, (statement.epoch, statement.view, "C"))) != value:
                raise Violation(f"the certificate of epoch {decision.epoch} counts a vote monitor {signer} never cast")
        if self.decided.setdefault(decision.epoch, value) != value:
            raise Violation(f"two decisions in epoch {decision.epoch}")
        if decision.epoch > node.epoch:  # a decision may be announced again after a restart, but none is left out
            raise Violation(f"monitor {node.index} decided epoch {decision.epoch} after {node.epoch - 1}")
        node.epoch = max(node.epoch, decision.epoch + 1)

    def check_certifiable(self) -> None:
        """With the liar's help, no second value could be certified in any epoch."""
        backing: dict[tuple[Slot, tuple[bytes, bytes]], set[int]] = {}
        for (monitor, slot), value in self.released.items():
            backing.setdefault((slot, value), {self.liar}).add(monitor)
        certifiable: dict[int, set[tuple[bytes, bytes]]] = {}
        for (slot, value), monitors in backing.items():
            if slot[2] == "C" and len(monitors) >= ROSTER.quorum:
                certifiable.setdefault(slot[0], set()).add(value)
        for epoch, values in certifiable.items():
            if len(values) > 1:
                raise Violation(f"two values can be certified in epoch {epoch}")

    def check_validity(self) -> None:
        """What is decided about an honest monitor's chain is what that monitor wrote."""
        for node in self.honest:
            for kind, record in node.disk:
                if kind == journal.DECIDED:
                    cut = journal.decode_decided(record).cut
                    for author in self.honest:
                        if author.replica and cut[author.index].seq >= 0:
                            chain = author.replica._evidence.log._chains[author.index]
                            if chain[cut[author.index].seq].tip != cut[author.index]:
                                raise Violation(f"a decision holds evidence monitor {author.index} never stated")

    def done(self) -> bool:
        """Every honest monitor is up, in the same epoch, and all that honest monitors stated is decided."""
        replicas = [node.replica for node in self.honest]
        if any(one is None for one in replicas) or len({node.epoch for node in self.honest}) > 1:
            return False
        return all(
            one is not None and one._cut[node.index] == author._evidence.log.tip(node.index)
            for one in replicas
            for node in self.honest
            if (author := node.replica) is not None
        )

    def run(self) -> int:
        events = 0
        while self.queue:
            self.now, _, action = heapq.heappop(self.queue)
            if self.now > END_NS:
                break
            action()
            events += 1
            if self.now > HEAL_NS + 120 * MILLISECOND_NS and events % 20 == 0 and self.done():
                break
        self.check_certifiable()
        self.check_validity()
        if not self.done():
            raise Violation(f"no progress after healing: epochs {[node.epoch for node in self.honest]}")
        return len(self.decided)


def campaign(seeds: range, make: type[Recording] = Recording, roster: Roster = ROSTER) -> tuple[int, str] | None:
    """The first seed that violates an invariant, and how; None where none does."""
    for seed in seeds:
        try:
            World(seed, make, roster).run()
        except Violation as violation:
            return seed, str(violation)
    return None


def test_honest_monitors_agree_and_make_progress_under_faults() -> None:
    found = campaign(range(150))
    assert found is None, f"seed {found[0]}: {found[1]}"


def test_a_seed_replays_to_the_same_decisions() -> None:
    first, second = World(7), World(7)
    assert first.run() == second.run() > 0
    assert first.decided == second.decided


# --- planted errors: each must be found


class TwoF(Roster):
    """A quorum of 2f, one too few: two of them share no honest monitor."""

    @property
    def quorum(self) -> int:
        return 2 * self.f


class IgnoresLock(Recording):
    """Proposes and accepts something new although a prepared value must be repeated."""

    def _value(self, entered: TimeoutCertificate | None) -> Any:
        return super()._value(None)

    def _respects_lock(self, m: Propose) -> bool:
        return True


class Forgetful(Recording):
    """Does not write its promises to disk."""

    def step(self, now_ns: int, event: Any) -> list[Effect]:
        kept = (journal.EVIDENCE, journal.DECIDED)
        return [e for e in super().step(now_ns, event) if not isinstance(e, Persist) or e.kind in kept]


def one_phase_is_like_the_other(statement: Statement) -> bytes:
    """Votes of both phases sign the same bytes."""
    return statement_bytes(msgspec.structs.replace(statement, phase="P"))


TIMEOUTS_HOLD = view_change.timeouts_hold


def believes_stripped(roster: Roster, certificate: TimeoutCertificate, epoch: int, view: int, prev: bytes) -> bool:
    """Does not check that the highest prepare certificate is there."""
    if certificate.high is not None or (certificate.epoch, certificate.view) != (epoch, view):
        return TIMEOUTS_HOLD(roster, certificate, epoch, view, prev)
    signers = {vote.monitor for vote in certificate.votes}
    messages = [view_change._message(roster, epoch, view, vote.high_view) for vote in certificate.votes]
    return (
        len(signers) >= roster.quorum
        and max(signers) < roster.n
        and all(
            verify(roster.keys[vote.monitor], view_change.TIMEOUT, message, vote.signature)
            for vote, message in zip(certificate.votes, messages, strict=True)
        )
    )


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, value)
        yield


@contextmanager
def unpatched() -> Iterator[None]:
    yield


WEAK_ROSTER = TwoF(net=ROSTER.net, keys=ROSTER.keys)
MUTANTS: dict[str, tuple[type[Recording], Roster, Callable[[], Any]]] = {
    "quorum of 2f": (Recording, WEAK_ROSTER, unpatched),
    "ignored lock": (IgnoresLock, ROSTER, unpatched),
    "amnesia": (Forgetful, ROSTER, unpatched),
    "no domain separation": (
        Recording,
        ROSTER,
        lambda: patched(quorum, "statement_bytes", one_phase_is_like_the_other),
    ),
    "stripped certificate believed": (
        Recording,
        ROSTER,
        lambda: patched(view_change, "timeouts_hold", believes_stripped),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_protocol_error_is_found(name: str) -> None:
    make, roster, patch = MUTANTS[name]
    with patch():
        assert campaign(range(60), make, roster) is not None
