"""What an agent, region, zone or fleet normally does, as statistics derived from exact integer summaries."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Level(IntEnum):
    """Levels of the tree: 0 agents, 1 regions (10-50 agents), 2 zones (500-1000 agents), 3 global."""

    AGENT = 0
    REGION = 1
    ZONE = 2
    GLOBAL = 3


class Typical(msgspec.Struct, frozen=True, kw_only=True):
    """One vote an agent: its mean. Liars below half of the voters leave both numbers within what the others span.

    Both are within a bin of the votes' histogram, an eighth of a standard deviation around the middle.
    """

    agents: int  # that vote: those with 16 samples or more
    median: float
    mad: float  # median absolute deviation from the median


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Of a newcomer's next sample: its own samples, and what peers do as if that were `prior_samples` more of them."""

    mean: float
    std: float  # what is not known about the mean included
    own_share: float  # of the mean that comes from the agent's own samples, 0..1
    prior_samples: float


class FeatureBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """One numeric feature. Moments are correctly rounded from exact integers; quantiles from an integer histogram.

    Both count samples, whoever they are from: one busy agent, or one that lies, can be most of them. `typical` cannot
    be moved so. `expected` is no sum at all, but what to expect of an agent of whom little is known.
    """

    name: str
    count: int
    mean: float
    std: float
    p05: float
    p50: float
    p95: float
    saturated: int = 0  # samples clipped at the edge of the integer grid
    typical: Typical | None = None  # above single agents, where three or more have a vote
    expected: Expected | None = None  # of one agent with few samples, where enough peers are known


class DistributedBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline for `scope` at `level` over `agents` members."""

    schema: str = "tocsin.baseline/2"
    level: int
    scope: str  # agent id, region id, zone id or 'global'
    agents: int
    samples: int
    epoch: int
    features: tuple[FeatureBaseline, ...]
    correlation: tuple[tuple[float, ...], ...] = ()  # feature-feature, same order as features
    actions: dict[str, int] = {}  # action -> count
    confidence: float = 0.0  # mean over the agents of the share of its full evidence (64 events) each has given, 0..1
    staleness_seconds: float = 0.0  # up to that long ago the sums are complete; who is idle since makes none stale
    summary_hash: str = ""  # BLAKE2b-128 of the canonical integer summary: equal summaries, equal hash
    certificate_epoch: int = -1
    expected_from: str = ""  # node of the tree whose agents are the peers behind `expected`; "" where nothing is
    expected_peers: int = 0  # how many of them are known
    parts: tuple[DistributedBaseline, ...] = ()  # children, where asked for
