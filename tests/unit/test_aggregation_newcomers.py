"""Cold start: a newcomer is judged by its peers until it is known, and liars among them do not decide."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.aggregation.derive import KNOWN_SAMPLES, as_votes
from tocsin.aggregation.hierarchy import EXPECTED_AT_ONCE, Hierarchy
from tocsin.aggregation.newcomers import Newcomers
from tocsin.errors import InputError, UnknownAgent
from tocsin.model.baseline import Level
from tocsin.model.events import EventBatch
from tocsin.stats.moments import Grid, Moments
from tocsin.stats.robust import CONSISTENT, median_and_mad, votes
from tocsin.stats.shrinkage import Peers, expected, spread_of_true_means


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
    for one in got.expected:
        assert one is not None
        assert one.own_share == pytest.approx(2 / (2 + k), abs=0.12)
        assert one.own_share == pytest.approx(2 / (2 + one.prior_samples))
        assert one.mean == pytest.approx(want, abs=1.5)
        assert one.std == pytest.approx(np.sqrt(25 + 4 * k / (2 + k)), rel=0.15)
    for one, mean in zip(hierarchy.expect("a7").expected, true[7], strict=True):
        assert one is not None
        assert one.mean == pytest.approx(mean, abs=1.2)
        assert one.own_share > 0.9


@pytest.mark.parametrize("lie", [1e6, -1e6, 1e300])
def test_liars_below_half_of_the_peers_stay_without_say(lie: float) -> None:
    hierarchy, _ = fleet(25, liars=20, lie=lie)
    got = hierarchy.expect("new").expected
    assert all(one is not None and 95 < one.mean < 113 and one.std < 20 for one in got)


def test_liars_that_are_the_majority_decide() -> None:
    hierarchy, _ = fleet(12, liars=20)
    got = hierarchy.expect("new").expected
    assert all(one is not None and one.std < 1 for one in got)  # they all say the same, so nobody may differ any more


def test_with_too_few_peers_the_next_larger_scope_is_asked() -> None:
    rng = np.random.default_rng(6)
    hierarchy = Hierarchy()
    for k in range(400):  # one of twelve is known
        hierarchy.observe(events([f"a{k}"], 100 + rng.standard_normal((1, 3 if k % 12 else 20, 1))))
    region = hierarchy.region_of("a5")
    assert sum(int(name[1:]) % 12 == 0 for name in hierarchy.tree.agents_below(region)) < 8
    got = hierarchy.expect("a5")
    assert (got.scope, got.peers) == (hierarchy.tree.ancestor("a5", Level.ZONE), 34)


def naive(grid: Grid, own: np.ndarray, others: np.ndarray) -> list[tuple[float, float]]:
    """(mean, own share) from the other agents' moment vectors alone: what leaving a vote out must come to."""
    d = len(grid)
    steps = Moments(Grid(grid.features, (0,) * d, (0,) * d), others)
    known = steps.count >= KNOWN_SAMPLES
    location, mad = median_and_mad(votes(as_votes(steps.mean, known)))
    within, _ = median_and_mad(votes(as_votes(np.sqrt(steps.variance), known)))
    samples = np.array([np.median(steps.count[known[:, a], a]) for a in range(d)])
    between = np.array(
        [spread_of_true_means(CONSISTENT * mad[a : a + 1], within[a : a + 1], samples[a])[0] for a in range(d)]
    )
    scale = np.ldexp(1.0, np.array(grid.exponent))
    peers = Peers((location + np.array(grid.origin)) * scale, between * scale, within * scale)
    mine = Moments(grid, own[None])
    found = expected(mine.count[0].astype(float), mine.mean[0], peers)
    return list(zip(found.mean.tolist(), found.own_share.tolist(), strict=True))


@pytest.mark.parametrize("agent", ["new", "a3", "a11"])
def test_no_agent_is_its_own_peer(agent: str) -> None:
    hierarchy, _ = fleet(20)
    others = [name for name in hierarchy.leaves.row_of if name != agent]
    (own,) = hierarchy.leaves.moments([agent])
    want = naive(hierarchy.leaves.grid, own, hierarchy.leaves.moments(others))
    for _ in range(2):  # fresh, and from what is kept
        newcomers = Newcomers(hierarchy.tree, hierarchy.leaves)
        newcomers.expect("a0")
        got = newcomers.expect(agent)
    assert got.peers == 20 - (agent != "new")
    for one, (mean, share) in zip(got.expected, want, strict=True):
        assert one is not None
        assert (one.mean, one.own_share) == pytest.approx((mean, share), rel=1e-9)


def test_own_sums_and_what_is_expected_stand_side_by_side_until_an_agent_is_known() -> None:
    hierarchy, _ = fleet(40)
    found = hierarchy.establish(["new", "a0"], Level.AGENT)
    new, known = found.parts
    assert (new.samples, new.expected_from, new.expected_peers) == (2, hierarchy.region_of("new"), 40)
    assert new.confidence == 2 / 64
    for f in new.features:
        assert f.count == 2
        assert f.mean == pytest.approx(112.0, abs=0.1)
        assert f.expected is not None
        assert 100 < f.expected.mean < 106
    assert (known.expected_from, known.expected_peers, known.confidence) == ("", 0, 1.0)
    assert all(f.expected is None for f in known.features)
    assert hierarchy.establish(["new"], Level.AGENT) == new


def test_many_newcomers_at_once_do_not_hold_up_whoever_asks() -> None:
    hierarchy, _ = fleet(20)
    names = [f"n{k}" for k in range(EXPECTED_AT_ONCE + 1)]
    hierarchy.observe(events(names, np.full((len(names), 2, 2), 100.0)))
    assert not any(part.expected_from for part in hierarchy.establish(names, Level.AGENT).parts)
    assert all(part.expected_from for part in hierarchy.establish(names[1:], Level.AGENT).parts)


def test_nobody_known_is_said_and_unknown_agents_are_refused() -> None:
    hierarchy, _ = fleet(7)
    with pytest.raises(InputError, match="fewer than 8"):
        hierarchy.expect("new")
    with pytest.raises(UnknownAgent):
        hierarchy.expect("nobody")
    early = Hierarchy()
    early.observe(events(["a", "b"], np.ones((2, 3, 1))))
    assert [one.samples for one in early.of_each(["a", "b"])] == [0, 0]
    assert early.leaves.epoch == -1  # asking for a picture opens no epoch
    empty = Hierarchy()
    empty.tree.join("only")
    with pytest.raises(InputError):
        empty.expect("only")
