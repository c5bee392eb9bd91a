"""R1.3, R1.4: whatever joins, leaves, moves, fails or comes late, the root has the bytes of a sum over all rows."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.summary import Summary
from tocsin.model.events import EventBatch
from tocsin.stats.histogram import BINS, bin_edges
from tocsin.stats.moments import Q_MAX, Grid, MomentLayout

SECOND = 1_000_000_000
TOOLS = ("read", "write", "send")
EDGES = np.array([bin_edges(k)[0] for k in range(BINS)])


def twin(grid: Grid, epoch: int, rows: list[tuple[list[float], int]]) -> bytes:
    """The centralised answer: every row in one place, loops over pairs, Python's own integers."""
    d = len(grid)
    layout, v = MomentLayout(d), [0] * (MomentLayout(d).size + d * BINS)
    actions: dict[str, int] = {}
    for values, action in rows:
        q = [
            None if np.isnan(x) else int(np.clip(np.rint(x * 2.0 ** -grid.exponent[a]) - grid.origin[a], -Q_MAX, Q_MAX))
            for a, x in enumerate(values)
        ]
        v[0] += 1
        actions[TOOLS[action]] = actions.get(TOOLS[action], 0) + 1
        for a, x in enumerate(q):
            if x is None:
                continue
            v[1 + a] += abs(x) == Q_MAX
            v[layout.size + a * BINS + int(np.searchsorted(EDGES, x)) - 1] += 1
            for b, y in enumerate(q):
                if y is not None:
                    v[layout.sums + a * d + b] += x
                    if b >= a:
                        v[layout.counts + layout.pair(a, b)] += 1
                        v[layout.products + layout.pair(a, b)] += x * y
    return Summary(epoch, d, np.array(v, np.int64), actions).canonical()


class TwinMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 30), flush_seconds=st.sampled_from([0, 3]))
    def begin(self, seed: int, flush_seconds: int) -> None:
        self.hierarchy, self.now, self.made = Hierarchy(flush_ns=flush_seconds * SECOND), SECOND, 0
        self.rows: dict[str, list[tuple[list[float], int]]] = {}
        self.gone: dict[str, list[tuple[list[float], int]]] = {}  # what those did who left
        self.act(seed, 60, 460, 0.1, 5.0)  # more than the rows that a grid is fitted from

    @rule(seed=st.integers(0, 1 << 30), new=st.integers(0, 150), old=st.integers(0, 60), gaps=st.floats(0, 0.6),
          scale=st.sampled_from([0.1, 5.0, 1e5]))  # fmt: skip
    def act(self, seed: int, new: int, old: int, gaps: float, scale: float) -> None:
        rng = np.random.default_rng(seed)
        fresh = [f"a{self.made + k}" for k in range(new)]
        self.made += new
        known = list(self.rows) + fresh
        if not known:
            return
        self.observe(rng, fresh + [known[int(k)] for k in rng.integers(0, len(known), old)], gaps, scale)

    def observe(self, rng: np.random.Generator, who: list[str], gaps: float, scale: float) -> None:
        if rng.random() < 0.5:
            who.sort()  # runs of one agent's rows go another way through the leaves
        values = rng.standard_t(3, (len(who), 3)) * scale
        values[rng.random(values.shape) < gaps] = np.nan
        action = rng.integers(0, 3, len(who)).astype(np.int32)
        names = tuple(dict.fromkeys(who))
        n = len(who)
        self.hierarchy.observe(EventBatch(
            offset=0, agents=names, agent=np.array([names.index(a) for a in who], np.int32), t_ns=np.arange(n),
            session=np.zeros(n, np.int64), phase=np.zeros(n, np.int8), kind=np.zeros(n, np.int8), actions=TOOLS,
            action=action, effect=np.zeros(n, np.int8), groups=("x", "y", "z"),
            group=rng.integers(0, 3, n).astype(np.int32), feature_names=("f", "g", "h"), values=values,
        ))  # fmt: skip
        for agent, row, code in zip(who, values.tolist(), action.tolist(), strict=True):
            self.rows.setdefault(agent, self.gone.pop(agent, [])).append((row, code))

    @rule(seed=st.integers(0, 1 << 30), share=st.floats(0, 0.7), back=st.booleans())
    def leave(self, seed: int, share: float, back: bool) -> None:
        rng = np.random.default_rng(seed)
        for agent in [a for a in self.rows if rng.random() < share]:
            self.hierarchy.leave(agent)
            self.gone[agent] = self.rows.pop(agent)
        if back:
            self.some_return(seed, 1)

    @rule(seed=st.integers(0, 1 << 30), times=st.integers(1, 3))
    def some_return(self, seed: int, times: int) -> None:
        rng = np.random.default_rng(seed)
        back = [agent for agent in self.gone if rng.random() < 0.5]
        if back:
            self.observe(rng, back * times, 0.1, 5.0)

    @precondition(lambda self: self.rows)
    @rule(seed=st.integers(0, 1 << 30), group=st.sampled_from(["x", "y", "elsewhere"]))
    def move(self, seed: int, group: str) -> None:
        rng = np.random.default_rng(seed)
        for agent in [a for a in self.rows if rng.random() < 0.2]:
            self.hierarchy.tree.move(agent, group)

    @rule(which=st.integers(0, 1 << 20))
    def an_aggregator_fails(self, which: int) -> None:
        self.hierarchy.pump(self.now)
        ids = list(self.hierarchy.nodes)
        if ids:
            self.hierarchy.fail_over(ids[which % len(ids)])

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.hierarchy.pump(self.now)

    @invariant()
    def the_root_has_the_bytes_of_the_centralised_sum(self) -> None:
        self.now += 20 * SECOND
        self.hierarchy.pump(self.now)
        leaves = self.hierarchy.leaves
        rows = [row for own in self.rows.values() for row in own]
        assert len(self.hierarchy.tree) == len(self.rows)
        root = self.hierarchy.nodes[self.hierarchy.tree.root]
        assert root.total.canonical() == twin(leaves.grid, leaves.epoch, rows)
        view = self.hierarchy.fleet_known_to(next(iter(self.rows))).read() if self.rows else None
        assert view is None or view[0] == root.total


TestTwin = TwinMachine.TestCase
TestTwin.settings = settings(max_examples=9, stateful_step_count=7, deadline=None)
