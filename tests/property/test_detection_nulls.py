"""Fleets in which nothing happens, of many laws: nobody may be flagged. Seeds are fixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tocsin.detection.detector import FleetDetector
from tocsin.detection.scoring import FleetAlarms
from tocsin.wire.records import batch_from_records

AGENTS, BASELINE, LIVE = 40, 200, 300
Draw = Callable[[np.random.Generator], float]
LAWS: dict[str, Draw] = {
    "normal": lambda rng: float(rng.normal()),
    "student with two degrees": lambda rng: float(rng.standard_t(2)),
    "lognormal": lambda rng: float(rng.lognormal(3.0, 1.0)),
    "cauchy": lambda rng: float(rng.standard_cauchy()),
    "constant": lambda rng: 7.0,
    "one in thirty": lambda rng: float(rng.random() < 1 / 30),
    "counts": lambda rng: float(rng.poisson(3)),
    "exponential": lambda rng: float(rng.exponential()),
}


def _false_alarms(draw: Draw, seed: int, *, calls: bool) -> set[str]:
    rng = np.random.default_rng(seed)
    detector, offset, alarmed = FleetDetector(), 0, set()
    for phase, rounds in ((0, BASELINE), (1, LIVE)):
        rows = []
        for i in range(rounds):
            for agent in range(AGENTS):
                record: dict[str, object] = {"measured": draw(rng), "session": f"{agent} {phase} {i // 8}"}
                if calls:
                    record |= {
                        "action": "abcd"[rng.integers(4)],
                        "effect": ("read", "write", "egress")[rng.integers(3)],
                    }
                rows.append((f"agent-{agent}", record))
        batch = batch_from_records(rows, offset=offset, phases=[phase] * len(rows))
        offset += len(rows)
        seen = detector.observe(batch)
        if phase:
            alarms = FleetAlarms(0.01, AGENTS).update(seen.agent_index, seen.log_e)
            alarmed = {seen.agents[i] for i in np.unique(seen.agent_index[alarms]).tolist()}
    return alarmed


@pytest.mark.parametrize("calls", [False, True], ids=["metrics", "calls"])
@pytest.mark.parametrize("law", sorted(LAWS))
def test_nobody_is_flagged_where_nothing_happens(law, calls):
    assert _false_alarms(LAWS[law], 5, calls=calls) == set()


def test_a_shift_is_still_found_in_a_heavy_tail():
    rng = np.random.default_rng(9)
    shifted: list[int] = []

    def draw(_: np.random.Generator) -> float:
        shifted.append(1)
        number = len(shifted) - 1
        later = number >= AGENTS * (BASELINE + 60)
        return float(rng.lognormal(3.0, 1.0)) * (12.0 if later and number % AGENTS == 11 else 1.0)

    assert _false_alarms(draw, 9, calls=False) == {"agent-11"}
