"""Round trips in a world without sockets: sites on continents, access links, jitter. The twin of measured probes.

Distances are metric, access links and jitter are not, as on the Internet (Dabek, Cox, Kaashoek & Morris 2004 find the
same two parts). The same seed gives the same world and the same measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONTINENTS_MS = ((0.0, 0.0), (80.0, 0.0), (40.0, 120.0))  # round trips between them: 80 to 126 ms
CITY_MS = 8.0  # deviation of places within a continent
ACCESS_MS = 3.0  # mean of the access links, exponential
JITTER = 0.1  # a measurement lies within this share of the true round trip
LEAST_MS = 0.1


class RoundTrips:
    """True and measured round trips between named nodes, spread over the continents in turn."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._rng = np.random.default_rng(seed)
        n = len(names)
        self._index = {name: k for k, name in enumerate(names)}
        self._continent = np.arange(n) % len(CONTINENTS_MS)
        self._point = np.array(CONTINENTS_MS)[self._continent] + self._rng.normal(0, CITY_MS, (n, 2))
        self._access = self._rng.exponential(ACCESS_MS, n)

    def rtt_ms(self, a: str, b: str) -> float:
        """The true round trip."""
        i, j = self._index[a], self._index[b]
        plane = float(np.hypot(*(self._point[i] - self._point[j])))
        return plane + float(self._access[i] + self._access[j]) + LEAST_MS

    def probe(self, a: str, b: str) -> float:
        """What one measurement would give, in ms."""
        return self.rtt_ms(a, b) * float(self._rng.uniform(1 - JITTER, 1 + JITTER))

    def continent(self, name: str) -> int:
        """Which of `CONTINENTS_MS` a node is on."""
        return int(self._continent[self._index[name]])
