"""What one observer who had all the evidence would believe, in floating point and with arithmetic of its own.

Agreement is right when its integers say the same: the posterior of any cut, computed here from the evidence under it,
and at the end of a run the plain Bayesian posterior of somebody who watched the fleet alone, without monitors. That
the two can be equal is what trimming is for: monitors that see the same events state the same sum, at most f lie, and
without the f largest and f smallest sums only the honest one remains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tocsin.model.evidence import EvidenceBatch
from tocsin.model.verdict import Roster

TOLERANCE_NATS = 1e-9  # the integers' unit is 2.3e-10
UNITS_PER_NAT = 2.0**32
CLIP = 64.0


class Central:
    """Sums of log Bayes factors by agent and monitor; what is stated twice counts once."""

    def __init__(self, roster: Roster) -> None:
        prior = roster.prior_ppm / 1e6
        self.prior = math.log(prior / (1.0 - prior))
        self._n = roster.n
        self._f = (roster.n - 1) // 3
        self._sums: dict[str, list[float]] = {}
        self._through: dict[tuple[str, int], int] = {}

    def add(self, batches: Iterable[EvidenceBatch]) -> set[str]:
        """Take in the evidence of a decision; the agents it is about."""
        touched: set[str] = set()
        for batch in batches:
            for item in batch.items:
                if item.first_seq > self._through.get((item.agent_id, item.monitor), -1):
                    self._through[item.agent_id, item.monitor] = item.last_seq
                    sums = self._sums.setdefault(item.agent_id, [0.0] * self._n)
                    sums[item.monitor] += item.log_bf_q32 / UNITS_PER_NAT
                    touched.add(item.agent_id)
        return touched

    def log_odds(self, agent_id: str) -> float:
        """That `agent_id` is compromised, in nats."""
        sums = sorted(min(CLIP, max(-CLIP, total)) for total in self._sums[agent_id])
        kept = sums[self._f : self._n - self._f]
        return self.prior + math.fsum(kept) / len(kept)


def differs(log_odds_q32: int, nats: float) -> bool:
    """Whether an agreed integer is not the number that it should be."""
    return abs(log_odds_q32 / UNITS_PER_NAT - nats) >= TOLERANCE_NATS
