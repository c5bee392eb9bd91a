"""What does not belong into a sum: refused, counted, named in the metrics, and the sums stay those of what does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.aggregator import Aggregator
from tocsin.aggregation.fleet_view import statement
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.messages import Arrived, Downward, FromAbove
from tocsin.aggregation.tree import REGION
from tocsin.dashboard.metrics import ALARMS, COUNTERS, GAUGES, metrics_text
from tocsin.errors import InputError
from tocsin.model.baseline import Level
from tocsin.model.events import EventBatch
from tocsin.stats.moments import MAX_ROWS_PER_AGENT, Grid
from tocsin.wire import update as wire

SECOND = 1_000_000_000
NAMES = ("f0", "f1")


def batch(n: int = 600, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        offset=0, agents=tuple(f"a{k}" for k in range(30)), agent=(np.arange(n) % 30).astype(np.int32),
        t_ns=np.arange(n), session=np.zeros(n, np.int64), phase=np.zeros(n, np.int8), kind=np.zeros(n, np.int8),
        actions=("read",), action=np.zeros(n, np.int32), effect=np.zeros(n, np.int8), feature_names=NAMES,
        values=rng.normal(3, 2, (n, 2)),
    )  # fmt: skip


@pytest.fixture
def hierarchy() -> Hierarchy:
    one = Hierarchy(flush_ns=0)
    one.observe(batch())
    one.pump(SECOND)
    one.pump(2 * SECOND)
    assert not one.state()["refused"]
    return one


def spoilt(values: np.ndarray, where: float, what: float) -> EventBatch:
    values = values.copy()
    values[np.random.default_rng(1).random(values.shape) < where] = what
    return replace(batch(), values=values)


def test_infinities_are_no_measurements(hierarchy: Hierarchy) -> None:
    before = hierarchy.establish([], Level.GLOBAL)
    more = batch(seed=1).values
    hierarchy.observe(spoilt(more, 0.1, np.inf))
    hierarchy.observe(spoilt(more, 0.1, -np.inf))
    once = int((np.random.default_rng(1).random(more.shape) < 0.1).sum())
    after = hierarchy.establish([], Level.GLOBAL)
    assert hierarchy.state()["refused"] == {"infinite": 2 * once}
    assert sum(f.count for f in after.features) == sum(f.count for f in before.features) + 2 * (more.size - once)
    assert after.features[0].saturated == before.features[0].saturated
    assert hierarchy.root_equals_leaf_sum()


def test_nan_is_a_missing_value_and_adds_nothing(hierarchy: Hierarchy) -> None:
    before = hierarchy.establish([], Level.GLOBAL)
    hierarchy.observe(replace(batch(), values=np.full((600, 2), np.nan)))
    after = hierarchy.establish([], Level.GLOBAL)
    assert after.features == before.features
    assert after.samples == before.samples + 600
    assert not hierarchy.state()["refused"]


@pytest.mark.parametrize("shape", [(600, 3), (600, 1), (599, 2), (0, 0)])
def test_numbers_of_another_shape_are_not_guessed_at(hierarchy: Hierarchy, shape: tuple[int, int]) -> None:
    before = hierarchy.establish([], Level.GLOBAL)
    hierarchy.observe(replace(batch(), values=np.ones(shape)))
    after = hierarchy.establish([], Level.GLOBAL)
    assert hierarchy.state()["refused"] == {"wrong dimension": 1}
    assert after.features == before.features
    assert after.actions == {"read": 1200}
    assert hierarchy.root_equals_leaf_sum()


def metrics(hierarchy: Hierarchy) -> str:
    status = dict.fromkeys([*COUNTERS, *GAUGES], 0) | {"tree": hierarchy.state(), "received": {}}
    return metrics_text(status, dict.fromkeys(ALARMS)).decode()


def lie(node: Aggregator, **changes: object) -> bytes:
    """What a child of `node` could send next, with some of it changed."""
    (child, slot), *_ = node.slots.items()
    counts = np.zeros_like(slot.total.counts)
    update = wire.Update(
        kind=wire.DELTA, source=child, level=node.level - 1, epoch=node.epoch, seq=slot.seq + 1, as_of_ms=3000,
        agents=slot.agents, d=slot.total.d, counts=counts, actions={},
    )  # fmt: skip
    (packet,) = wire.encode(msgspec.structs.replace(update, **changes))
    return packet


def with_count(node: Aggregator, at: int, value: int) -> np.ndarray:
    counts = np.zeros_like(node.total.counts)
    counts[at] = value
    return counts


def next_seq(node: Aggregator) -> int:
    return next(iter(node.slots.values())).seq + 1


INJECTIONS: dict[str, tuple[str, Callable[[Aggregator], bytes]]] = {
    "a negative count": ("impossible", lambda n: lie(n, counts=with_count(n, 0, -1_000_000))),
    "a negative count of an action": ("impossible", lambda n: lie(n, actions={"read": -1_000_000})),
    "more pairs than events": ("impossible", lambda n: lie(n, counts=with_count(n, 3, 5))),
    "an old epoch": ("old epoch", lambda n: lie(n, epoch=n.epoch - 1)),
    "a newer epoch that was never announced": ("unknown epoch", lambda n: lie(n, epoch=n.epoch + 1)),
    "a replayed delta": ("duplicate", lambda n: lie(n, seq=next_seq(n) - 1)),
    "a delta after a lost one": ("gap", lambda n: lie(n, seq=next_seq(n) + 1)),
    "another dimension": ("wrong dimension", lambda n: lie(n, d=1, counts=np.zeros(5 + 127, np.int64))),
    "a stranger": ("not a child", lambda n: lie(n, source="r999")),
    "another level": ("wrong level", lambda n: lie(n, level=n.level)),
    "another grid of the same epoch": (
        "conflicting grid", lambda n: wire.encode_grid(n.epoch, Grid(NAMES, (1, 1), (0, 0))),
    ),
    "the grid of an old epoch": ("old epoch", lambda n: wire.encode_grid(n.epoch - 1, n.grid)),
    "half a packet": ("malformed", lambda n: lie(n)[:-3]),
    "noise": ("malformed", lambda n: b"\x00" * 40),
}  # fmt: skip


@pytest.mark.parametrize("name", INJECTIONS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_a_child_should_not_send_is_refused_at_every_level(hierarchy: Hierarchy, name: str, level: int) -> None:
    hierarchy.refit()  # so that there is an old epoch
    hierarchy.observe(batch(seed=2))
    hierarchy.pump(3 * SECOND)
    reason, make = INJECTIONS[name]
    node = next(n for n in hierarchy.nodes.values() if n.level == level)
    total = node.total
    node.step(4 * SECOND, Arrived(make(node), next(iter(node.slots))))
    assert node.refused == {reason: 1}
    assert node.total == total
    assert hierarchy.state()["refused"] == {reason: 1}
    assert f'tocsin_tree_refused_total{{reason="{reason}"}} 1.0' in metrics(hierarchy)
    hierarchy.observe(batch(seed=3))
    hierarchy.pump(5 * SECOND)
    assert hierarchy.root_equals_leaf_sum()


@pytest.mark.parametrize("child", ["", "nobody", "a child"])
@pytest.mark.parametrize("level", [2, 3])
def test_a_forged_epoch_moves_no_sum(child: str, level: int) -> None:
    hierarchy = Hierarchy(flush_ns=0)
    agents = tuple(f"a{k}" for k in range(1100))  # two zones of many regions
    hierarchy.observe(replace(batch(1100), agents=agents, agent=np.arange(1100, dtype=np.int32)))
    hierarchy.pump(SECOND)
    node = next(n for n in hierarchy.nodes.values() if n.level == level)
    assert len(node.slots) > 1
    total = node.total
    name = next(iter(node.slots)) if child == "a child" else child
    assert node.step(2 * SECOND, Arrived(wire.encode_grid(1 << 31, node.grid), name)) == []
    assert (node.epoch, node.total) == (0, total)
    assert hierarchy.state()["refused"] == ({} if child == "a child" else {"not a child": 1})
    hierarchy.observe(batch(seed=3))
    hierarchy.pump(3 * SECOND)
    assert hierarchy.root_equals_leaf_sum()
    hierarchy.refit()  # and the way to the next epoch is open
    hierarchy.pump(4 * SECOND)
    assert hierarchy.nodes[hierarchy.tree.root].epoch == 1
    assert hierarchy.root_equals_leaf_sum()


def test_what_is_said_from_above_is_checked_too(hierarchy: Hierarchy) -> None:
    region = next(n for n in hierarchy.nodes.values() if n.level == REGION)
    assert region.step(0, FromAbove(b"TU\x01nonsense")) == []
    assert hierarchy.state()["refused"] == {"malformed": 1}


def test_a_statement_from_the_future_is_refused_counted_and_does_not_stop_the_next(hierarchy: Hierarchy) -> None:
    region = next(n for n in hierarchy.nodes.values() if n.level == REGION)
    packets = statement(region.total, region.grid, level=3, seq=1 << 62, as_of_ms=0, agents=30)
    out = [output for body in packets for output in region.step(2 * SECOND, FromAbove(body))]
    assert [output.body for output in out if isinstance(output, Downward)] == packets[:1]  # the grid it has anyway
    assert hierarchy.state()["refused"] == {"ahead of the clock": 1}
    hierarchy.observe(batch(seed=1))
    hierarchy.pump(3 * SECOND)
    assert hierarchy.fleet_known_to("a0").seq == region.fleet.seq == 3 * SECOND


def test_what_was_refused_stays_counted_when_nodes_fail_and_are_merged_away() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    agents = tuple(f"a{k}" for k in range(120))
    hierarchy.observe(replace(batch(), agents=agents, agent=(np.arange(600) % 120).astype(np.int32)))
    hierarchy.pump(SECOND)
    regions = [n for n in hierarchy.nodes.values() if n.level == REGION]
    assert len(regions) > 2
    for region in regions:
        region.step(0, Arrived(b"nonsense"))
        region.step(0, FromAbove(b"nonsense"))
        hierarchy.leaves.reports.view(region.id).accept(b"nonsense", 0)
    expected = {"malformed": 3 * len(regions)}
    assert hierarchy.state()["refused"] == expected
    hierarchy.fail_over(regions[0].id)
    assert hierarchy.state()["refused"] == expected
    for agent in agents[:100]:
        hierarchy.leave(agent)
    hierarchy.pump(2 * SECOND)
    hierarchy.pump(3 * SECOND)
    assert sum(n.level == REGION for n in hierarchy.nodes.values()) < len(regions)
    assert hierarchy.state()["refused"] == expected


def test_the_metrics_name_every_reason(hierarchy: Hierarchy) -> None:
    region = next(n for n in hierarchy.nodes.values() if n.level == REGION)
    region.step(0, Arrived(b"nonsense"))
    hierarchy.observe(spoilt(batch().values, 1.0, np.inf))
    text = metrics(hierarchy)
    assert 'tocsin_tree_refused_total{reason="malformed"} 1.0' in text
    assert 'tocsin_tree_refused_total{reason="infinite"} 1200.0' in text


def test_events_beyond_what_an_agent_s_sum_can_hold_are_refused_and_the_others_counted(hierarchy: Hierarchy) -> None:
    leaves = hierarchy.leaves
    leaves._moments[leaves.row_of["a3"], 0] = MAX_ROWS_PER_AGENT - 2
    before = leaves.summary(["a4"])
    hierarchy.observe(batch(150, seed=1))  # five of each agent
    assert leaves.refused == {"too many events": 3}
    assert leaves.summary(["a3"]).events == MAX_ROWS_PER_AGENT
    assert leaves.summary(["a4"]).events == before.events + 5
    hierarchy.observe(replace(batch(1), agents=("a3",), agent=np.zeros(1, np.int32)))
    assert leaves.refused == {"too many events": 4}


def test_a_node_that_fails_before_it_has_climbed_or_after_it_is_gone_leaves_the_sums_right(
    hierarchy: Hierarchy,
) -> None:
    more = replace(batch(seed=2), agents=tuple(f"b{k}" for k in range(30)))
    hierarchy.observe(more)
    hierarchy.observe(replace(more, agents=tuple(f"c{k}" for k in range(30))))
    fresh = [node.id for node in hierarchy.tree.at_level(REGION) if node.id not in hierarchy.nodes]
    assert fresh
    for node_id in fresh:
        hierarchy.fail_over(node_id)
    assert hierarchy.establish([], Level.GLOBAL).samples == 1800
    assert hierarchy.root_equals_leaf_sum()
    hierarchy.retire([f"{group}{k}" for group in "bc" for k in range(30)])
    gone = [node_id for node_id in hierarchy.nodes if node_id not in hierarchy.tree.nodes]
    assert gone
    for node_id in [*gone, "r999"]:
        with pytest.raises(InputError, match="no node"):
            hierarchy.fail_over(node_id)
    assert hierarchy.root_equals_leaf_sum()
    assert hierarchy.establish([], Level.GLOBAL).samples == 600
