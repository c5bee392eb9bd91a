"""What to expect of an agent, from its own samples and from its peers': the smallest scope that has enough of them.

A peer's word is one vote in a histogram, so that fewer than half of them, lying as they like, move what is expected of
a newcomer no further than the honest ones reach (see `stats.robust`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.derive import KNOWN_SAMPLES, as_votes
from tocsin.aggregation.leaves import LeafSummaries
from tocsin.aggregation.tree import Tree
from tocsin.errors import InputError
from tocsin.model.baseline import Expected, Level
from tocsin.stats.moments import Grid, Moments
from tocsin.stats.robust import CONSISTENT, median_and_mad, votes
from tocsin.stats.shrinkage import Peers, expected, spread_of_true_means

I64 = NDArray[np.int64]

LEAST_PEERS = 8  # with fewer, their spread says little, and the next larger scope is asked


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of an agent's next sample, per feature of the grid, and from whom it was learned."""

    features: tuple[str, ...]
    expected: tuple[Expected | None, ...]  # None for a feature that too few peers have
    scope: str  # node whose agents were the peers
    peers: int  # how many of them are known


class PeerVotes:
    """How agents with moment vectors (n, size) differ, one vote each; anybody's own can be left out."""

    def __init__(self, grid: Grid, vectors: I64) -> None:
        steps = Moments(Grid(grid.features, (0,) * len(grid), (0,) * len(grid)), vectors)  # in grid coordinates
        self._grid = grid
        self._known: NDArray[np.bool_] = steps.count >= KNOWN_SAMPLES  # (n, d)
        self._means = as_votes(steps.mean, self._known)
        self._spreads = as_votes(np.sqrt(steps.variance), self._known)
        self._cells = votes(self._means), votes(self._spreads)
        known = zip(steps.count.T, self._known.T, strict=True)
        self._samples = [float(np.median(count[has])) if has.any() else 1.0 for count, has in known]

    def votes(self, number: int) -> bool:
        """Whether agent `number` has a vote on any feature."""
        return bool(self._known[number].any())

    def but(self, number: int) -> tuple[Peers, int]:
        """(how all but agent `number` differ, in the features' units; how many of them are known)."""
        own = slice(number, number + 1)
        location, mad = median_and_mad(self._cells[0] - votes(self._means[own]))
        within, _ = median_and_mad(self._cells[1] - votes(self._spreads[own]))
        # How many samples a peer's mean rests on is the median over all: its own number hardly moves that.
        between = np.array([
            spread_of_true_means(np.array([CONSISTENT * m]), np.array([w]), n)[0]
            for m, w, n in zip(mad, within, self._samples, strict=True)
        ])  # fmt: skip
        few = self._known.sum(axis=0) - self._known[number] < LEAST_PEERS
        scale = np.ldexp(1.0, np.array(self._grid.exponent, np.int32))
        columns = ((location + np.array(self._grid.origin)) * scale, between * scale, within * scale)
        count = int(self._known.any(axis=1).sum()) - self.votes(number)
        return Peers(*(np.where(few, np.nan, column) for column in columns)), count


class Newcomers:
    """Expectations as of one moment. What is worked out for one agent serves the next: make one, ask, let it go."""

    def __init__(self, tree: Tree, leaves: LeafSummaries) -> None:
        self._tree = tree
        self._leaves = leaves
        self._places: dict[str, dict[str, int]] = {}  # node -> agent below it -> number
        self._votes: dict[str, PeerVotes] = {}
        self._without_vote: dict[str, tuple[Peers, int]] = {}  # node -> peers of those who have no vote themselves

    def expect(self, agent_id: str) -> Expectation:
        """Of one agent; peers are those of its region, else its zone, else the fleet.

        Raises `UnknownAgent`, and `InputError` while fewer than `LEAST_PEERS` others are known.
        """
        for level in (Level.REGION, Level.ZONE, Level.GLOBAL):
            node = self._tree.ancestor(agent_id, level)
            peers, count = self._peers(node, agent_id)
            if count >= LEAST_PEERS:
                return Expectation(self._leaves.grid.features, self._expected(agent_id, peers), node, count)
        raise InputError(
            f"fewer than {LEAST_PEERS} agents have {KNOWN_SAMPLES} samples", remedy="wait until more agents are known"
        )

    def expect_each(self, agent_ids: Sequence[str]) -> dict[str, Expectation]:
        """Of those of whom anything can be expected yet."""
        found: dict[str, Expectation] = {}
        for agent_id in agent_ids:
            try:
                found[agent_id] = self.expect(agent_id)
            except InputError:  # too few peers
                continue
        return found

    def _peers(self, node: str, agent_id: str) -> tuple[Peers, int]:
        if node not in self._votes:
            members = self._tree.agents_below(node)
            self._places[node] = {name: k for k, name in enumerate(members)}
            self._votes[node] = PeerVotes(self._leaves.grid, self._leaves.moments(members))
        number, peers = self._places[node][agent_id], self._votes[node]
        if peers.votes(number):
            return peers.but(number)
        if node not in self._without_vote:
            self._without_vote[node] = peers.but(number)
        return self._without_vote[node]

    def _expected(self, agent_id: str, peers: Peers) -> tuple[Expected | None, ...]:
        own = Moments(self._leaves.grid, self._leaves.moments([agent_id]))
        found = expected(own.count[0].astype(np.float64), own.mean[0], peers)
        columns = zip(*(c.tolist() for c in (found.mean, found.std, found.own_share, found.prior_samples)), strict=True)
        return tuple(
            Expected(mean=mean, std=std, own_share=share, prior_samples=k)
            if np.isfinite([mean, std, k]).all()
            else None
            for mean, std, share, k in columns
        )
