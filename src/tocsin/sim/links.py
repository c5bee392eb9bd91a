"""Networks as a latency model sees them: how long from one monitor to another, and how wide the links are."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

MILLISECOND_NS = 1_000_000
GIGABIT = 1_000_000_000
REGIONS = 8


@dataclass(slots=True)
class Network:
    """One way from a to b takes `median_ms` within a region, and across regions what `seed` drew for the pair.

    Across, one-way times are log-normal with a median of 40 ms and 90 % between 20 and 80 ms, clipped to 8..200 ms.
    `regions` = 0: every pair of monitors is a pair of regions; 1: they are all in one. Every message varies by
    `jitter` to either side.
    """

    name: str
    median_ms: float
    regions: int = 1
    jitter: float = 0.1
    bits_per_second: float = GIGABIT
    seed: int = 0
    _drawn: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    def latency_ns(self, source: int, target: int, rng: random.Random) -> int:
        """Nanoseconds on the way, without queueing."""
        factor = rng.uniform(1 - self.jitter, 1 + self.jitter)
        return int(self._between(source, target) * factor * MILLISECOND_NS)

    def _between(self, source: int, target: int) -> float:
        a, b = (source, target) if self.regions == 0 else (source % self.regions, target % self.regions)
        if a == b:
            return self.median_ms
        pair = (a, b) if a < b else (b, a)
        if pair not in self._drawn:
            drawn = random.Random(f"{self.seed} {pair}").lognormvariate(math.log(40), 0.421)  # noqa: S311
            self._drawn[pair] = min(200.0, max(8.0, drawn))
        return self._drawn[pair]


def lan() -> Network:
    """One data centre: half a millisecond."""
    return Network("LAN", 0.5)


def eight_regions(seed: int = 0) -> Network:
    """Monitors spread over eight regions, a millisecond within each."""
    return Network("8 regions", 1.0, regions=REGIONS, jitter=0.03, seed=seed)


def wide(seed: int = 0) -> Network:
    """No two monitors in one place: 20 to 80 ms between any two."""
    return Network("20-80 ms links", 1.0, regions=0, jitter=0.03, seed=seed)


def loopback(one_way_ms: float) -> Network:
    """Sockets of one machine."""
    return Network("loopback", one_way_ms, bits_per_second=40 * GIGABIT)
