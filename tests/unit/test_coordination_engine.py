"""A hidden group in a fleet, from events to certified verdicts; a fleet without one; a restart in between."""

from __future__ import annotations

import pytest

from tocsin.aggregation.activity import Pace
from tocsin.consensus.certificate import COMPROMISED
from tocsin.monitor.inputs import Observed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.journal import Journal
from tocsin.sim.rhythms import RhythmFleet
from tocsin.trust.keyring import deterministic_signers, roster_of

SIGNERS = deterministic_signers(b"rhythms", 4)
ROSTER = roster_of("rhythms", SIGNERS)
LENGTH, EVERY = 128, 64


def fleet(group: int, seed: int) -> RhythmFleet:
    windows = 2 * LENGTH + 4
    return RhythmFleet(
        size=160, group=group, windows=windows, turns=LENGTH, live_from=LENGTH, window_ns=10**9, pace=5.0, seed=seed
    )


def engine(*, background: bool = False, records: Journal | None = None) -> Engine:
    pace = Pace(window_ns=10**9, length=LENGTH, every=EVERY)
    return Engine(ROSTER, SIGNERS, VirtualClock(), pace=pace, background=background, records=records)


def run(one: Engine, batches) -> Engine:
    for batch in batches:
        one.clock.advance_to(int(batch.t_ns.max()))
        one.feed([Observed(batch)])
    one._screener.join()
    one.tick()
    one.cluster.settle()
    return one


@pytest.fixture(scope="module")
def watched() -> tuple[Engine, RhythmFleet]:
    hidden = fleet(8, seed=3)
    one = engine()
    one.start()
    return run(one, hidden.batches()), hidden


def test_members_get_certified_verdicts_and_nobody_else_does(watched):
    one, hidden = watched
    accused = {v.agent_id for v in one.verdicts.values() if v.decision == COMPROMISED}
    assert accused <= hidden.members
    assert len(accused) >= 6
    for verdict in one.verdicts.values():
        assert len(verdict.certificate.signatures) >= ROSTER.quorum
        assert verdict.reasons[0][0] == "coordination"
