"""Verdicts against labels, and how they are shown."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tocsin.demo.display import (
    DemoState,
    LieLine,
    LineDisplay,
    LiveDisplay,
    VerdictLine,
    open_display,
    printable,
    render,
)
from tocsin.demo.score import Score, wilson_interval
from tocsin.model.verdict import PosteriorEntry, QuorumCertificate, Statement, Verdict
from tocsin.sim.fleet import AgentLabel

HOSTILE = "x\x1b[2J\r\n[bold red]ok[/]\u202etxt\x9b31m"


def label(agent: str, onset: int = -1, attack: str = "few") -> AgentLabel:
    return AgentLabel(
        agent_id=agent,
        role="r",
        compromised=onset >= 0,
        attack=attack if onset >= 0 else "",
        onset_seq=onset,
        first_malicious_seq=onset + 2 if onset >= 0 else -1,
        live_start_seq=10,
        events=100,
    )


def verdict(agent: str, seq: int, decision: str = "compromised", provisional: bool = False) -> Verdict:
    entry = PosteriorEntry(
        agent_id=agent, log_odds_q32=1, log_e_q32=1, last_seq=seq, flagged=True, alpha_ppm=10_000, fleet_size=3
    )
    statement = Statement(
        net="n", config_hash=b"", epoch=7, view=0, phase="C", prev_cert_hash=b"", cut_root=b"", posterior_root=b""
    )
    return Verdict(
        verdict_id=f"v-{agent}",
        agent_id=agent,
        decision=decision,
        confidence=0.99,
        entry=entry,
        epoch=7,
        decided_ms=0,
        certificate=QuorumCertificate(statement=statement, signatures={0: b"", 1: b"", 3: b""}),
        proof=(),
        proof_index=0,
        provisional=provisional,
        reasons=(("tool", 5), (HOSTILE, 4)),
    )


def test_first_certified_verdict_decides_relative_to_onset() -> None:
    score = Score([label("late", 20), label("early", 20), label("honest"), label("missed", 30, "single")])
    assert score.add(verdict("late", 99, provisional=True)) is None
    assert score.add(verdict("late", 99, decision="cleared")) is None
    late, early, honest, stranger = (
        score.add(verdict(a, s)) for a, s in (("late", 25), ("early", 19), ("honest", 50), ("?", 1))
    )
    assert late is not None
    assert early is not None
    assert honest is not None
    assert stranger is not None
    assert (late.correct, late.delay_events, late.attack) == (True, 3, "few")
    assert [j.correct for j in (early, honest, stranger)] == [False] * 3
    assert score.add(verdict("early", 40)) is None, "an early alarm is not made good by a later one"
    assert (score.precision.hits, score.precision.total) == (1, 4)
    assert (score.recall.hits, score.recall.total) == (1, 3)
    assert score.missed == ("early", "missed")
    assert score.median_delay_events() == 3
    assert {kind: (p.hits, p.total) for kind, p in score.recall_by_attack().items()} == {
        "few": (1, 2),
        "single": (0, 1),
    }


def test_onset_itself_counts_as_after() -> None:
    score = Score([label("a", 20)])
    judged = score.add(verdict("a", 20))
    assert judged is not None
    assert judged.correct
    assert judged.delay_events == 0


def test_nothing_yet_is_said_as_such() -> None:
    score = Score([])
    assert str(score.precision) == str(score.recall) == "none yet"
    assert score.median_delay_events() is None


def test_wilson_published_values() -> None:
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_bounds_solve_the_score_equation(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, total))
    low, high = wilson_interval(hits, total)
    assert 0.0 <= low <= hits / total <= high <= 1.0
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            z = (hits / total - bound) / math.sqrt(bound * (1 - bound) / total)
            assert abs(z) == pytest.approx(1.959963984540054, rel=1e-6)


def hostile_state() -> DemoState:
    state = DemoState(
        fleet=HOSTILE, agents=3, monitors=4, stage=HOSTILE, total_events=10, sent_events=99, analysed_events=7
    )
    state.score = Score([label(HOSTILE, 1)])
    said = verdict(HOSTILE, 5)
    state.verdicts.append(VerdictLine.of(said, 4, state.score.add(said)))
    state.lies.append(LieLine(f"monitor 3 accused {HOSTILE}", HOSTILE, 3))
    state.notes.append(HOSTILE)
    return state


def shown(state: DemoState, *, lines: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=False)
    if lines:
        LineDisplay(console).update(state)
    else:
        console.print(render(state))
    return out.getvalue()


@pytest.mark.parametrize("lines", [False, True])
def test_hostile_names_are_shown_as_text(lines: bool) -> None:
    text = shown(hostile_state(), lines=lines)
    assert not set(text) & {"\x1b", "\r", "\x9b", "\u202e"}
    assert "[bold red]ok[/]" in text


@pytest.mark.parametrize("lines", [False, True])
def test_what_matters_is_shown(lines: bool) -> None:
    text = shown(hostile_state(), lines=lines)
    assert "outvoted 3 to 1" in text
    assert "right: few" in text
    assert "epoch 7" in text
    assert ("signed by 3 of 4 monitors" if lines else "monitors 0 1 3 of 4") in text
    if not lines:
        assert "100.0 % (1/1, 95 % interval 21-100 %)" in text


def test_lines_are_printed_once() -> None:
    out = io.StringIO()
    display = LineDisplay(Console(file=out, width=200))
    state = hostile_state()
    with display:
        display.update(state)
        first = out.getvalue()
        display.update(state)
        assert out.getvalue() == first
        state.notes.append("the link to monitor 2 is cut")
        display.update(state)
    assert out.getvalue() == first + "the link to monitor 2 is cut\n"


def test_a_terminal_gets_a_panel_and_a_pipe_gets_lines() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    assert isinstance(open_display(terminal), LiveDisplay)
    assert isinstance(open_display(Console(file=io.StringIO())), LineDisplay)
    with open_display(terminal) as display:
        display.update(hostile_state())
    assert "certified verdicts" in out.getvalue()


@given(st.text(max_size=100), st.integers(1, 60))
def test_printable_is_bounded_and_printable(text: str, limit: int) -> None:
    safe = printable(text, limit)
    assert len(safe) <= limit
    assert safe.isprintable()
    if text.isprintable() and len(text) <= limit:
        assert safe == text
