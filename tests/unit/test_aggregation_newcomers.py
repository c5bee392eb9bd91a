"""Cold start: a newcomer is judged by its peers until it is known, and liars among them do not decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.newcomers import expect
from tocsin.errors import InputError, UnknownAgent
from tocsin.model.events import EventBatch


def events(agents: list[str], values: np.ndarray) -> EventBatch:
    """`values` (agents, samples, d)."""
    n, samples, d = values.shape
    rows = n * samples
    return EventBatch(
        offset=0, agents=tuple(agents), agent=np.repeat(np.arange(n, dtype=np.int32), samples), t_ns=np.arange(rows),
        session=np.zeros(rows, np.int64), phase=np.zeros(rows, np.int8), kind=np.zeros(rows, np.int8), actions=("x",),
        action=np.zeros(rows, np.int32), effect=np.zeros(rows, np.int8),
        feature_names=tuple(f"f{k}" for k in range(d)), values=values.reshape(rows, d),
    )  # fmt: skip


def fleet(peers: int, liars: int = 0, lie: float = 1e6) -> tuple[Hierarchy, np.ndarray]:
    """Peers' means spread by 2 around 100, samples by 5 around those; one newcomer with two samples."""
    rng = np.random.default_rng(4)
    true = 100 + 2 * rng.standard_normal((peers, 1, 2))
    hierarchy = Hierarchy()
    hierarchy.observe(events([f"a{k}" for k in range(peers)], true + 5 * rng.standard_normal((peers, 200, 2))))
    if liars:
        hierarchy.observe(events([f"liar{k}" for k in range(liars)], np.full((liars, 200, 2), lie)))
    hierarchy.observe(events(["new"], np.full((1, 2, 2), 112.0)))
    return hierarchy, true.reshape(peers, 2)


def test_a_newcomer_is_expected_where_its_peers_are() -> None:
    hierarchy, true = fleet(40)
    got = hierarchy.expect("new")
    k = 25 / 4  # within over between, squared
    want = 100 + 12 * 2 / (2 + k)
    assert got.scope == hierarchy.region_of("new")
    assert got.features == ("f0", "f1")
    assert got.own_share == pytest.approx((2 / (2 + k),) * 2, abs=0.12)
    assert got.mean == pytest.approx((want,) * 2, abs=1.5)
    assert got.std == pytest.approx((np.sqrt(25 + 4 * k / (2 + k)),) * 2, rel=0.15)
    known = hierarchy.expect("a7")
    assert known.mean == pytest.approx(tuple(true[7]), abs=1.2)
    assert min(known.own_share) > 0.9


@pytest.mark.parametrize("lie", [1e6, -1e6, 1e300])
def test_liars_below_half_of_the_peers_stay_without_say(lie: float) -> None:
    hierarchy, _ = fleet(25, liars=20, lie=lie)
    got = hierarchy.expect("new")
    assert all(95 < m < 113 for m in got.mean)
    assert all(s < 20 for s in got.std)


def test_liars_that_are_the_majority_decide() -> None:
    hierarchy, _ = fleet(12, liars=20)
    assert max(hierarchy.expect("new").std) < 1  # they all say the same, so nobody may differ any more


def test_with_too_few_peers_the_next_larger_scope_is_asked() -> None:
    hierarchy, _ = fleet(40)
    leaves = hierarchy.leaves
    own, few, many = (leaves.moments(names) for names in (["new"], [f"a{k}" for k in range(7)], list(leaves.row_of)))
    got = expect(leaves.grid, own[0], [("r1", few), ("z1", many)])
    assert (got.scope, got.peers) == ("z1", 40)
    assert got == replace(hierarchy.expect("new"), scope="z1")


def test_nobody_known_is_said_and_unknown_agents_are_refused() -> None:
    hierarchy, _ = fleet(7)
    with pytest.raises(InputError, match="fewer than 8"):
        hierarchy.expect("new")
    with pytest.raises(UnknownAgent):
        hierarchy.expect("nobody")
    empty = Hierarchy()
    empty.tree.join("only")
    with pytest.raises(InputError):
        empty.expect("only")
