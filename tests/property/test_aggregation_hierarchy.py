"""R1.3, R1.4, R1.6: whatever happens to the fleet, the root equals the sum of the leaves, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tocsin.aggregation.aggregator import Aggregator
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.leaves import MAX_ACTIONS, OVERFLOW_ACTION, bounded_name
from tocsin.aggregation.messages import Arrived, Flush, Input, Output, Upward
from tocsin.errors import InputError, UnknownAgent
from tocsin.model.baseline import Level
from tocsin.model.events import EventBatch
from tocsin.wire import baseline as baseline_json
from tocsin.wire.update import NAME_BYTES

SECOND = 1_000_000_000


def batch(
    agents: list[str], values: np.ndarray, features: tuple[str, ...], *, seed: int = 0, phase: int = 0,
    actions: tuple[str, ...] = ("read", "write", "send"),
) -> EventBatch:  # fmt: skip
    """One row per entry of `agents`; `values` (n, d)."""
    n, names = len(agents), tuple(dict.fromkeys(agents))
    rng = np.random.default_rng(seed)
    return EventBatch(
        offset=0, agents=names, agent=np.array([names.index(a) for a in agents], np.int32),
        t_ns=np.arange(n, dtype=np.int64), session=np.zeros(n, np.int64), phase=np.full(n, phase, np.int8),
        kind=np.zeros(n, np.int8), actions=actions, action=rng.integers(-1, len(actions), n).astype(np.int32),
        effect=np.zeros(n, np.int8), groups=("ops", "sales"),
        group=np.array([hash_free_group(a) for a in agents], np.int32),
        contexts=("",), context=np.zeros(n, np.int32), feature_names=features, values=values,
    )  # fmt: skip


def hash_free_group(agent: str) -> int:
    return sum(agent.encode()) % 2


def fleet(n: int, rows: int, d: int = 3, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    agents = [f"a{k}" for k in (list(range(n)) + rng.integers(0, n, max(0, rows - n)).tolist())]
    return batch(agents, rng.normal(3, 2, (len(agents), d)), tuple(f"f{k}" for k in range(d)), seed=seed)


class Lossy(Aggregator):
    """Drops, repeats and spoils a share of what arrives, by a seed."""

    trouble = np.random.default_rng(0)
    on = False

    def step(self, now_ns: int, event: Input) -> list[Output]:
        if self.on and isinstance(event, Arrived):
            draw = self.trouble.random()
            if draw < 0.2:
                return []
            if draw < 0.3:
                return super().step(now_ns, event) + super().step(now_ns, event)
            if draw < 0.4:
                return super().step(now_ns, Arrived(event.body[:-1], event.child))
        return super().step(now_ns, event)


class FleetMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.hierarchy, self.now, self.made, self.features = Hierarchy(flush_ns=0), 1, 0, 2
        self.alive: list[str] = []

    @rule(new=st.integers(0, 600), rows=st.integers(0, 80), seed=st.integers(0, 1 << 30), gaps=st.floats(0, 0.5))
    def act(self, new: int, rows: int, seed: int, gaps: float) -> None:
        rng = np.random.default_rng(seed)
        fresh = [f"a{self.made + k}" for k in range(new)]
        self.made += new
        self.alive += fresh
        agents = fresh + [self.alive[int(k)] for k in rng.integers(0, max(1, len(self.alive)), rows) if self.alive]
        values = rng.standard_t(3, (len(agents), self.features))
        values[rng.random(values.shape) < gaps] = np.nan
        names = tuple(f"f{k}" for k in rng.permutation(self.features))
        self.hierarchy.observe(batch(agents, values, names, seed=seed))

    @rule()
    def meet_a_new_feature(self) -> None:
        self.features = min(self.features + 1, 5)

    @rule(share=st.floats(0, 1), first=st.booleans())
    def leave(self, share: float, first: bool) -> None:
        count = int(len(self.alive) * share)
        gone = self.alive[:count] if first else self.alive[::2][:count]
        for agent_id in gone:
            self.hierarchy.leave(agent_id)
        self.alive = [a for a in self.alive if a not in set(gone)]

    @rule(which=st.integers(0, 1 << 20))
    def an_aggregator_fails(self, which: int) -> None:
        ids = list(self.hierarchy.nodes)
        if ids:
            self.hierarchy.pump(self.now)
            ids = list(self.hierarchy.nodes)
            self.hierarchy.fail_over(ids[which % len(ids)])

    @rule()
    def time_passes(self) -> None:
        self.now += SECOND
        self.hierarchy.pump(self.now)

    @invariant()
    def root_equals_leaf_sum(self) -> None:
        if hasattr(self, "hierarchy"):
            assert self.hierarchy.root_equals_leaf_sum()
            self.hierarchy.tree.check()


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


def test_loss_duplication_and_damage_delay_a_sum_but_never_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.aggregation.hierarchy.Aggregator", Lossy)
    monkeypatch.setattr(Lossy, "trouble", np.random.default_rng(7))
    hierarchy = Hierarchy(flush_ns=0)
    monkeypatch.setattr(Lossy, "on", True)
    for k in range(20):
        hierarchy.observe(fleet(120, 600, seed=k))
        hierarchy.pump(k * SECOND)
    refused = hierarchy.state()["refused"]
    assert refused["gap"] > 0
    assert refused["duplicate"] > 0
    assert refused["malformed"] > 0
    monkeypatch.setattr(Lossy, "on", False)
    for k in range(20, 26):
        hierarchy.pump(k * 20 * SECOND)
    assert hierarchy.root_equals_leaf_sum()


def test_order_of_arrival_and_shape_of_the_tree_leave_the_same_bytes() -> None:
    first = fleet(300, 900, seed=1)
    others = [fleet(300, 400, seed=k) for k in (2, 3, 4)]
    digests: set[str] = set()
    for order in (others, others[::-1]):
        hierarchy = Hierarchy()
        for one in (first, *order):
            hierarchy.observe(one)
        hierarchy.observe(fleet(700, 700, seed=9))
        for k in range(300, 700):
            if order is others:
                hierarchy.leave(f"a{k}")
        for k in range(300, 700):
            if order is not others:
                hierarchy.leave(f"a{699 - (k - 300)}")
        digests.add(hierarchy.establish([], Level.GLOBAL).summary_hash)
    assert len(digests) == 1


def test_every_level_agrees_with_numpy_over_its_members() -> None:
    hierarchy, data = Hierarchy(), fleet(1200, 20_000, seed=5)
    hierarchy.observe(data)
    whose = np.array([data.agents[k] for k in data.agent])
    for level in (Level.REGION, Level.ZONE, Level.GLOBAL):
        got = hierarchy.establish(["a7"], level)
        above = hierarchy.tree.ancestor("a7", level)
        members = {a for a in data.agents if hierarchy.tree.ancestor(a, level) == above}
        x = data.values[np.isin(whose, list(members))]
        assert (got.agents, got.samples) == (len(members), len(x))
        assert got.scope == ("global" if level == Level.GLOBAL else above)
        for k, feature in enumerate(got.features):
            assert abs(feature.mean - x[:, k].mean()) < 1e-3 * x[:, k].std()
            assert abs(feature.std / x[:, k].std(ddof=1) - 1) < 1e-3
            for p, q in ((feature.p05, 0.05), (feature.p50, 0.5), (feature.p95, 0.95)):
                assert abs(p - np.quantile(x[:, k], q)) < 0.2 * x[:, k].std()
        assert np.abs(np.array(got.correlation) - np.corrcoef(x.T)).max() < 1e-3


def test_a_cluster_is_the_sum_of_its_parts() -> None:
    hierarchy = Hierarchy()
    hierarchy.observe(fleet(200, 4000))
    cluster = [f"a{k}" for k in range(0, 200, 5)]
    for level in (Level.AGENT, Level.REGION):
        got = hierarchy.establish(cluster, level)
        assert len(got.parts) > 1
        assert got.samples == sum(p.samples for p in got.parts)
        assert got.actions == {a: sum(p.actions.get(a, 0) for p in got.parts) for a in got.actions}
        assert baseline_json.decode(baseline_json.encode(got)) == got


def test_who_left_and_is_back_counts_again_with_its_history() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(30, 900))
    whole = hierarchy.establish([], Level.GLOBAL)
    own = hierarchy.establish(["a3"], Level.AGENT).samples
    hierarchy.leave("a3")
    assert hierarchy.establish([], Level.GLOBAL).samples == whole.samples - own
    with pytest.raises(UnknownAgent):
        hierarchy.region_of("a3")
    hierarchy.observe(batch(["a3", "a4"], np.zeros((2, 3)), ("f0", "f1", "f2")))
    got = hierarchy.establish([], Level.GLOBAL)
    assert (got.agents, got.samples) == (30, whole.samples + 2)
    assert hierarchy.establish(["a3"], Level.AGENT).samples == own + 1
    assert hierarchy.root_equals_leaf_sum()


def test_live_events_do_not_move_the_reference() -> None:
    hierarchy = Hierarchy()
    hierarchy.observe(fleet(30, 900))
    before = hierarchy.establish(["a3"], Level.AGENT)
    hierarchy.observe(batch(["a3"] * 50, np.full((50, 3), 99.0), ("f0", "f1", "f2"), phase=1))
    assert hierarchy.establish(["a3"], Level.AGENT) == before
    assert hierarchy.leaves.seen[hierarchy.leaves.row_of["a3"]] == before.samples + 50


def test_a_late_feature_widens_without_losing_anything() -> None:
    hierarchy = Hierarchy()
    hierarchy.observe(fleet(30, 900))
    before = hierarchy.establish([], Level.GLOBAL)
    rng = np.random.default_rng(1)
    for k in range(10):
        hierarchy.observe(batch([f"a{j}" for j in range(30)], rng.normal(size=(30, 2)), ("f1", "late"), seed=k))
    after = hierarchy.establish([], Level.GLOBAL)
    assert [f.name for f in after.features] == ["f0", "f1", "f2", "late"]
    assert after.epoch == before.epoch + 1
    assert after.features[0] == before.features[0]
    assert after.features[1].count == before.features[1].count + 300
    assert 200 <= after.features[3].count <= 300
    assert hierarchy.root_equals_leaf_sum()


def test_staleness_is_the_age_of_the_oldest_contribution() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(30, 900))
    hierarchy.pump(100 * SECOND)
    hierarchy.pump(103 * SECOND)
    assert hierarchy.baseline(Level.GLOBAL, hierarchy.tree.root).staleness_seconds == 3.0
    hierarchy.pump(111 * SECOND)
    assert hierarchy.baseline(Level.GLOBAL, hierarchy.tree.root).staleness_seconds == 0.0


def test_what_has_not_been_counted_yet_is_not_called_fresh() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(30, 90))  # too few for a grid
    hierarchy.pump(100 * SECOND)
    (own,) = hierarchy.of_each(["a3"])
    assert (own.samples, own.staleness_seconds) == (0, 100.0)
    hierarchy.observe(fleet(30, 900))
    (own,) = hierarchy.of_each(["a3"])
    assert own.samples > 20
    assert own.staleness_seconds == 0.0


def test_a_node_that_lost_what_it_held_is_not_called_fresh() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(120, 900))
    hierarchy.pump(100 * SECOND)
    hierarchy.fail_over(hierarchy.tree.region_of("a1"))
    assert hierarchy.baseline(Level.GLOBAL, hierarchy.tree.root).staleness_seconds == 0.0  # it still counts everything
    zone = hierarchy.tree.at_level(2)[0].id
    assert hierarchy.baseline(Level.ZONE, zone).staleness_seconds == 100.0  # one of its regions is missing
    hierarchy.pump(101 * SECOND)
    assert hierarchy.baseline(Level.ZONE, zone).staleness_seconds == 1.0  # the other regions last spoke then


class Counting(Aggregator):
    """Counts what is asked of all nodes together."""

    steps = 0

    def step(self, now_ns: int, event: Input) -> list[Output]:
        Counting.steps += 1
        return super().step(now_ns, event)


def test_an_update_is_the_work_of_its_path_however_large_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1.6: 60 agents in a few regions, or 2400 in three zones."""
    monkeypatch.setattr("tocsin.aggregation.hierarchy.Aggregator", Counting)
    for n in (60, 2400):
        hierarchy = Hierarchy(flush_ns=0)
        hierarchy.observe(fleet(n, 3000, seed=1))
        hierarchy.pump(SECOND)
        hierarchy.observe(batch(["a3"], np.zeros((1, 3)), ("f0", "f1", "f2")))
        steps, packets = Counting.steps, hierarchy.packets
        hierarchy.pump(2 * SECOND)
        assert Counting.steps - steps <= 6  # a packet and a flush a level
        assert hierarchy.packets - packets == 3
        down = hierarchy.packets_down
        view = hierarchy.fleet_known_to("a7")
        assert hierarchy.packets_down - down <= 3 * 3  # grid and sum, fetched over three levels
        assert view.read() is not None
        assert view.seq == 2 * SECOND
        hierarchy.fleet_known_to("a7")
        assert hierarchy.packets_down - down <= 3 * 3  # nothing new, nothing fetched
        assert hierarchy.root_equals_leaf_sum()


def test_silent_nodes_repeat_themselves_and_a_clock_that_is_set_back_silences_none() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(60, 900))
    hierarchy.pump(1000 * SECOND)
    for second in (1001, 1009):
        before = hierarchy.packets
        hierarchy.pump(second * SECOND)
        assert hierarchy.packets == before
    hierarchy.pump(1010 * SECOND)
    beat = hierarchy.packets - before
    assert beat == len(hierarchy.nodes) - 1 + len(hierarchy.tree.at_level(1))  # nodes, and the leaves of regions
    hierarchy.pump(500 * SECOND)
    assert hierarchy.packets == before + 2 * beat
    hierarchy.pump(501 * SECOND)
    assert hierarchy.packets == before + 2 * beat
    hierarchy.pump(511 * SECOND)
    assert hierarchy.packets == before + 3 * beat
    assert hierarchy.fleet_known_to("a1").seq == 511 * SECOND


def test_hostile_names_are_bounded_and_share_an_overflow() -> None:
    hierarchy = Hierarchy()
    names = tuple(f"tool-{k}\x1b[31m\ud800{'x' * 300}"[-280:] + str(k) for k in range(MAX_ACTIONS + 50))
    rows = batch([f"a{k}" for k in range(600)], np.zeros((600, 1)), ("f\ud800" + "y" * 500,), actions=names)
    hierarchy.observe(rows)
    got = hierarchy.establish([], Level.GLOBAL)
    assert len(got.features[0].name.encode()) <= NAME_BYTES
    assert all(len(a.encode()) <= NAME_BYTES for a in got.actions)
    hierarchy.observe(batch(["a1"] * 600, np.zeros((600, 1)), (), actions=tuple(map(str, range(MAX_ACTIONS + 50)))))
    got = hierarchy.establish([], Level.GLOBAL)
    assert got.actions[OVERFLOW_ACTION] > 0
    assert len(got.actions) <= MAX_ACTIONS + 1
    assert hierarchy.root_equals_leaf_sum()


def test_bounded_name_keeps_short_names() -> None:
    assert bounded_name("réad") == "réad"
    assert len(bounded_name("é" * 100).encode()) <= NAME_BYTES


def test_questions_that_make_no_sense_are_refused() -> None:
    hierarchy = Hierarchy()
    assert hierarchy.root_equals_leaf_sum()
    assert hierarchy.establish([], Level.GLOBAL).samples == 0
    with pytest.raises(UnknownAgent):
        hierarchy.establish(["nobody"], Level.REGION)
    with pytest.raises(UnknownAgent):
        hierarchy.region_of("nobody")
    with pytest.raises(InputError):
        hierarchy.establish([], Level.ZONE)
    with pytest.raises(InputError):
        hierarchy.establish(["x"], 7)
    with pytest.raises(InputError):
        hierarchy.baseline(Level.ZONE, "z999")


def test_measured_round_trips_bring_neighbours_together() -> None:
    """R1.1: agents of two continents, mixed at first, end up in regions of one continent each."""
    hierarchy = Hierarchy()
    agents = [f"a{k}" for k in range(400)]
    hierarchy.observe(batch(agents, np.zeros((400, 1)), ("f0",)))
    for _ in range(30):
        hierarchy.measured("east", "west", 110.0)
        hierarchy.measured("west", "east", 110.0)
        for k, agent_id in enumerate(agents):
            for site in ("east", "west"):
                hierarchy.measured(agent_id, site, 10.0 if (k // 3) % 2 == (site == "east") else 120.0)
    sides = [{(int(a[1:]) // 3) % 2 for a in node.children} for node in hierarchy.tree.at_level(1)]
    assert sum(len(side) > 1 for side in sides) <= 2
    hierarchy.tree.check()
    assert hierarchy.root_equals_leaf_sum()


def test_a_new_epoch_fits_what_outgrew_the_grid_and_refuses_what_is_still_on_the_old_one() -> None:
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(fleet(60, 2000))
    hierarchy.pump(SECOND)
    before = hierarchy.establish([], Level.GLOBAL)
    root = hierarchy.nodes[hierarchy.tree.root]
    (old,) = (n for n in hierarchy.nodes.values() if n.parent == root.id)
    stale = [o.body for o in old.step(1000 * SECOND, Flush()) if isinstance(o, Upward)]
    assert hierarchy.state()["saturating"] == []

    rng = np.random.default_rng(9)
    agents = [f"a{k}" for k in range(60)] * 40
    values = rng.normal(4e5, 100, (len(agents), 2))
    hierarchy.observe(batch(agents, values, ("f0", "f1")))
    hierarchy.pump(2 * SECOND)
    assert hierarchy.state()["saturating"] == ["f0", "f1"]
    hierarchy.refit()
    hierarchy.observe(batch(agents, values, ("f0", "f1")))
    after = hierarchy.establish([], Level.GLOBAL)
    assert after.epoch == before.epoch + 1
    assert [f.name for f in after.features] == ["f0", "f1", "f2"]
    assert after.features[0].mean == pytest.approx(4e5, rel=1e-4)
    assert after.features[0].std == pytest.approx(100, rel=0.05)
    assert after.features[0].saturated == 0
    assert len(agents) <= after.samples <= 2 * len(agents) + 2000
    assert hierarchy.leaves.grid.exponent[2] == root.grid.exponent[2]
    assert hierarchy.root_equals_leaf_sum()
    total = root.total
    for body in stale:
        root.step(1001 * SECOND, Arrived(body))
    assert root.total == total
    assert root.refused["old epoch"] == len(stale)


def test_one_agent_that_sends_nonsense_is_no_reason_for_a_new_epoch() -> None:
    hierarchy = Hierarchy()
    hierarchy.observe(fleet(30, 900))
    hierarchy.observe(batch(["a1"] * 5000, np.full((5000, 3), 1e12), ("f0", "f1", "f2")))
    hierarchy.pump(SECOND)
    assert hierarchy.state()["saturating"] == []


def test_an_epoch_before_there_is_a_grid_changes_nothing() -> None:
    hierarchy = Hierarchy()
    hierarchy.refit()
    hierarchy.observe(fleet(30, 60))
    hierarchy.refit()
    assert hierarchy.establish([], Level.GLOBAL).samples == 60
