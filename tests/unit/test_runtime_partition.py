"""A running fleet whose monitors cannot reach each other shows what it believes, marked, and certifies it later."""

from __future__ import annotations

import msgspec

from tocsin.consensus.certificate import verify_verdict
from tocsin.monitor.inputs import Flush, Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.memory_bus import MemoryBus
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.records import batch_from_records

SIGNERS = deterministic_signers(b"partition", 4)
ROSTER = msgspec.structs.replace(roster_of("partition", SIGNERS), alpha_ppm=50_000)  # two of four are enough to flag
AGENTS, BASELINE, LIVE, PER_BATCH = 12, 90, 40, 120


def rows(first: int, last: int) -> list[tuple[str, dict[str, object]]]:
    """Each agent's habit; agent 5 uploads once it is live."""
    out: list[tuple[str, dict[str, object]]] = []
    for i in range(first, last):
        for a in range(AGENTS):
            odd = a == 5 and i >= BASELINE
            action = {"action": "upload", "effect": "egress"} if odd else {"action": ("search", "read", "tell")[i % 3]}
            out.append((f"agent-{a}", {**action, "session": f"{a} {i // 6}", "t": i}))
    return out


def test_a_partition_is_shown_and_what_it_held_up_is_certified_after_it() -> None:
    cut = False
    bus = MemoryBus(4, lambda source, target, _: not cut or (source < 2) == (target < 2))
    engine = Engine(ROSTER, SIGNERS, VirtualClock(), bus=bus)
    engine.start()
    early, late = rows(0, BASELINE), rows(BASELINE, BASELINE + LIVE)
    for start in range(0, len(early), PER_BATCH):
        part = early[start : start + PER_BATCH]
        engine.feed([Observed(batch_from_records(part, offset=start, phases=[0] * len(part)))])
    engine.feed([Sealed(None, len(early))])
    engine.cluster.settle(5_000_000_000)
    assert engine.status()["certifying"]
    cut = True
    for start in range(0, len(late), PER_BATCH):
        part = late[start : start + PER_BATCH]
        batch = batch_from_records(part, offset=len(early) + start, phases=[1] * len(part))
        engine.feed([Observed(batch), Flush(len(early) + start + len(part))])
    engine.cluster.settle(10_000_000_000)
    status = engine.status()
    assert not status["certifying"]
    assert status["provisional"] == [{"agent_id": "agent-5", "decision": "compromised"}]
    assert [verdict.provisional for verdict in engine.provisional] == [True]
    assert status["verdicts"] == 0
    cut = False
    engine.cluster.settle(200_000_000_000)
    status = engine.status()
    assert (status["certifying"], status["provisional"]) == (True, [])
    (verdict,) = engine.verdicts.values()
    assert (verdict.agent_id, verdict.decision, verdict.provisional) == ("agent-5", "compromised", False)
    verify_verdict(verdict, ROSTER)
