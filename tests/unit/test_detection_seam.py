"""Where a baseline ends inside a session: what its rest is compared with, and requests that rows repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.calls import FEATURES
from tocsin.detection.detector import FleetDetector
from tocsin.detection.tasks import Tasks
from tocsin.wire.records import batch_from_records

STEPS = ("open", "write", "check", "send")
WORDS = st.lists(st.integers(0, 12), max_size=5)


def last_session(seam: int, *, sealed: bool) -> tuple[dict[str, float], float]:
    """Six agents do STEPS thirty times; the first one's last session is live from call `seam` on, the others' whole.

    Returns the parts of its oddest call, and its final belief. `sealed`: other agents were live before.
    """
    rows: list[tuple[str, dict[str, object]]] = []
    phases: list[int] = []
    for session in range(30):
        for agent in range(6):
            for step, action in enumerate(STEPS):
                rows.append((f"a{agent}", {"action": action, "effect": "write", "session": f"{agent} {session}"}))
                live = (session == 29 and agent > 0) or (sealed and session > 24 and agent == 5)
                phases.append(int(live or (session == 29 and step >= seam)))
    detector = FleetDetector()
    seen = detector.observe(batch_from_records(rows, offset=0, phases=phases))
    parts = {name: nats for name, nats, _ in detector._sessions.contributions(0, STEPS)}  # pyright: ignore[reportPrivateUsage]
    return parts, float(seen.log_odds[seen.agent_index == 0][-1])


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("seam", [1, 2, 3])
def test_the_first_judged_call_is_no_odder_for_the_seam(seam: int, sealed: bool) -> None:
    parts, belief = last_session(seam, sealed=sealed)
    whole, usual = last_session(0, sealed=sealed)
    for name in (FEATURES[3], FEATURES[4]):  # the previous tool, and repeats
        assert parts[name] == pytest.approx(whole[name], abs=0.05)
    assert belief == pytest.approx(usual, abs=0.1)


@given(st.lists(WORDS, min_size=1, max_size=20), st.lists(WORDS, min_size=1, max_size=40))
def test_repeated_requests_have_the_task_that_each_alone_has(learned: list[list[int]], asked: list[list[int]]) -> None:
    tasks = Tasks()
    tasks.fit(*flat(learned))
    asked = asked + asked[::-1]
    together = tasks.look_up(*flat(asked))
    assert together.tolist() == [int(tasks.look_up(*flat([one]))[0]) for one in asked]


def flat(requests: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    words = [word for request in requests for word in request]
    return np.cumsum([0, *map(len, requests)]).astype(np.int64), np.array(words, np.int32)
