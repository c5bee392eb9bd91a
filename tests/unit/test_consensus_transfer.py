"""State transfer: whoever lags behind by more than is kept, or lost its journal, takes over a state it can check."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import ROSTER, SIGNERS, Cluster

from tocsin.consensus import journal
from tocsin.consensus.inputs import ConsensusConfig, Start
from tocsin.consensus.messages import (
    ENVELOPE,
    Certificates,
    Certified,
    Decide,
    EvidenceMessage,
    StateChunk,
    StateOffer,
    StatePull,
    Sync,
    Timeout,
    Vote,
    Votes,
)
from tocsin.consensus.replica import Replica
from tocsin.consensus.transfer import (
    CHUNKS_PER_DELAY,
    SERVED_AT_ONCE,
    StateServer,
    Transfer,
    chunk_of,
    leaves_per_chunk,
)
from tocsin.detection.fold_state import Folded, Leaves
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import ConfigError
from tocsin.model.steps import Fired, Persist, Received, Send
from tocsin.trust.merkle import MerkleTree, leaf_hash, node_hash
from tocsin.wire.limits import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, MAX_MONITORS

SHORT = ConsensusConfig(keep_epochs=2, checkpoint_bytes=4096)


def root_of(replica: Replica) -> bytes:
    fold = replica._fold
    assert isinstance(fold, FleetPosterior)
    return fold.root


def behind(epochs: int = 8, agents: int = 3, **kinds: type[Replica]) -> Cluster:
    """Monitor 3 was cut off for `epochs` and is connected again."""
    cluster = Cluster(config=SHORT)
    for name, kind in kinds.items():
        number = int(name[-1])
        cluster.kinds[number] = kind
        cluster.restart(number)
    cluster.drop = lambda source, target, _: 3 in (source, target)
    for window in range(epochs):
        cluster.state(window, by=[0, 1, 2], agent=f"agent {window % agents}")
        cluster.run(2_000)
    assert cluster.epochs() == [epochs, epochs, epochs, 0]
    cluster.drop = lambda *_: False
    return cluster


def agree(cluster: Cluster) -> None:
    assert len(set(cluster.epochs())) == 1
    assert len({root_of(replica) for replica in cluster.replicas}) == 1


def test_a_laggard_beyond_what_is_kept_takes_over_a_state_and_takes_part_again() -> None:
    cluster = behind()
    cluster.state(8)
    cluster.run()
    agree(cluster)
    leap = cluster.decisions(3)[0]
    assert leap.epoch >= 7
    assert {entry.agent_id for entry in leap.changed} == {"agent 0", "agent 1", "agent 2"}  # what it had missed
    assert cluster.disks[3][0][0] == journal.SNAPSHOT
    cluster.dead = {0}  # from now on its vote is needed
    cluster.state(9)
    cluster.run(20_000)
    assert cluster.epochs()[3] == cluster.epochs()[1] > leap.epoch + 1
    assert cluster.double_votes() == []
    cluster.restart(3)
    assert cluster.epochs()[3] == cluster.epochs()[1]


def test_a_laggard_within_what_is_kept_gets_decisions() -> None:
    cluster = behind(epochs=2)
    cluster.state(2)
    cluster.run()
    agree(cluster)
    assert any(i != 3 and isinstance(m, Certificates) for i, m in cluster.sent)
    assert not any(isinstance(m, StateChunk) for _, m in cluster.sent)


def test_views_begin_anew_after_a_transfer() -> None:
    """The others have changed views meanwhile: whoever comes late must get there too (Concord issue 1177)."""
    cluster = behind()
    cluster.dead = {0}  # the leader of epoch 8 in view 0
    cluster.state(8, by=[1, 2])
    cluster.run(20_000)
    assert cluster.epochs()[1:] == [9, 9, 9]


class Garbler(Replica):
    """Serves states with a flipped bit."""

    def _on_state_pull(self, source: int, m: StatePull) -> None:
        super()._on_state_pull(source, m)
        for effect in self._out.drain():
            assert isinstance(effect, Send)
            message = ENVELOPE.decode(effect.body)
            if isinstance(message, StateChunk):
                first = message.items[0]
                items = (first[:-1] + bytes((first[-1] ^ 1,)), *message.items[1:])
                message = msgspec.structs.replace(message, items=items)
            self._out.send(source, message)


class Mute(Replica):
    """Offers states and sends none."""

    def _on_state_pull(self, source: int, m: StatePull) -> None:
        if m.epoch < 0:
            super()._on_state_pull(source, m)


class Boaster(Replica):
    """Offers states that nobody certified."""

    def _offer_state(self, source: int) -> None:
        assert self._last is not None
        votes = msgspec.structs.replace(self._last.votes, epoch=99, posterior_root=bytes(32))
        self._out.send(source, StateOffer(msgspec.structs.replace(self._last, votes=votes), 7))

    _offer_newest = _offer_state


@pytest.mark.parametrize(
    ("kind", "blamed"),
    [
        (Garbler, "a chunk of state that does not hold, from monitor {}"),
        (Mute, ""),
        (Boaster, "an offer of a state that is not certified, from monitor {}"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_server_that_is_of_no_use_is_named_and_another_is_asked(
    kind: type[Replica], blamed: str, number: int
) -> None:
    cluster = behind(**{f"m{number}": kind})
    cluster.drop = lambda source, target, _: 3 in (source, target) and number not in (source, target)
    cluster.restart(3)  # it asks everybody; only the liar is heard
    cluster.run(100)
    cluster.drop = lambda *_: False
    cluster.state(8)
    cluster.run(60_000)
    agree(cluster)
    reasons = {reason for reason in cluster.refusals(3) if "state" in reason}
    assert reasons == ({blamed.format(number)} if blamed else set())
    assert any(isinstance(m, StateChunk) for i, m in cluster.sent if i != number)


def test_two_liars_and_one_honest_server_of_seven() -> None:
    cluster = Cluster(7, config=SHORT)
    for number, kind in ((0, Garbler), (1, Boaster)):
        cluster.kinds[number] = kind
        cluster.restart(number)
    cluster.drop = lambda source, target, _: 6 in (source, target)
    for window in range(6):
        cluster.state(window, by=range(6))
        cluster.run(2_000)
    cluster.drop = lambda source, target, _: 6 in (source, target) and not {source, target} & {0, 1, 2}
    cluster.state(6)
    cluster.run(60_000)
    assert cluster.epochs()[6] >= 6
    assert root_of(cluster.replicas[6]) in {root_of(replica) for replica in cluster.replicas[:6]}


def test_lost_answers_are_asked_for_again() -> None:
    lost: list[type[Any]] = []
    rng = Random(5)

    def drop(_source: int, _target: int, message: Any) -> bool:
        if isinstance(message, StateOffer | StateChunk | StatePull) and rng.random() < 0.6:
            lost.append(type(message))
            return True
        return False

    for _ in range(5):
        cluster = behind()
        cluster.drop = drop
        cluster.state(8)
        cluster.run(60_000)
        agree(cluster)
    assert set(lost) == {StateOffer, StateChunk, StatePull}


# --- a journal that was lost


def without_journal(cluster: Cluster, number: int, *, admits: bool) -> None:
    cluster.disks[number].clear()
    config, cluster.config = cluster.config, msgspec.structs.replace(cluster.config, rejoin=admits)
    cluster.restart(number)
    cluster.config = config


def test_a_monitor_without_its_journal_is_silent_until_it_is_safe_and_then_takes_part() -> None:
    cluster = Cluster(config=SHORT)
    for window in range(6):
        cluster.state(window)
        cluster.run(300)
    without_journal(cluster, 3, admits=True)
    began = len(cluster.sent)
    cluster.state(6, by=[3])  # held back: its chain is longer than it knows
    cluster.run(2_000)
    assert cluster.replicas[3].epoch == 6
    assert cluster.replicas[3].silent
    for window in range(6, 12):
        cluster.state(window, by=[0, 1, 2])
        cluster.run(2_000)
    signed = [m for i, m in cluster.sent[began:] if i == 3 and isinstance(m, Vote | Timeout)]
    assert signed
    assert min(m.epoch for m in signed) == 8  # six were decided, so it may have signed in epochs up to 7
    assert not cluster.replicas[3].silent
    agree(cluster)
    assert cluster.replicas[0].settled
    assert cluster.replicas[0].evidence_log.tip(3).seq == 6  # what was held back follows what it had stated
    assert not any(replica.evidence_log.forks for replica in cluster.replicas)
    assert cluster.double_votes() == []


def test_silence_outlasts_a_restart() -> None:
    cluster = Cluster(config=SHORT)
    for window in range(6):
        cluster.state(window)
        cluster.run(300)
    without_journal(cluster, 3, admits=True)
    cluster.run(2_000)
    cluster.restart(3)
    assert cluster.replicas[3].silent
    assert cluster.replicas[3]._silent_below == 8


def test_silence_outlasts_a_crash_before_the_others_answered() -> None:
    cluster = Cluster(config=SHORT)
    cluster.state()
    evidence = next(record for kind, record in cluster.disks[0] if kind == journal.EVIDENCE)
    config = msgspec.structs.replace(SHORT, rejoin=True)
    replica = Replica(ROSTER, 3, SIGNERS[3], FleetPosterior(ROSTER), config)
    message = Received(0, ENVELOPE.encode(EvidenceMessage((evidence,))))
    effects = [*replica.step(0, Start()), *replica.step(0, message)]
    records = [(effect.kind, effect.record) for effect in effects if isinstance(effect, Persist)]
    assert [kind for kind, _ in records] == [journal.SNAPSHOT, journal.EVIDENCE]
    asked = next(i for i, effect in enumerate(effects) if isinstance(effect, Send) and b"STATE" in effect.body)
    assert any(isinstance(effect, Persist) for effect in effects[:asked])
    for admits in (True, False):
        again = Replica(ROSTER, 3, SIGNERS[3], FleetPosterior(ROSTER), config if admits else SHORT)
        again.recover(records)
        assert again.silent


@pytest.mark.parametrize("admits", [True, False])
def test_one_that_does_not_admit_it_would_vote_twice(admits: bool) -> None:
    """Why silence is needed: monitor 1 voted, lost its journal, and a leader with a twin proposes something else."""
    cluster = Cluster()
    cluster.drop = lambda _source, target, m: (
        not isinstance(m, EvidenceMessage | StateOffer | StatePull) and target != 1
    )
    cluster.state()
    cluster.run(cluster.config.proposal_delay_ns // 1_000_000 + 2)
    twin = Replica(ROSTER, 0, SIGNERS[0], FleetPosterior(ROSTER), ConsensusConfig())
    raw = next(m.batches[0] for i, m in cluster.sent if i == 0 and isinstance(m, EvidenceMessage))
    twin.recover([(journal.EVIDENCE, raw)])
    twin.step(0, Start())
    other = next(e.body for e in twin.step(0, Fired("propose 0")) if b"PROPOSE" in getattr(e, "body", b"")[:12])
    without_journal(cluster, 1, admits=admits)
    cluster.run(20)
    cluster.give(1, Received(0, ENVELOPE.encode(EvidenceMessage((raw,)))))
    cluster.give(1, Received(0, other))
    assert bool(cluster.double_votes()) == (not admits)


def test_who_has_a_journal_is_not_lost() -> None:
    cluster = Cluster(config=SHORT)
    cluster.state()
    cluster.run()
    config = msgspec.structs.replace(SHORT, rejoin=True)
    replica = Replica(ROSTER, 3, SIGNERS[3], FleetPosterior(ROSTER), config)
    assert replica.silent
    replica.recover(cluster.disks[3])
    assert not replica.silent


def test_where_no_fault_is_tolerated_a_lost_journal_is_not() -> None:
    with pytest.raises(ConfigError, match="without its journal"):
        Cluster(3, config=ConsensusConfig(rejoin=True))


# --- chunks and servers, by themselves


def state_of(leaves: int) -> Folded:
    items = [b"leaf %d" % i for i in range(leaves - 1)]
    names = [str(i) for i in range(leaves - 1)]
    tree = MerkleTree(map(leaf_hash, (b"head", *items)))
    return Folded(b"head", Leaves(names, lambda name: items[int(name)]), tree, leaf_hash(b"entries"))


def certified(folded: Folded, epoch: int = 5) -> Certified:
    root = node_hash(folded.entries_root, folded.tree.root)
    return Certified(Votes(epoch, 0, "C", bytes(32), bytes(32), root, ()), ())


N = 300  # monitors: eight leaves a chunk


@given(leaves=st.integers(1, 70), rng=st.randoms(use_true_random=False))
def test_chunks_in_any_order_give_the_leaves_and_altered_ones_do_not_hold(leaves: int, rng: Any) -> None:
    assert leaves_per_chunk(N) == 8
    folded = state_of(leaves)
    chunks = [chunk_of(N, 5, folded, i) for i in range(-(-leaves // 8))]
    assert chunk_of(N, 5, folded, len(chunks)) is None
    transfer = Transfer(N, 1, certified(folded), leaves)
    left = [chunk for chunk in chunks if chunk is not None]
    while left:
        assert 1 <= len(transfer.wanted()) <= 4
        good = left.pop(rng.randrange(len(left)))
        items, proof = good.items, good.proof
        assert sum(map(len, items)) < MAX_CHUNK_BYTES
        flipped = bytes((proof[0][0] ^ 1,)) + proof[0][1:]
        lies = [
            msgspec.structs.replace(good, items=items[:-1]),
            msgspec.structs.replace(good, items=(*items, b"more")),
            msgspec.structs.replace(good, items=(*items[:-1], items[-1] + b"x")),
            msgspec.structs.replace(good, proof=proof[:-1]),
            msgspec.structs.replace(good, proof=(flipped, *proof[1:])),
            msgspec.structs.replace(good, proof=(*proof, bytes(32))),
        ]
        for lie in lies:
            assert not transfer.take(lie)
        assert transfer.take(good)
        assert transfer.take(good)  # again: of no use, no harm
    assert transfer.wanted() == []
    assert transfer.items() == folded.items(0, leaves)


@given(leaves=st.integers(1, 70), claimed=st.integers(1, 70))
def test_a_wrong_number_of_leaves_is_found_out(leaves: int, claimed: int) -> None:
    folded = state_of(leaves)
    transfer = Transfer(N, 1, certified(folded), claimed)
    held = True
    while held and (wanted := transfer.wanted()):
        chunk = chunk_of(N, 5, folded, wanted[0])
        held = chunk is not None and transfer.take(chunk)
    assert held == (leaves == claimed)


@pytest.mark.parametrize("n", [1, 4, 31, 100, 300, MAX_MONITORS])
def test_the_largest_chunk_fits_a_message(n: int) -> None:
    size = leaves_per_chunk(n)
    leaf = bytes(4 + 256 + 52 * n)  # detection/fold_state.py: a name, and what every monitor said
    chunk = StateChunk(1 << 60, 1 << 60, (leaf,) * size, (bytes(32),) * 40)
    assert len(ENVELOPE.encode(chunk)) <= MAX_MESSAGE_BYTES


def test_states_are_held_for_few_and_chunks_are_rationed() -> None:
    server = StateServer()
    folded = state_of(3)
    for source in range(SERVED_AT_ONCE):
        server.hold(source, certified(folded), folded)
    assert server.state_for(0, 5) is folded  # asked for: kept longest
    server.hold(99, certified(folded), folded)
    assert len(server.held) == SERVED_AT_ONCE
    assert server.state_for(1, 5) is None
    assert server.state_for(0, 4) is None
    sent = [server.may_send(7, 0, 10) for _ in range(2 * CHUNKS_PER_DELAY)]
    assert sent == [True] * CHUNKS_PER_DELAY + [False] * CHUNKS_PER_DELAY
    assert server.may_send(7, 10, 10)
    assert server.may_send(8, 0, 10)


def test_strangers_requests_change_nothing() -> None:
    cluster = behind()
    for message in (StatePull(3, 0), StatePull(7, 1 << 60), StateOffer(None), StateChunk(7, 0, (), ()), Sync(99)):
        before = len(cluster.sent)
        cluster.give(0, Received(3, ENVELOPE.encode(message)))
        assert not any(isinstance(m, StateChunk | Decide) for _, m in cluster.sent[before:])
    cluster.state(8)
    cluster.run()
    agree(cluster)
