"""Fleets composed of runs: the counts that the data's description promises."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tocsin.demo.agentdojo import Run, ToolCall
from tocsin.demo.compose import DojoFleet
from tocsin.errors import InputError
from tocsin.sim.fleet import CLEAN, HIJACKED, RESISTED, FleetSession, label_agent


def runs(per_label: int = 60) -> list[Run]:
    """Two pipelines in two suites; texts name the run, so that a run used twice shows."""
    out: list[Run] = []
    for pipeline in ("p", "q"):
        for suite, tasks in (("banking", 16), ("slack", 21)):
            out.extend(run(pipeline, suite, task, "clean", 0) for task in range(tasks))
            for label in ("resisted", "hijacked", "never-exposed"):
                out.extend(run(pipeline, suite, number % tasks, label, number) for number in range(per_label))
    return out


def run(pipeline: str, suite: str, task: int, label: str, number: int) -> Run:
    directed = label == "hijacked" and number % 5 > 0
    calls = [
        ToolCall("read_file", {"n": number}, "text"),
        ToolCall("send_money", {"n": number}, "ok", directed=directed),
    ]
    attack = "" if label == "clean" else f"attack{number}"
    prompt = f"{pipeline} {suite} {task} {label} {number}"
    return Run(pipeline, suite, f"user_task_{task}", attack, attack, prompt, calls, "done", 2.0, directed, 0, label)


def by_agent(fleet: DojoFleet) -> dict[str, list[FleetSession]]:
    out: dict[str, list[FleetSession]] = {agent: [] for agent in fleet.agent_ids()}
    for live in (False, True):
        for sessions in fleet.rounds(live=live):
            for session in sessions:
                out[session.agent_id].append(session)
    return out


def test_an_agent_is_composed_as_described() -> None:
    fleet = DojoFleet(runs(), size=20, compromised_share=0.2, seed=5)
    labels = {label.agent_id: label for label in fleet.labels()}
    assert sum(label.compromised for label in labels.values()) == 4
    for agent, sessions in by_agent(fleet).items():
        tasks = {"banking": 16, "slack": 21}[sessions[0].role]
        baseline = Counter(s.label for s in sessions if not s.live)
        live = Counter(s.label for s in sessions if s.live)
        assert baseline == {CLEAN: round(tasks * 0.65) + 1, RESISTED: 1}
        assert live[RESISTED] + live[HIJACKED] == 6
        assert live[CLEAN] == tasks - round(tasks * 0.65) + 1
        allowed = {"": {0}, "single": {1}, "few": {2, 3}, "burst": {4, 5, 6}}[labels[agent].attack]
        assert live[HIJACKED] in allowed
        clean = [s.prompt for s in sessions if s.prompt.split()[3] == "clean"]
        assert len(clean) == len(set(clean)) == tasks


def test_attacked_runs_are_used_once_in_a_fleet() -> None:
    fleet = DojoFleet(runs(), size=20, compromised_share=0.2, seed=6)
    prompts = [s.prompt for sessions in by_agent(fleet).values() for s in sessions if s.prompt.split()[3] != "clean"]
    assert len(prompts) == len(set(prompts)) > 20 * 7


def test_labels_agree_with_the_sessions_sent() -> None:
    fleet = DojoFleet(runs(), size=20, compromised_share=0.3, seed=7)
    sessions = by_agent(fleet)
    for label in fleet.labels():
        mine = sessions[label.agent_id]
        assert [s.number for s in mine] == list(range(len(mine)))
        assert label == label_agent(mine, attack=label.attack)
        malicious = [step.malicious for s in mine for step in s.steps]
        assert any(malicious) == label.compromised
        if label.compromised:
            assert malicious.index(True) == label.first_malicious_seq >= label.onset_seq >= label.live_start_seq


def test_a_hijack_without_a_directed_call_is_in_the_answer() -> None:
    fleet = DojoFleet(runs(), size=20, compromised_share=0.3, seed=7)
    hijacked = [s for sessions in by_agent(fleet).values() for s in sessions if s.label == HIJACKED]
    in_text = [s for s in hijacked if int(s.prompt.split()[4]) % 5 == 0]
    assert in_text
    assert all([step.malicious for step in s.steps] == [False, False, True] for s in in_text)


def test_time_moves_forward_for_every_agent_and_baselines_end_together() -> None:
    fleet = DojoFleet(runs(), size=20, seed=8)
    sessions = by_agent(fleet)
    for mine in sessions.values():
        assert all(a.start_ns + a.steps[-1].start_ns < b.start_ns for a, b in pairwise(mine))
    last_baseline = max(s.start_ns for mine in sessions.values() for s in mine if not s.live)
    first_live = min(s.start_ns for mine in sessions.values() for s in mine if s.live)
    assert last_baseline < first_live


def test_equal_seeds_give_equal_fleets() -> None:
    again = [by_agent(DojoFleet(runs(), size=12, seed=seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_a_fleet_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match="suffice"):
        DojoFleet(runs(per_label=10), size=500)
    for size, share in ((0, 0.1), (5, 1.5)):
        with pytest.raises(InputError):
            DojoFleet(runs(), size=size, compromised_share=share)
