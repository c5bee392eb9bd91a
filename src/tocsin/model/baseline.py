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


class FeatureBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """One numeric feature. Moments are correctly rounded from exact integers; quantiles from an integer histogram."""

    name: str
    count: int
    mean: float
    std: float
    p05: float
    p50: float
    p95: float
    saturated: int = 0  # samples clipped at the edge of the integer grid


class DistributedBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline for `scope` at `level` over `agents` members."""

    schema: str = "tocsin.baseline/1"
    level: int
    scope: str  # agent id, region id, zone id or 'global'
    agents: int
    samples: int
    epoch: int
    features: tuple[FeatureBaseline, ...]
    correlation: tuple[tuple[float, ...], ...] = ()  # feature-feature, same order as features
    actions: dict[str, int] = {}  # action -> count
    confidence: float = 0.0  # share of the evidence a fully established baseline would rest on, 0..1
    staleness_seconds: float = 0.0  # age of the oldest contribution
    summary_hash: str = ""  # BLAKE2b-128 of the canonical integer summary: equal summaries, equal hash
    certificate_epoch: int = -1
    parts: tuple[DistributedBaseline, ...] = ()  # children, where asked for
