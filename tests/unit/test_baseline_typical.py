"""Beside sums of everybody's samples stands what a typical agent does: one vote each, however busy or untrue it is."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.aggregation.derive import confidence
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.model.baseline import DistributedBaseline, Level, Typical
from tocsin.model.events import EventBatch


def events(agents: dict[str, np.ndarray]) -> EventBatch:
    """One feature, `agents` -> its samples."""
    sizes = [len(samples) for samples in agents.values()]
    rows = sum(sizes)
    return EventBatch(
        offset=0, agents=tuple(agents), agent=np.repeat(np.arange(len(agents), dtype=np.int32), sizes),
        t_ns=np.arange(rows), session=np.zeros(rows, np.int64), phase=np.zeros(rows, np.int8),
        kind=np.zeros(rows, np.int8), actions=("x",), action=np.zeros(rows, np.int32), effect=np.zeros(rows, np.int8),
        feature_names=("f",), values=np.concatenate(list(agents.values()))[:, None],
    )  # fmt: skip


def honest(n: int, samples: int = 100) -> dict[str, np.ndarray]:
    """Means spread by 1 around 50, samples by 2 around those."""
    rng = np.random.default_rng(8)
    return {f"a{k}": rng.normal(50 + rng.standard_normal(), 2, samples) for k in range(n)}


def established(agents: dict[str, np.ndarray], level: Level = Level.GLOBAL) -> DistributedBaseline:
    hierarchy = Hierarchy()
    hierarchy.observe(events(honest(20)))  # the grid is fitted from honest events
    hierarchy.observe(events(agents))
    return hierarchy.establish(list(agents), level)


def typical(found: DistributedBaseline) -> Typical:
    (feature,) = found.features
    assert feature.typical is not None
    return feature.typical


@pytest.mark.parametrize("level", [Level.REGION, Level.ZONE, Level.GLOBAL])
def test_one_busy_agent_is_one_vote_at_every_level(level: Level) -> None:
    calm = established({"a0": np.full(5, 50.0)}, level)
    found = established({"busy": np.full(20_000, 90.0)}, level)
    (feature,) = found.features
    assert feature.p50 > 85  # most samples are one agent's
    assert feature.mean > 80
    assert typical(found).agents == typical(calm).agents + 1 == 21
    assert typical(found).median == pytest.approx(50, abs=1)
    assert typical(found).median == pytest.approx(typical(calm).median, abs=0.5)
    assert typical(found).mad < 2


@pytest.mark.parametrize(("liars", "held"), [(19, True), (21, False)])
@pytest.mark.parametrize("lie", [1e9, -1e9])
def test_it_breaks_at_one_half_and_not_before(liars: int, lie: float, held: bool) -> None:
    found = typical(established({f"liar{k}": np.full(100, lie) for k in range(liars)}))
    assert found.agents == 20 + liars
    assert (47 < found.median < 53) == held
    assert (found.mad < 6) == held


def test_who_is_hardly_known_has_no_vote_and_two_are_not_enough() -> None:
    few = established({f"new{k}": np.full(15, 1e9) for k in range(200)})
    assert typical(few).agents == 20
    assert typical(few).median == pytest.approx(50, abs=1)
    alone = Hierarchy()
    alone.observe(events(honest(2)))
    assert alone.establish([], Level.GLOBAL).features[0].typical is None


def test_confidence_counts_agents_not_samples() -> None:
    one_busy = {"busy": np.full(100_000, 50.0)} | {f"new{k}": np.full(1, 50.0) for k in range(9)}
    hierarchy = Hierarchy()
    hierarchy.observe(events(one_busy))
    for level in (Level.REGION, Level.GLOBAL):
        assert hierarchy.establish(list(one_busy), level).confidence == pytest.approx((1 + 9 / 64) / 10)
    assert hierarchy.establish(list(one_busy), Level.AGENT).confidence == pytest.approx((1 + 9 / 64) / 10)
    assert confidence(np.zeros(0, np.int64)) == 0.0
