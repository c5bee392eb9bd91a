"""What is kept of the past is bounded, and a crash at any moment finds all that matters: old prefix or snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from replicas import Cluster

from tocsin.consensus import journal
from tocsin.consensus.evidence_log import Outcome
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.messages import ENVELOPE, Decide, EvidenceMessage, Prepared, Propose, Timeout, Vote
from tocsin.consensus.pruning import CHECKPOINT_TIMER, decode_snapshot, encode_snapshot
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import StorageCorrupt
from tocsin.model.steps import Fired, Persist, Received
from tocsin.runtime.journal import Journal
from tocsin.runtime.sqlite import transaction

PRUNED = ConsensusConfig(keep_epochs=2, checkpoint_bytes=4096)
EAGER = ConsensusConfig(keep_epochs=1, checkpoint_bytes=1)


def size_of(disk: list[tuple[str, bytes]]) -> int:
    return sum(len(record) for _, record in disk)


def root_of(replica: Replica) -> bytes:
    fold = replica._fold
    assert isinstance(fold, FleetPosterior)
    return fold.root


def standing(replica: Replica) -> Any:
    """What must be the same after a restart."""
    spoken = {(agent, kind): last for agent, kind, last in replica.spoken()}
    return root_of(replica), replica.epoch, replica.through_offset, replica.evidence_log.tip(replica.me), spoken


def test_journal_and_memory_do_not_grow_with_history() -> None:
    cluster = Cluster(config=PRUNED)
    sizes: list[int] = []
    for window in range(120):
        cluster.state(window)
        cluster.run(300)
        sizes.append(max(map(size_of, cluster.disks)))
        for replica in cluster.replicas:
            held = [len(list(replica.evidence_log.batches(m))) for m in range(4)]
            assert max(held) <= PRUNED.keep_epochs
            assert len(replica.evidence_log._links) == sum(held)
    assert cluster.epochs() == [120] * 4
    unpruned = Cluster()
    for window in range(12):
        unpruned.state(window)
        unpruned.run(300)
    assert max(sizes) < size_of(unpruned.disks[0])  # of a tenth of the history
    assert max(sizes[60:]) <= max(sizes[:60])
    assert max(len(disk) for disk in cluster.disks) < 60  # so is what a restart replays


def test_a_restart_from_a_snapshot_stands_where_it_stood() -> None:
    cluster = Cluster(config=PRUNED)
    for window in range(40):
        cluster.state(window)
        cluster.run(300)
    assert all(any(kind == journal.SNAPSHOT for kind, _ in disk) for disk in cluster.disks)
    before = [standing(replica) for replica in cluster.replicas]
    for i in range(4):
        cluster.restart(i)
    assert [standing(replica) for replica in cluster.replicas] == before
    cluster.state(40)
    cluster.run()
    assert cluster.epochs() == [41] * 4
    assert len({root_of(replica) for replica in cluster.replicas}) == 1
    assert {d.epoch for d in cluster.decisions(3) if d.changed} == {0}


def crash_everywhere(snapshots: bool) -> int:
    """Let monitor 1 crash before each of its effects in turn; how many there were."""
    for effects in range(10_000):
        cluster = Cluster(config=ConsensusConfig(keep_epochs=1 if snapshots else 8))
        cluster.fuse[1] = effects
        for window in range(2):
            cluster.state(window)
            for _ in range(8):
                cluster.run(5)
                if snapshots:
                    cluster.give(1, Fired(CHECKPOINT_TIMER))
        if cluster.fuse:  # it has no more effects than that
            return effects
        cluster.run(3_000)
        cluster.state(3)
        cluster.run(5_000)
        assert len(set(cluster.epochs())) == 1, effects
        assert len({root_of(replica) for replica in cluster.replicas}) == 1, effects
        assert cluster.double_votes() == [], effects
        announced = {d.epoch for d in cluster.decisions(1)}
        assert announced == set(range(cluster.epochs()[1])), effects
        assert all(replica.settled and not replica.evidence_log.forks for replica in cluster.replicas), effects
    raise AssertionError("it never ends")


@pytest.mark.parametrize("snapshots", [True, False])
def test_a_crash_before_any_effect_loses_nothing(snapshots: bool) -> None:
    assert crash_everywhere(snapshots) > 25


def test_promises_are_their_records() -> None:
    cluster = Cluster()
    cluster.drop = lambda _, target, message: isinstance(message, Vote) and message.phase == "C"
    cluster.state()
    cluster.run(5_000)
    for replica in cluster.replicas:
        held = replica._promises
        assert held.high is not None
        assert held.timeout is not None
        again = journal.Promises()
        for kind, record in held.records():
            again.replay(kind, record)
        again.view = held.view  # what opened a view need not be remembered, only what was signed in it
        assert again == held


def test_promises_survive_a_snapshot() -> None:
    cluster = Cluster()
    cluster.drop = lambda _source, _target, message: isinstance(message, Prepared | Timeout)
    cluster.state()
    cluster.run(cluster.config.proposal_delay_ns // 1_000_000 + 20)
    proposal = next(m for _, m in cluster.sent if isinstance(m, Propose))
    cluster.give(1, Fired(CHECKPOINT_TIMER))
    assert [kind for kind, _ in cluster.disks[1]] == [journal.SNAPSHOT]
    cluster.restart(1)
    cluster.give(1, Received(0, ENVELOPE.encode(proposal)))
    assert sum(i == 1 and isinstance(m, Vote) for i, m in cluster.sent) == 1


def test_a_decision_that_was_not_announced_before_a_snapshot_is_announced_after_it() -> None:
    """A host makes a round's records durable, then acts on its effects; here it crashes in between."""
    cluster = Cluster()
    cluster.drop = lambda _, target, message: target == 1 and isinstance(message, Decide)
    cluster.state()
    cluster.run(100)
    decide = next(m for _, m in cluster.sent if isinstance(m, Decide))
    replica = cluster.replicas[1]
    effects = replica.step(cluster.now, Received(0, ENVELOPE.encode(decide)))
    effects += replica.step(cluster.now, Fired(CHECKPOINT_TIMER))
    records = [(one.kind, one.record) for one in effects if isinstance(one, Persist)]
    assert [kind for kind, _ in records][-1] == journal.SNAPSHOT
    cluster.disks[1] = records[-1:]
    cluster.restart(1)
    assert [d.epoch for d in cluster.decisions(1)] == [0]
    assert cluster.decisions(1)[0] == cluster.decisions(2)[0]


def test_a_snapshot_that_does_not_hold_is_refused() -> None:
    cluster = Cluster(config=EAGER)
    for window in range(4):
        cluster.state(window)
        cluster.run(300)
    kind, record = cluster.disks[2][0]
    assert kind == journal.SNAPSHOT
    good = decode_snapshot(record)
    assert good.certified is not None
    replace = msgspec.structs.replace
    votes = replace(good.certified.votes, signatures=good.certified.votes.signatures[:2])
    bad: list[bytes] = [
        record[:-1],
        b"",
        encode_snapshot(replace(good, state=good.state[:-1])),
        encode_snapshot(replace(good, state=(*good.state, b"junk"))),
        encode_snapshot(replace(good, certified=replace(good.certified, votes=votes))),
        encode_snapshot(replace(good, records=((journal.EVIDENCE, b"junk"),))),
    ]
    for one in bad:
        cluster.disks[2] = [(kind, one)]
        with pytest.raises(StorageCorrupt):
            cluster.boot(2)
    cluster.disks[2] = [(kind, record)]
    assert cluster.boot(2).epoch == good.certified.votes.epoch + 1


def test_evidence_that_was_forgotten_is_refused_and_not_asked_for() -> None:
    cluster = Cluster(config=EAGER)
    for window in range(5):
        cluster.state(window)
        cluster.run(300)
    old = next(m for i, m in cluster.sent if i == 1 and isinstance(m, EvidenceMessage))
    sent = len(cluster.sent)
    cluster.give(0, Received(1, ENVELOPE.encode(old)))
    assert cluster.replicas[0].refused[Outcome.REPLAYED] == 1
    cluster.run()
    assert len(cluster.sent) == sent


# --- on disk


def snapshot(body: bytes) -> Persist:
    return Persist(journal.SNAPSHOT, body)


def test_a_snapshot_replaces_what_its_monitor_wrote_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    one = Journal(path)
    one.append([(0, Persist("voted", b"a")), (1, Persist("voted", b"x"))])
    one.append([(0, snapshot(b"s")), (0, Persist("voted", b"b"))])
    assert list(one.records(0)) == [(journal.SNAPSHOT, b"s"), ("voted", b"b")]
    one.append([(0, Persist("voted", b"c")), (0, snapshot(b"t")), (0, snapshot(b"u"))])
    one.close()
    again = Journal(path)
    assert list(again.records(0)) == [(journal.SNAPSHOT, b"u")]
    assert list(again.records(1)) == [("voted", b"x")]
    again.append([(0, Persist("voted", b"d"))])
    assert list(again.records(0)) == [(journal.SNAPSHOT, b"u"), ("voted", b"d")]
    with transaction(again._db, path) as db:  # a snapshot that is gone is noticed
        db.execute("DELETE FROM journal WHERE kind = 'snapshot'")
    with pytest.raises(StorageCorrupt):
        list(again.records(0))


def test_a_crash_while_a_snapshot_is_written_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    one = Journal(path)
    old = [("voted", bytes([i]) * 5000) for i in range(50)]
    one.append([(0, Persist(kind, record)) for kind, record in old])
    seen: list[Any] = []

    def crashed(*_: object) -> int:
        """What somebody finds who starts from the files as they are now."""
        copy = tmp_path / f"copy {len(seen)}"
        copy.mkdir()
        for file in tmp_path.glob("journal.db*"):
            if not file.name.endswith("-shm"):  # memory, not disk
                shutil.copy(file, copy / file.name)
        found = Journal(copy / "journal.db")
        seen.append(list(found.records(0)))
        found.close()
        return 0

    one._db.set_progress_handler(crashed, 40)
    one.append([(0, snapshot(b"s" * 100_000))])
    one._db.set_progress_handler(None, 0)
    crashed()
    assert len(seen) > 5
    assert seen[-1] == [(journal.SNAPSHOT, b"s" * 100_000)]
    assert all(records == old for records in seen[:-1])


def test_the_file_does_not_grow_with_the_number_of_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    one = Journal(path)
    sizes: list[int] = []
    for _ in range(60):
        one.append([(0, Persist("voted", b"v" * 1000)) for _ in range(50)] + [(0, snapshot(b"s" * 50_000))])
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob("journal.db*")))
    assert max(sizes[30:]) <= max(sizes[:30])
