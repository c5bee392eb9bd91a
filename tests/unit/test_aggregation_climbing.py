"""When changes climb the tree: after quiet at once, under load as often as the work allows, and never not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tocsin.aggregation.hierarchy import LEAST_REST_NS, REST_NS_PER_REGION, Hierarchy
from tocsin.model.events import EventBatch
from tocsin.monitor.inputs import Observed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.trust.keyring import deterministic_signers, roster_of

SECOND = 1_000_000_000
AGENTS = 120
START = 600


def batch(agents: int, events: int, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        offset=0, agents=tuple(f"a{k}" for k in range(agents)), agent=(np.arange(events) % agents).astype(np.int32),
        t_ns=np.arange(events), session=np.zeros(events, np.int64), phase=np.zeros(events, np.int8),
        kind=np.zeros(events, np.int8), actions=("read",), action=np.zeros(events, np.int32),
        effect=np.zeros(events, np.int8), feature_names=("f",), values=rng.normal(3, 2, (events, 1)),
    )  # fmt: skip


def known(hierarchy: Hierarchy) -> int:
    """Events that the root counts."""
    return hierarchy.nodes[hierarchy.tree.root].total.events


def settled(now_ns: int) -> Hierarchy:
    """As the service makes it, with a grid, and quiet."""
    hierarchy = Hierarchy()
    hierarchy.observe(batch(AGENTS, START))
    hierarchy.pump(now_ns - 60 * SECOND)
    assert known(hierarchy) == START
    return hierarchy


def test_after_quiet_an_event_climbs_at_once_and_the_next_after_a_short_rest() -> None:
    now = 100 * SECOND
    hierarchy = settled(now)
    assert hierarchy.due_ns() is None
    hierarchy.observe(batch(1, 1))
    hierarchy.pump(now)  # heartbeats of every node leave with it
    assert known(hierarchy) == START + 1
    assert hierarchy.due_ns() is None
    hierarchy.observe(batch(1, 1))
    due = hierarchy.due_ns()
    assert due == now + REST_NS_PER_REGION  # it was about one region
    hierarchy.pump(due - 1)
    assert known(hierarchy) == START + 1
    hierarchy.pump(due)
    assert known(hierarchy) == START + 2


def test_the_rest_is_as_long_as_the_climb_was_large() -> None:
    now = 100 * SECOND
    hierarchy = settled(now)
    hierarchy.pump(now)
    hierarchy.observe(batch(AGENTS, AGENTS))
    assert hierarchy.due_ns() == now + LEAST_REST_NS  # that one was about nothing
    now += SECOND
    hierarchy.pump(now)
    regions = len(hierarchy.tree.at_level(1))
    assert regions > 2
    hierarchy.observe(batch(1, 1))
    assert hierarchy.due_ns() == now + REST_NS_PER_REGION * regions


def test_whatever_changes_the_tree_climbs_without_a_further_event() -> None:
    now = 100 * SECOND
    hierarchy = settled(now)
    for change in (
        lambda: hierarchy.leave("a5"),
        lambda: hierarchy.fail_over(hierarchy.tree.region_of("a1")),
        hierarchy.refit,
    ):
        now += 60 * SECOND
        hierarchy.pump(now)
        assert hierarchy.due_ns() is None
        change()
        assert hierarchy.due_ns() is not None
        now += SECOND
        hierarchy.pump(now)
        assert hierarchy.root_equals_leaf_sum()


def test_the_end_of_a_burst_climbs_on_the_service_s_own_timer() -> None:
    signers = deterministic_signers(b"climbing", 4)
    clock = VirtualClock(100 * SECOND)
    engine = Engine(roster_of("climbing", signers), signers, clock)
    engine.start()
    engine.feed([Observed(batch(AGENTS, START))])
    engine.feed([Observed(replace(batch(1, 1), offset=START))])
    assert known(engine.tree) == START  # it rests
    due = engine.tree.due_ns()
    timer = engine.next_timer_ns()
    assert due is not None
    assert timer is not None
    assert timer <= due
    clock.advance_to(due)
    engine.tick()
    assert known(engine.tree) == START + 1
    assert engine.tree.due_ns() is None
