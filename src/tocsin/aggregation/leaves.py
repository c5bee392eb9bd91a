"""The leaf side: one exact summary per agent, accumulated for a whole batch at once.

Rows of `_moments`, `_cells` and `_actions` are agents in order of arrival. The grid is fitted from the first
`fit_rows` events, which are kept and counted again on it; until then every fit is provisional. A feature that shows
up later widens the summaries exactly (the numbers so far are kept, the new feature has none) and opens a new epoch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.messages import Upward
from tocsin.aggregation.placement import NetworkMap
from tocsin.aggregation.reports import LeafReports
from tocsin.aggregation.rows import Rows, bounded_name, column_of, widened
from tocsin.aggregation.summary import MAX_ACTIONS, OVERFLOW_ACTION, Summary, vector_size
from tocsin.aggregation.tree import Tree
from tocsin.model.events import EventBatch, Phase
from tocsin.stats.histogram import BINS, accumulate_codes, accumulate_histograms
from tocsin.stats.moments import (
    MAX_FEATURES,
    MAX_ROWS_PER_AGENT,
    MISSING,
    Grid,
    MomentLayout,
    accumulate_moments,
    fit_grid,
    quantise,
)

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

FIT_ROWS = 512
MOST_FITTED = 8192  # of a larger first batch, evenly many rows are fitted from
NEW_FEATURE_SAMPLES = 64
SATURATED_SHARE = 0.05  # a grid that fits clips .1 % of the samples it was fitted from


@dataclass(frozen=True, slots=True)
class Members:
    """What agents say, each for itself, on the grid: events (n,), samples (n, d) and their sums (n, d)."""

    events: I64
    counts: I64
    sums: I64


class LeafSummaries:
    """Per-agent accumulators of one monitor, over the agents of `tree`. Only baseline-phase events are learned from,
    unless `learn_live`: what an agent does once it may have been turned must not move its reference."""

    def __init__(self, tree: Tree, network: NetworkMap, *, fit_rows: int = FIT_ROWS, learn_live: bool = False) -> None:
        self.tree = tree
        self.network = network
        self.reports = LeafReports(tree)
        self.epoch = -1
        self.grid = Grid((), (), ())
        self.row_of: dict[str, int] = {}
        self._agents: list[str] = []  # by row
        self.seen = np.zeros(64, np.int64)  # (capacity,) events of every phase
        self.refused: Counter[str] = Counter()  # numbers and batches that were not counted, by reason
        self.changed_regions = 0  # whose agents acted or moved, as of the last `flush`
        self.missing = 0  # numbers that no event brought, of features that others of its batch have
        self._fit_rows = fit_rows
        self._learn_live = learn_live
        self._codes: dict[str, int] = {OVERFLOW_ACTION: 0}
        self._moments = np.zeros((64, 1), np.int64)
        self._cells = np.zeros((64, 0), np.int32)
        self._actions = np.zeros((64, 16), np.int32)
        self._touched = np.zeros(64, np.bool_)
        self._first: list[Rows] | None = []  # the rows the grid is fitted from; None once it is final
        self._latest: list[Rows] = []  # at least as many rows again, the newest, once the grid is final
        self._late: dict[str, list[F64]] = {}  # feature not on the grid -> samples so far

    # ---- in

    def accumulate(self, batch: EventBatch) -> None:
        """Add a batch; unknown agents join the tree in their group."""
        if not len(batch):
            return
        batch = self._screened(batch)
        rows = self._rows_of_agents(batch)[batch.agent]
        np.add.at(self.seen, rows, 1)  # costs the batch, not the fleet
        codes = np.array([self._code(a) for a in batch.actions] + [-1], np.int64)  # last: index -1
        if self._learn_live:
            events = Rows(rows, codes[batch.action], batch.feature_names, batch.values)
        else:
            keep = batch.phase == Phase.BASELINE
            if not keep.any():
                return
            if keep.all():  # the usual case while learning: nothing is copied
                keep = slice(None)
            values = batch.values[keep] if batch.feature_names else batch.values
            events = Rows(rows[keep], codes[batch.action[keep]], batch.feature_names, values)
        if self._first is None:
            self._add(events)
            self._remember(events)
            return
        self._first.append(events)
        if sum(r.row.shape[0] for r in self._first) >= self._fit_rows:
            self.conclude()

    def _screened(self, batch: EventBatch) -> EventBatch:
        """The batch without numbers that are none: those add nothing, and are counted as refused.

        NaN is how a batch says that a number is missing. A NaN that somebody sent was refused and counted where it
        came in (`ingest.rows`, `ingest.tables`, `wire.records`).
        """
        if not batch.feature_names:
            return batch
        if batch.values.shape != (len(batch), len(batch.feature_names)):
            self.refused["wrong dimension"] += 1
            return replace(batch, feature_names=(), values=np.zeros((0, 0)))
        self.missing += int(np.count_nonzero(np.isnan(batch.values)))
        infinite = np.isinf(batch.values)
        if infinite.any():
            self.refused["infinite"] += int(infinite.sum())
            return replace(batch, values=np.where(infinite, np.nan, batch.values))
        return batch

    def _remember(self, events: Rows) -> None:
        """Keep the latest `fit_rows` rows, in case the grid has to be fitted again."""
        tail = slice(-self._fit_rows, None)
        self._latest.append(Rows(events.row[tail], events.action[tail], events.features, events.values[tail].copy()))
        while sum(r.row.shape[0] for r in self._latest[1:]) >= self._fit_rows:
            del self._latest[0]

    @property
    def samples(self) -> int:
        """Events counted in this epoch, of agents that have left among them."""
        return int(self._moments[:, 0].sum())

    def as_of_ns(self, now_ns: int) -> int:
        """Up to when the sums are complete: now, but 0 while there is no grid that the events so far count on."""
        return now_ns if self.epoch >= 0 or not self._first else 0

    @property
    def kept_by_refit(self) -> int:
        """Events that a refit counts again."""
        return sum(rows.row.shape[0] for rows in self._latest)

    @property
    def settled(self) -> bool:
        """Whether the grid is final: whatever is asked before then is answered from a copy."""
        return self._first is None

    def conclude(self) -> None:
        """Fit the grid from the rows so far, for good, and count them on it; without effect where it is final."""
        if self._first is not None:
            self._fit(self._first)
            self._first, self._latest = None, self._first

    def refit(self) -> None:
        """Open an epoch with origins and steps fitted from the latest rows; counting begins anew, with these rows.

        Integers on the old grid cannot be moved to another one exactly, so what was learned on it is given up. Features
        without recent samples keep their place.
        """
        if self._first is None and self._latest:
            self._fit(self._latest)  # and kept: another refit must not have less to count again

    def saturating(self) -> tuple[str, ...]:
        """Features of which most agents have more than `SATURATED_SHARE` of their samples clipped at the grid's edge.

        One agent, one vote: a few that send nonsense are no reason to open an epoch.
        """
        d, at = len(self.grid), MomentLayout(len(self.grid))
        if self.epoch < 0 or not d:
            return ()
        moments = self._moments[: len(self.row_of)]
        count = moments[:, [at.counts + at.pair(a, a) for a in range(d)]] + moments[:, at.size, None]
        clipped = moments[:, 1 : 1 + d] > SATURATED_SHARE * count
        most = 2 * clipped.sum(axis=0) > (count > 0).sum(axis=0)
        return tuple(f for f, found in zip(self.grid.features, most.tolist(), strict=True) if found)

    def _fit(self, latest: list[Rows]) -> None:
        old = {name: axis for axis, name in enumerate(self.grid.features)}
        names = tuple(dict.fromkeys([*old, *(bounded_name(n) for r in latest for n in r.features)]))[:MAX_FEATURES]
        columns = [np.concatenate([column_of(r, n) for r in latest]) for n in names]
        every = 1 + sum(r.row.shape[0] for r in latest) // MOST_FITTED
        fitted = fit_grid(names, np.stack([c[::every] for c in columns], axis=1) if columns else np.zeros((0, 0)))
        silent = [n in old and not np.isfinite(c).any() for n, c in zip(names, columns, strict=True)]
        kept = [
            (self.grid if quiet else fitted, old[n] if quiet else a)
            for a, (n, quiet) in enumerate(zip(names, silent, strict=True))
        ]
        self.grid = Grid(names, tuple(g.origin[a] for g, a in kept), tuple(g.exponent[a] for g, a in kept))
        self.epoch += 1
        capacity = self.seen.shape[0]
        self._moments = np.zeros((capacity, MomentLayout(len(names)).open_size), np.int64)
        self._cells = np.zeros((capacity, len(names) * BINS), np.int32)
        self._actions[:] = 0
        for rows in latest:
            self._add(rows)

    def _rows_of_agents(self, batch: EventBatch) -> I64:
        for k, agent_id in enumerate(batch.agents):
            if agent_id not in self.tree or agent_id not in self.row_of:
                self._welcome(agent_id, batch, k)
        return np.array([self.row_of[agent_id] for agent_id in batch.agents], np.int64)

    def _welcome(self, agent_id: str, batch: EventBatch, k: int) -> None:
        """A row of its own at first sight, and a place in the tree. Who left and is back counts with its history."""
        row = self.row_of.setdefault(agent_id, len(self.row_of))
        if row == len(self._agents):
            self._agents.append(agent_id)
        if row >= self.seen.shape[0]:
            grow = self.seen.shape[0]
            for name in ("seen", "_moments", "_cells", "_actions", "_touched"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros((grow, *old.shape[1:]), old.dtype)]))
        group = ""
        if batch.group.shape[0]:
            where = np.flatnonzero(batch.agent == k)
            group = batch.groups[int(batch.group[where[0]])] if where.size else ""
        if agent_id not in self.tree:
            self.tree.join(agent_id, self.network.place(agent_id, otherwise=group))

    def _code(self, action: str) -> int:
        """Number of an action; beyond `MAX_ACTIONS` distinct ones they share the overflow."""
        code = self._codes.get(action)
        if code is None:
            name = bounded_name(action)
            code = self._codes.get(name, 0)
            if not code and len(self._codes) <= MAX_ACTIONS:
                code = self._codes[name] = len(self._codes)
                if code >= self._actions.shape[1]:
                    self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        return code

    def _add(self, events: Rows) -> None:
        if int(self._moments[events.row, 0].max()) + events.row.shape[0] > MAX_ROWS_PER_AGENT:
            events = self._without_excess(events)
            if not events.row.size:
                return
        self._widen(events)
        q = self._quantised(events)
        accumulate_moments(q, events.row, self._moments)
        accumulate_histograms(q, events.row, self._cells)
        accumulate_codes(events.row, events.action, self._actions)
        self._touched[events.row] = True

    def _without_excess(self, events: Rows) -> Rows:
        """The rows that their agents can still count in this epoch; the others are refused."""
        order = np.argsort(events.row, kind="stable")
        agents = events.row[order]
        earlier = np.empty_like(order)  # rows of the same agent before this one
        earlier[order] = np.arange(order.size) - np.searchsorted(agents, agents)
        fits = self._moments[events.row, 0] + earlier < MAX_ROWS_PER_AGENT
        self.refused["too many events"] += int(np.count_nonzero(~fits))
        values = events.values[fits] if events.values.shape[0] else events.values
        return Rows(events.row[fits], events.action[fits], events.features, values)

    def _quantised(self, events: Rows) -> I32:
        if events.values.shape[0] == 0 or not self.grid.features:
            return np.full((events.row.shape[0], len(self.grid)), MISSING, np.int32)
        place = {bounded_name(n): i for i, n in enumerate(events.features)}
        return quantise(self.grid, events.values, np.array([place.get(f, -1) for f in self.grid.features], np.int64))

    def _widen(self, events: Rows) -> None:
        """Notice features that are not on the grid; put them on it once there are enough samples to fit from."""
        if self._first is not None or len(self.grid) >= MAX_FEATURES:
            return
        for name in map(bounded_name, events.features):
            if name in self.grid.features or (len(self._late) > MAX_FEATURES and name not in self._late):
                continue
            column = column_of(events, name)
            samples = self._late.setdefault(name, [])
            finite = column[np.isfinite(column)]
            if not finite.size:  # nothing is kept of what is only named: it would grow with every batch
                continue
            samples.append(finite)
            if sum(s.shape[0] for s in samples) >= NEW_FEATURE_SAMPLES and len(self.grid) < MAX_FEATURES:
                self._extend(name, np.concatenate(self._late.pop(name)))

    def _extend(self, name: str, samples: F64) -> None:
        """One more feature: same numbers in a wider layout, new epoch."""
        one = fit_grid((name,), samples[:, None])
        self._moments = widened(self._moments, len(self.grid))
        self.grid = Grid((*self.grid.features, name), self.grid.origin + one.origin, self.grid.exponent + one.exponent)
        self._cells = np.pad(self._cells, ((0, 0), (0, BINS)))
        self.epoch += 1

    # ---- out

    def summary(self, agent_ids: list[str]) -> Summary:
        """Exact sum over these agents; agents without events contribute nothing."""
        rows = np.array([self.row_of[a] for a in agent_ids if a in self.row_of], np.int64)
        layout = MomentLayout(len(self.grid))
        if not rows.size or self.epoch < 0:
            return Summary.empty(self.epoch, len(self.grid))
        counts = np.empty(vector_size(len(self.grid)), np.int64)
        counts[: layout.size] = layout.closed(self._moments[rows].sum(axis=0))
        counts[layout.size :] = self._cells[rows].sum(axis=0, dtype=np.int64)
        return Summary(self.epoch, len(self.grid), counts, self._named(self._actions[rows].sum(axis=0, dtype=np.int64)))

    def each(self, agent_ids: list[str]) -> list[Summary]:
        """One summary an agent; an agent without events has an empty one."""
        d = len(self.grid)
        if self.epoch < 0:
            return [Summary.empty(self.epoch, d)] * len(agent_ids)
        rows = np.array([self.row_of.get(a, -1) for a in agent_ids], np.int64)
        cells, actions = self._cells[rows], self._actions[rows]
        cells[rows < 0], actions[rows < 0] = 0, 0
        counts = np.concatenate([self.moments(agent_ids), cells], axis=1, dtype=np.int64)
        return [Summary(self.epoch, d, one, self._named(acts)) for one, acts in zip(counts, actions, strict=True)]

    def members(self, agent_ids: list[str]) -> Members:
        """What each of these agents says for itself, zero for agents without events."""
        d, at = len(self.grid), MomentLayout(len(self.grid))
        rows = np.array([self.row_of.get(a, -1) for a in agent_ids], np.int64)
        if self.epoch < 0 or not rows.size:
            return Members(np.zeros(rows.size, np.int64), *(np.zeros((rows.size, d), np.int64) for _ in range(2)))
        one = np.arange(d)
        counts = [at.counts + at.pair(a, a) for a in range(d)]
        places = np.concatenate([[0], counts, at.sums + one * (d + 1), [at.size], at.size + 1 + one]).astype(np.int64)
        found = self._moments[rows[:, None], places]
        found[rows < 0] = 0
        events, counts, sums, whole, whole_sums = np.split(found, np.cumsum([1, d, d, 1]), axis=1)
        return Members(events[:, 0], counts + whole, sums + whole_sums)

    def moments(self, agent_ids: list[str]) -> I64:
        """(n, `MomentLayout.size`) moment vectors of these agents, zero for agents without events."""
        rows = np.array([self.row_of.get(a, -1) for a in agent_ids], np.int64)
        if self.epoch < 0:
            return np.zeros((len(agent_ids), MomentLayout(0).size), np.int64)
        vectors = MomentLayout(len(self.grid)).closed(self._moments[rows])
        vectors[rows < 0] = 0
        return vectors

    def _named(self, per_action: I64 | I32) -> dict[str, int]:
        names = list(self._codes)
        return {names[code]: int(per_action[code]) for code in np.flatnonzero(per_action).tolist()}

    def all_refused(self) -> Counter[str]:
        """What was refused here, statements about the fleet among it."""
        return self.refused + self.reports.refused()

    def flush(self, now_ns: int, moved: dict[str, None]) -> list[Upward]:
        """Updates for every region whose agents acted, moved (`moved`, from `Tree.drain`) or were silent long."""
        self.changed_regions = 0
        if self.epoch < 0:
            return []
        changed = dict(moved)
        touched = np.flatnonzero(self._touched)
        for row in touched.tolist():
            if self._agents[row] in self.tree:
                changed[self.tree.region_of(self._agents[row])] = None
        self._touched[touched] = False
        self.changed_regions = len(changed)
        due = {**self.reports.due(now_ns, self.epoch), **changed}
        out: list[Upward] = []
        for region in due:
            node = self.tree.nodes.get(region)
            if node is None:
                self.refused += self.reports.forget(region)
            else:
                members = list(node.children)
                out += self.reports.state(region, self.summary(members), self.grid, len(members), now_ns)
        return out
