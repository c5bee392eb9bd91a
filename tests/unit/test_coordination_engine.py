"""A hidden group in a fleet, from events to certified verdicts; restarts; liars; rounds beside the stream of events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tocsin.aggregation.activity import ActivityWindows, Pace, Snapshot
from tocsin.aggregation.rounds import Rounds
from tocsin.consensus.certificate import COMPROMISED
from tocsin.model.coordination import Bond, Findings
from tocsin.monitor.inputs import Observed, Screened
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.journal import Journal
from tocsin.runtime.screener import Screener
from tocsin.sim.rhythms import RhythmFleet
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.records import batch_from_records

SIGNERS = deterministic_signers(b"rhythms", 4)
ROSTER = roster_of("rhythms", SIGNERS)
LENGTH, EVERY = 128, 128


def fleet(group: int, seed: int) -> RhythmFleet:
    windows = 2 * LENGTH + 4
    return RhythmFleet(
        size=160, group=group, windows=windows, turns=LENGTH, live_from=LENGTH, window_ns=10**9, pace=3.5, seed=seed
    )


def engine(*, background: bool = False, records: Journal | None = None) -> Engine:
    pace = Pace(window_ns=10**9, length=LENGTH, every=EVERY)
    return Engine(ROSTER, SIGNERS, VirtualClock(), pace=pace, background=background, records=records)


def run(one: Engine, batches) -> Engine:
    waiting = list(batches)
    for k in range(0, len(waiting), 8):
        one.feed([Observed(batch) for batch in waiting[k : k + 8]])
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


def test_an_explanation_names_the_group(watched):
    one, hidden = watched
    member = min(v.agent_id for v in one.verdicts.values())
    told = one.witness.explain(member)
    assert told.why.startswith("It moves with a group of ")
    assert "correlation 0." in told.why
    assert one.screened is not None
    proven = {bond.agent_id: bond.certified for bond in one.screened.findings.bonds if bond.certified}
    for bond in one.screened.findings.bonds:
        known = one.screened.maps[bond.series]
        i, j = (known.agents.index(name) for name in (bond.agent_id, bond.partner))
        assert bond.certified in (None, known.pair(i, j))
    assert len(proven) >= 2
    assert any(" certified) with" in one.witness.explain(agent).why for agent in proven)
    named = told.why.partition("members: ")[2].rstrip(".").split(", ")
    assert set(named) <= hidden.members - {member}
    assert len(named) >= 5


def test_status_counts_the_rounds(watched):
    one, hidden = watched
    told = one.status()["coordination"]
    assert (told["rounds"], told["agents_screened"], told["late_events"]) == (2, 160, 0)
    assert 6 <= told["agents_in_groups"] <= len(hidden.members)
    assert not [reason for reason in one.refused if "statement" in reason or "factors" in reason]


def found(*agents: str) -> Screened:
    bonds = tuple(
        Bond(agent_id=a, log_e=30.0, log_bf=34.0, series="activity", partner="b", rho=0.8, lag=0, members=agents,
             size=len(agents))
        for a in agents
    )  # fmt: skip
    return Screened(Findings(number=4, agents=20, bonds=bonds))


@pytest.mark.parametrize("lost", [False, True])
def test_a_restart_states_a_round_once(tmp_path: Path, lost: bool):
    """Killed after the round was stated, or before: either way it is stated exactly once."""
    rows = [(f"agent-{k}", {"action": "read", "t": 1000 + k}) for k in range(20)]
    batch = batch_from_records(rows, offset=0, phases=[0] * len(rows))
    lengths = []
    for life in range(2):
        journal = Journal(tmp_path / "journal.db")
        one = engine(records=journal)
        one.recover(journal)
        one.feed([Observed(batch)])
        if not lost or life:
            one.cluster.feed([found("agent-3", "agent-7")])
        one.start()
        one.cluster.settle()
        lengths.append(one.chain_lengths())
        journal.close()
    assert lengths == ([[0] * 4, [1] * 4] if lost else [[1] * 4, [1] * 4])
    assert {name for name, entry in one.entries.items() if entry.flagged} == {"agent-3", "agent-7"}


def test_a_lying_monitor_that_alleges_a_group_convinces_nobody():
    one = engine()
    one.start()
    rows = [(f"agent-{k}", {"action": "read", "t": 1000 + k}) for k in range(20)]
    one.feed([Observed(batch_from_records(rows, offset=0, phases=[0] * len(rows)))])
    one.cluster._round([(2, found("agent-3", "agent-7"))])
    one.cluster.settle()
    assert one.stated_about("agent-3")[0]["log_e_nats"] > 20
    assert not one.verdicts
    assert not any(entry.flagged for entry in one.entries.values())


def test_rounds_in_the_background_say_what_rounds_at_once_say():
    rng = np.random.default_rng(4)
    flags = np.ones(100, np.bool_)
    regions = [f"r{k // 20}" for k in range(100)]
    names = tuple(f"a{k}" for k in range(100))
    series = rng.normal(size=(3, 3, 100, LENGTH)).astype(np.float32)
    series[1:, 0, ::25] += 3 * rng.normal(size=LENGTH)
    told = []
    for background in (False, True):
        screener = Screener(Rounds(LENGTH, b"s"), background=background)
        for number in (1, 2, 3):
            one = Snapshot(number, number, np.arange(100), names, series[number - 1], flags, ~flags)
            screener.submit(one, regions, dict.fromkeys(regions, "z"))
        screener.join()
        told.append([(o.findings, o.bytes_sent) for o in screener.outcomes()])
    assert told[0] == told[1]
    assert [len(findings.bonds) for findings, _ in told[0]] == [0, 4, 4]
    assert screener.outcomes() == []


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_series_that_is_no_number_keeps_nobody_from_being_screened(broken: float):
    flags = np.ones(50, np.bool_)
    names = tuple(f"a{k}" for k in range(50))
    regions = [f"r{k // 25}" for k in range(50)]
    series = np.random.default_rng(1).normal(size=(3, 50, LENGTH)).astype(np.float32)
    series[0, 7, 3] = broken
    one = Snapshot(1, 1, np.arange(50), names, series, flags, ~flags)
    outcome = Rounds(LENGTH, b"s").screen(one, regions, {"r0": "z", "r1": "z"})
    assert outcome.refused == {"series that is no number": 1}
    assert set(outcome.maps) == {"activity", "side effects", "measurements"}


def test_measurements_that_overflow_say_nothing():
    rows = [(f"a{k}", {"x": 1.0, "t": float(t)}) for t in range(80) for k in range(30)]
    batch = batch_from_records(rows, offset=0, phases=[0] * len(rows))
    batch.values[::30] = np.where(np.arange(80) % 2, 1.7e308, -1.7e308)[:, None]
    (first, *_) = ActivityWindows(Pace(window_ns=10**9, length=64, every=64)).observe(batch)
    assert np.isfinite(first.series).all()


def _one_round(names: tuple[str, ...], regions: list[str]) -> Screener:
    screener = Screener(Rounds(LENGTH, b"s"), background=True)
    flags = np.ones(50, np.bool_)
    series = np.random.default_rng(1).normal(size=(3, 50, LENGTH)).astype(np.float32)
    screener.submit(Snapshot(1, 1, np.arange(50), names, series, flags, ~flags), regions, {"r": "z"})
    screener.join()
    return screener


def test_a_round_that_agents_spoil_is_counted_and_stops_nothing():
    (outcome,) = _one_round(("a",) * 50, ["r"] * 50).outcomes()
    assert outcome.refused == {"round of screening failed": 1}
    assert (outcome.findings.number, outcome.findings.agents, outcome.findings.bonds) == (1, 50, ())


def test_a_round_that_fails_for_want_of_our_care_is_raised_where_it_is_asked_for():
    screener = _one_round(tuple(f"a{i}" for i in range(50)), ["no such region"] * 50)
    with pytest.raises(KeyError):
        screener.outcomes()


def test_who_echoes_innocents_is_accused_and_they_are_not():
    echoes = {k: k + 41 for k in range(3)}
    watched = RhythmFleet(
        size=160,
        group=0,
        windows=2 * LENGTH + 4,
        turns=LENGTH,
        live_from=LENGTH,
        window_ns=10**9,
        seed=3,
        echoes=echoes,
    )
    one = engine()
    one.start()
    run(one, watched.batches())
    names = watched.agent_ids()
    liars, innocent = ({names[k] for k in some} for some in (echoes, echoes.values()))
    bonds = {bond.agent_id: bond.log_e for bond in one.screened.findings.bonds}
    assert bonds.keys() == liars | innocent
    assert all(bonds[name] > 10.0 for name in liars)
    assert all(bonds[name] <= 0.0 for name in innocent)
    assert {v.agent_id for v in one.verdicts.values() if v.decision == COMPROMISED} <= liars
