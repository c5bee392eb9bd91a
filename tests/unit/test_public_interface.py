"""The three questions of the public interface, over monitors in this process."""

from __future__ import annotations

import random

import pytest

import tocsin
from tocsin.model.evidence import CLIP_Q32, Evidence

TOOLS = ("search", "read", "summarise")


def _trained(agents=6, events=60, **options):
    session = tocsin.local(**options)
    names = [f"agent-{i}" for i in range(agents)]
    for i in range(events):
        for name in names:
            session.observe(name, {"action": TOOLS[i % 3], "session": f"{name} {i // 6}", "latency_ms": 100 + i % 7})
    return session, tocsin.DistributedBehavioralAnalysis(session), names


def test_baselines_at_every_level_count_the_same_events():
    _, analysis, names = _trained()
    for level in range(4):
        baseline = analysis.establish_baseline_distributed(names, level)
        assert (baseline.level, baseline.agents, baseline.samples) == (level, 6, 360)
        (latency,) = [f for f in baseline.features if f.name == "latency_ms"]
        assert latency.count == 360
        assert latency.mean == pytest.approx(sum(100 + i % 7 for i in range(60)) / 60, rel=1e-3)
        assert baseline.actions == {"search": 120, "read": 120, "summarise": 120}


@pytest.mark.parametrize(
    ("cluster", "level", "error"),
    [
        ([], 1, tocsin.InputError),
        (["agent-0", "agent-0"], 1, tocsin.InputError),
        (["agent-0"], 4, tocsin.InputError),
        (["agent-0"], "1", tocsin.InputError),
        (["agent-0"], True, tocsin.InputError),
        (["agent-0"], 1.0, tocsin.InputError),
        (["agent-0"], None, tocsin.InputError),
        (None, 1, tocsin.InputError),
        ("a", 1, tocsin.InputError),
        ([None], 1, tocsin.InputError),
        ([["agent-0"]], 1, tocsin.InputError),
        (["stranger"], 1, tocsin.UnknownAgent),
    ],
)
def test_questions_that_make_no_sense(cluster, level, error):
    session, analysis, _ = _trained(agents=2, events=2)
    with pytest.raises(error):
        analysis.establish_baseline_distributed(cluster, level)
    with pytest.raises(error):
        session.establish(cluster, level)


@pytest.mark.parametrize(
    ("agent", "behaviour", "consensus"),
    [
        ("agent-0", None, True),
        ("agent-0", [], True),
        ("agent-0", {"x": 10**400}, True),
        ("agent-0", {"action": "\ud800"}, True),
        ("agent-0", {}, None),
        ("agent-0", {}, "yes"),
        (None, {}, True),
        (["agent-0"], {}, True),
    ],
)
def test_behaviour_that_makes_no_sense(agent, behaviour, consensus):
    session, analysis, names = _trained(agents=2, events=2)
    analysis.establish_baseline_distributed(names, 1)
    with pytest.raises(tocsin.InputError):
        analysis.detect_behavioral_deviation_distributed(agent, behaviour, consensus)
    assert session.observe("agent-0", {"latency_ms": 1}) == 4  # nothing of it was kept


@pytest.mark.parametrize("evidence", [None, 7, "x", [None], ["x"], [{}]])
def test_evidence_that_is_none(evidence):
    analysis = tocsin.DistributedBehavioralAnalysis(tocsin.local())
    with pytest.raises(tocsin.InputError):
        analysis.calculate_global_compromise_confidence(evidence)


@pytest.mark.parametrize("change", [{"monitor": "0"}, {"log_bf_q32": None}, {"agent_id": []}, {"attestation": "x"}])
def test_evidence_with_fields_of_another_type(change):
    whole = {"monitor": 0, "agent_id": "a", "first_seq": 0, "last_seq": 0, "log_e_q32": 0, "log_bf_q32": 0}
    analysis = tocsin.DistributedBehavioralAnalysis(tocsin.local())
    assert analysis.calculate_global_compromise_confidence([Evidence(**whole)]) == 0.0  # not signed
    with pytest.raises(tocsin.InputError):
        analysis.calculate_global_compromise_confidence([Evidence(**whole), Evidence(**whole | change)])


def test_a_closed_session_answers_no_more():
    session, analysis, names = _trained(agents=2, events=2)
    session.close()
    session.close()
    for question in (
        lambda: session.observe("agent-0", {"x": 1}),
        lambda: analysis.establish_baseline_distributed(names, 1),
        lambda: analysis.detect_behavioral_deviation_distributed("agent-0", {"x": 1}, True),
        session.verdicts,
    ):
        with pytest.raises(tocsin.InputError, match="closed"):
            question()


def test_a_dictionary_may_be_used_again():
    session = tocsin.local()
    event = {"action": "read", "latency_ms": 1}
    session.observe("a", event)
    event["action"] = "write"
    session.observe("a", event)
    assert session.establish(["a"], 1).actions == {"read": 1, "write": 1}


def test_evidence_comes_from_every_monitor_signed_and_agreed():
    session, analysis, names = _trained()
    analysis.establish_baseline_distributed(names, 1)
    evidence = analysis.detect_behavioral_deviation_distributed("agent-2", {"action": "read", "latency_ms": 103}, True)
    assert sorted(e.monitor for e in evidence) == [0, 1, 2, 3]
    assert {e.agent_id for e in evidence} == {"agent-2"}
    assert len({(e.log_e_q32, e.log_bf_q32) for e in evidence}) == 1
    confidence = analysis.calculate_global_compromise_confidence(evidence)
    shuffled = evidence[:]
    random.Random(1).shuffle(shuffled)
    assert analysis.calculate_global_compromise_confidence(shuffled + evidence) == confidence
    assert session.verdicts() == []


def test_an_altered_statement_counts_for_nothing():
    _, analysis, names = _trained()
    analysis.establish_baseline_distributed(names, 1)
    evidence = analysis.detect_behavioral_deviation_distributed("agent-2", {"action": "read", "latency_ms": 103}, True)
    import msgspec

    forged = [msgspec.structs.replace(e, log_bf_q32=CLIP_Q32) for e in evidence]
    prior = analysis.calculate_global_compromise_confidence([])
    assert prior == 0.0  # about nobody
    assert analysis.calculate_global_compromise_confidence(forged) == 0.0
    assert analysis.calculate_global_compromise_confidence(evidence) < 0.05


def test_without_a_quorum_the_evidence_is_local_and_the_error_carries_it():
    alone = {"cut": False}
    session, analysis, names = _trained(deliver=lambda source, to, body: not alone["cut"])
    analysis.establish_baseline_distributed(names, 1)
    alone["cut"] = True
    behaviour = {"action": "read", "latency_ms": 103}
    with pytest.raises(tocsin.QuorumUnavailable) as caught:
        analysis.detect_behavioral_deviation_distributed("agent-1", behaviour, True)
    assert [e.monitor for e in caught.value.local_evidence] == [0]
    local = analysis.detect_behavioral_deviation_distributed("agent-1", behaviour, False)
    assert [e.monitor for e in local] == [0]
    alone["cut"] = False
    agreed = analysis.detect_behavioral_deviation_distributed("agent-1", behaviour, True)
    assert sorted({e.monitor for e in agreed}) == [0, 1, 2, 3]
    session.close()


def test_one_silent_monitor_of_four_is_tolerated():
    _, analysis, names = _trained(deliver=lambda source, to, body: source != 2)
    analysis.establish_baseline_distributed(names, 1)
    evidence = analysis.detect_behavioral_deviation_distributed("agent-1", {"action": "read", "latency_ms": 103}, True)
    assert sorted(e.monitor for e in evidence) == [0, 1, 3]


def test_an_agent_must_be_known_and_learned():
    session, analysis, _ = _trained(agents=2)
    with pytest.raises(tocsin.UnknownAgent):
        analysis.detect_behavioral_deviation_distributed("stranger", {"action": "read"}, True)
    with pytest.raises(tocsin.InputError, match="baseline"):
        analysis.detect_behavioral_deviation_distributed("agent-1", {"action": "read"}, True)
    with pytest.raises(tocsin.InputError):
        session.observe("agent-1", {"latency_ms": float("nan")})


@pytest.mark.parametrize(
    "options",
    [
        {"monitors": 0},
        {"monitors": 101},
        {"monitors": "4"},
        {"monitors": True},
        {"monitors": 4.0},
        {"alpha": 0.0},
        {"alpha": 1e-9},
        {"alpha": "0.1"},
        {"alpha": float("nan")},
        {"prior": 1.0},
        {"prior": None},
        {"seed": 2**70},
        {"seed": "x"},
        {"seed": None},
        {"deliver": 1},
    ],
)
def test_sessions_that_cannot_be(options):
    with pytest.raises(tocsin.InputError):
        tocsin.local(**options)


def test_a_takeover_is_certified_and_the_certificate_verifies():
    from tocsin.consensus.certificate import verify_verdict

    session, analysis, names = _trained(agents=20, events=120)
    analysis.establish_baseline_distributed(names, 3)
    for i in range(60):
        for name in names:
            odd = name == "agent-7" and i >= 20
            action = {"action": "upload", "effect": "egress"} if odd else {"action": TOOLS[i % 3]}
            session.observe(name, {**action, "session": f"{name} live {i // 6}", "latency_ms": 100 + i % 7})
    verdicts = session.verdicts()
    assert {v.agent_id for v in verdicts if v.decision == "compromised"} == {"agent-7"}
    for verdict in verdicts:
        verify_verdict(verdict, session.roster)
