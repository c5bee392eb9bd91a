"""A fold that was taken out and put back elsewhere goes on like the one it came from, and is under the agreed root."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.fold_state import head_bytes
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import WireError
from tocsin.model.evidence import BEHAVIOUR, CLIP_Q32, COORDINATION, Evidence, EvidenceBatch
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.merkle import MerkleTree, leaf_hash, verify_proof

ROSTER = roster_of("fold", deterministic_signers(b"fold", 4))
NAMES = [f"agent {i}" for i in range(9)] + ["ünïcode", "x" * 256]


def batches(rng: Random, count: int, seq: int) -> list[EvidenceBatch]:
    """Statements of one fold by some monitors, numbered from `seq`."""
    out: list[EvidenceBatch] = []
    for m in sorted(rng.sample(range(4), rng.randint(1, 4))):
        items = tuple(
            Evidence(
                monitor=m,
                agent_id=rng.choice(NAMES),
                first_seq=seq + i,
                last_seq=seq + i,
                log_e_q32=rng.choice((CLIP_Q32, -CLIP_Q32, rng.randrange(CLIP_Q32))),
                log_bf_q32=rng.randrange(-CLIP_Q32, CLIP_Q32),
                kind=rng.choice((BEHAVIOUR, BEHAVIOUR, COORDINATION)),
            )
            for i in range(rng.randint(0, count))
        )
        common = {"net": "fold", "config_hash": b"", "prev_hash": b"", "through_offset": 0}
        out.append(EvidenceBatch(**common, monitor=m, seq=seq, items=items, fleet_size=rng.randrange(20)))
    return out


def fold(posterior: FleetPosterior, said: list[EvidenceBatch]) -> None:
    posterior.commit(posterior.preview(said).handle)


@given(seed=st.integers(0, 1 << 32), folds=st.integers(0, 6))
def test_what_is_restored_is_what_was_there(seed: int, folds: int) -> None:
    rng = Random(seed)
    original = FleetPosterior(ROSTER)
    for i in range(folds):
        fold(original, batches(rng, 6, 10 * i))
    folded = original.folded()
    items = folded.items(0, folded.size)
    for i, item in enumerate(items):
        assert verify_proof(original.root, item, (1 << len(folded.proof(i)) - 1) + i, folded.proof(i))
    copy = FleetPosterior(ROSTER)
    result = copy.restore(items)
    assert copy.root == original.root
    assert copy.entries == original.entries
    assert {entry.agent_id for entry in result.changed} == {e.agent_id for e in original.entries.values() if e.flagged}
    for m in range(4):
        assert list(copy.spoken(m)) == list(original.spoken(m))
    more = batches(rng, 6, 1000)
    assert copy.preview(more).root == original.preview(more).root
    fold(original, more)
    assert items == folded.items(0, folded.size)  # what was taken out stays as it was


def test_bytes_that_are_no_state_are_refused_and_change_nothing() -> None:
    rng = Random(1)
    original = FleetPosterior(ROSTER)
    for i in range(4):
        fold(original, batches(rng, 9, 10 * i))
    items = original.folded().items(0, 99)
    other = FleetPosterior(ROSTER)
    fold(other, batches(rng, 3, 0))
    before = other.root
    bad = [
        [],
        [items[0][:-1]],
        [head_bytes((0,) * 5)],
        [*items, items[-1]],
        [*items[:-1], items[-1][:-1]],
        [*items[:-1], items[-1][:3]],
        [*items[:-1], b"\x00\x00\x00\x01\xff"],
        [*items[:-1], items[-1] + items[-1][-52:]],
        [*items[:-1], b"\x00\x00\x00\x01a"],
    ]
    for one in bad:
        with pytest.raises(WireError):
            other.restore(one)
    assert other.root == before


@given(st.lists(st.integers(0, 20), max_size=8))
def test_a_tree_that_grew_is_the_tree_made_at_once(steps: list[int]) -> None:
    grown, leaves = MerkleTree(()), list[bytes]()
    for step, more in enumerate(steps):
        new = {len(leaves) + i: leaf_hash(b"%d %d" % (step, i)) for i in range(more)}
        if leaves:
            new[step % len(leaves)] = leaf_hash(b"changed %d" % step)
        leaves.extend([b""] * more)
        for i, leaf in new.items():
            leaves[i] = leaf
        grown = grown.replaced(new)
        whole = MerkleTree(leaves)
        assert grown.root == whole.root
        assert [grown.proof(i) for i in range(len(leaves))] == [whole.proof(i) for i in range(len(leaves))]
    with pytest.raises(IndexError):
        grown.replaced({len(leaves) + 1: leaf_hash(b"")})
