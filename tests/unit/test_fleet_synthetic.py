"""The synthetic fleet: its labels, its determinism, and that its attacks are what they claim to be."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tocsin.errors import InputError
from tocsin.model.events import Effect
from tocsin.sim.fleet import CLEAN, HIJACKED, RESISTED, FleetSession, label_agent
from tocsin.sim.synthetic import ATTACKS, BASELINE_SESSIONS, LIVE_SESSIONS, ROLES, SyntheticFleet


def by_agent(fleet: SyntheticFleet) -> dict[str, list[FleetSession]]:
    out: dict[str, list[FleetSession]] = defaultdict(list)
    for live in (False, True):
        for sessions in fleet.rounds(live=live):
            for session in sessions:
                out[session.agent_id].append(session)
    return out


FLEET = SyntheticFleet(size=200, compromised_share=0.3, seed=9)
SESSIONS = by_agent(FLEET)
LABELS = {label.agent_id: label for label in FLEET.labels()}


def test_as_many_are_compromised_as_asked_and_by_every_attack() -> None:
    attacked = [label for label in LABELS.values() if label.compromised]
    assert len(attacked) == 60
    assert {label.attack for label in attacked} == set(ATTACKS)
    assert all(label.first_malicious_seq >= label.onset_seq >= label.live_start_seq for label in attacked)


def test_labels_are_those_of_the_sessions_sent() -> None:
    assert tuple(SESSIONS) == FLEET.agent_ids()
    for agent, sessions in SESSIONS.items():
        assert LABELS[agent] == label_agent(sessions, attack=LABELS[agent].attack)
        assert [s.number for s in sessions] == list(range(BASELINE_SESSIONS + LIVE_SESSIONS))
        assert [s.live for s in sessions] == [False] * BASELINE_SESSIONS + [True] * LIVE_SESSIONS
        malicious = {s.label for s in sessions if any(step.malicious for step in s.steps)}
        assert malicious == ({HIJACKED} if LABELS[agent].compromised else set())


def test_the_baseline_is_clean_and_resisted_attacks_are_common_later() -> None:
    assert {s.label for sessions in SESSIONS.values() for s in sessions if not s.live} == {CLEAN}
    live = [s.label for sessions in SESSIONS.values() for s in sessions if s.live]
    assert 0.05 < live.count(RESISTED) / len(live) < 0.2


def test_steps_follow_one_another_and_end_with_the_answer() -> None:
    for sessions in SESSIONS.values():
        for session in sessions:
            ends = [step.start_ns + step.duration_ns for step in session.steps]
            starts = [step.start_ns for step in session.steps]
            assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
            assert [step.is_final for step in session.steps] == [False] * (len(starts) - 1) + [True]
            assert session.steps[-1].effect == Effect.FINAL


def test_an_injection_sends_to_an_address_that_only_a_tool_output_gave() -> None:
    seen = 0
    for agent, sessions in SESSIONS.items():
        if LABELS[agent].attack != "injection":
            continue
        for session in (s for s in sessions if s.label == HIJACKED):
            (position,) = (i for i, step in enumerate(session.steps) if step.malicious)
            addresses = [v for v in session.steps[position].args.values() if str(v).startswith("https://drop-")]
            assert len(addresses) == 1
            assert addresses[0] not in session.prompt
            before = session.steps[:position]
            assert any(addresses[0] in step.output for step in before) or any(step.error for step in before)
            seen += 1
    assert seen > 20


def test_honest_and_resisting_agents_use_their_roles_tools_only() -> None:
    for agent, sessions in SESSIONS.items():
        for session in (s for s in sessions if s.label != HIJACKED):
            assert {step.tool for step in session.steps[:-1]} <= set(ROLES[session.role].tools), agent
            assert not any("https://drop-" in str(v) for step in session.steps for v in step.args.values())


def test_a_takeover_brings_foreign_tools_and_a_drift_does_not() -> None:
    foreign: dict[str, list[bool]] = defaultdict(list)
    for agent, sessions in SESSIONS.items():
        for session in (s for s in sessions if s.label == HIJACKED):
            own = set(ROLES[session.role].tools)
            foreign[LABELS[agent].attack].append(not {step.tool for step in session.steps[:-1]} <= own)
    assert sum(foreign["takeover"]) > len(foreign["takeover"]) / 3
    assert not any(foreign["drift"])


def test_a_drift_slows_down() -> None:
    ratios: list[float] = []
    for agent in (a for a, label in LABELS.items() if label.attack == "drift"):
        answers = {s.number: s.steps[-1].duration_ns for s in SESSIONS[agent]}
        learned = [answers[n] for n in range(BASELINE_SESSIONS)]
        last = [answers[n] for n in range(BASELINE_SESSIONS + LIVE_SESSIONS - 4, BASELINE_SESSIONS + LIVE_SESSIONS)]
        ratios.append(sum(last) / len(last) / (sum(learned) / len(learned)))
    assert len(ratios) > 3
    assert sum(ratios) / len(ratios) > 1.4


def test_equal_seeds_give_equal_fleets_in_any_order() -> None:
    again = SyntheticFleet(size=200, compromised_share=0.3, seed=9)
    for index in (150, 3, 77):
        for number in (30, 2):
            assert again.session(index, number) == FLEET.session(index, number)
    assert SyntheticFleet(size=200, compromised_share=0.3, seed=10).session(3, 2) != FLEET.session(3, 2)


def test_no_fleet_is_refused() -> None:
    for size, share in ((0, 0.1), (-3, 0.1), (10, -0.1), (10, 1.1)):
        with pytest.raises(InputError):
            SyntheticFleet(size=size, compromised_share=share)
