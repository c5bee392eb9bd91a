"""What a whole fleet shares is no evidence; what a few agents of a small fleet do is none against the others."""

from __future__ import annotations

import numpy as np

from tocsin.detection.detector import FleetDetector
from tocsin.detection.scoring import FleetAlarms
from tocsin.wire.records import batch_from_records

AGENTS, BASELINE, LIVE, CONTEXTS = 25, 100, 500, 10
TAKEN_OVER = range(5)


def _alarmed(seed: int, *, taken_over: float = 0.0, everybody: float = 0.0) -> set[int]:
    """Agents with an alarm, where some shift in one context of ten and everybody shifts in all of them."""
    rng = np.random.default_rng(seed)
    detector, alarms, offset = FleetDetector(), FleetAlarms(0.01, AGENTS), 0
    alarmed: set[int] = set()
    for phase, rounds in ((0, BASELINE), (1, LIVE)):
        contexts = rng.integers(0, CONTEXTS, rounds)
        values = rng.uniform(-1.7, 1.7, (rounds, AGENTS))  # flat: its median moves easily
        if phase:
            values[np.ix_(contexts == 0, list(TAKEN_OVER))] += taken_over
            values += everybody
        rows = [
            (f"agent-{i:02d}", {"measured": float(values[t, i]), "context": f"c{contexts[t]}"})
            for t in range(rounds)
            for i in range(AGENTS)
        ]
        seen = detector.observe(batch_from_records(rows, offset=offset, phases=[phase] * len(rows)))
        offset += len(rows)
        raised = alarms.update(seen.agent_index, seen.log_e)
        alarmed = {int(seen.agents[i].removeprefix("agent-")) for i in np.unique(seen.agent_index[raised])}
    return alarmed


def test_a_few_that_are_taken_over_accuse_nobody_else() -> None:
    found, false = 0, 0
    for seed in range(8):
        alarmed = _alarmed(seed, taken_over=-9.0)
        found += len(alarmed & set(TAKEN_OVER))
        false += len(alarmed - set(TAKEN_OVER))
    assert found == 8 * len(TAKEN_OVER)
    assert false <= 1  # of 160; with the median taken at its word there are more than ten


def test_what_everybody_does_alarms_nobody() -> None:
    assert [_alarmed(seed, everybody=1.0) for seed in range(4)] == [set()] * 4
