"""What `tocsin agents`, `explain` and the lines of `up` say of an agent: the decision first, and what to ask next."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tocsin.cli import look
from tocsin.cli.out import safe
from tocsin.cli.replay import _say_unconfirmed
from tocsin.cli.up import verdict_line
from tocsin.model.evidence import Q32
from tocsin.model.verdict import PosteriorEntry, QuorumCertificate, Statement, Verdict
from tocsin.monitor.inputs import Observed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.pictures import agent_rows, explanation, fleet_picture
from tocsin.runtime.store import Store
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.records import batch_from_records


@pytest.fixture
def engine() -> Engine:
    signers = deterministic_signers(b"look", 1)
    made = Engine(roster_of("test", signers), signers, VirtualClock())
    made.start()
    rows = [(name, {"action": "read"}) for name in ("a", "b", "c", "d")]
    made.feed([Observed(batch_from_records(rows, offset=0, phases=[0] * 4))])
    return made


def entry(name: str, *, log_e: float, log_odds: float, flagged: bool = False) -> PosteriorEntry:
    return PosteriorEntry(
        agent_id=name, log_odds_q32=round(log_odds * Q32), log_e_q32=round(log_e * Q32), last_seq=1, flagged=flagged,
        alpha_ppm=10_000, fleet_size=4,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store.db")
    made.add_verdict("v1", "a", 1, "compromised", 1000, b"{}")
    made.add_verdict("v2", "a", 2, "cleared", 2000, b"{}")
    made.add_verdict("v3", "b", 3, "compromised", 3000, b"{}")
    made.add_feedback("b", "v0", "benign", "of an alarm before", 3500)
    made.add_feedback("a", "v1", "benign", "", 4000)
    made.add_feedback("c", "", "confirmed", "", 4000)
    return made


def test_agents_are_ordered_by_what_decides_and_show_clearings_and_words(engine: Engine, store: Store) -> None:
    known = engine.entries
    known["a"] = entry("a", log_e=3, log_odds=-4)
    known["b"] = entry("b", log_e=6, log_odds=-3, flagged=True)
    known["c"] = entry("c", log_e=1, log_odds=5)
    rows = agent_rows(engine, store)
    assert [row["agent_id"] for row in rows] == ["b", "a", "c", "d"]
    said = {row["agent_id"]: look._standing(row) for row in rows}
    assert said == {"a": "cleared; people say: benign", "b": "compromised", "c": "people say: confirmed", "d": ""}
    picture = fleet_picture(engine, store, {"d": 1})
    assert look._standing(picture["agents"][3]) == "learning, 1 event to go"


def test_an_explanation_says_the_decision_first_and_nothing_of_who_is_being_learned(
    engine: Engine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.entries["b"] = entry("b", log_e=6, log_odds=-3, flagged=True)
    look._print_explanation("b", explanation(engine, store, "b"))
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "b: certified as compromised (log e 6.0; alone an agent needs 6.0)"
    assert "belief now: 4.74 % as agreed, 1.00 % by one monitor's latest sight" in others
    assert any(line.startswith("Log e decides") for line in others)
    look._print_explanation("d", {**explanation(engine, store, "d"), "learning_events_left": 51})
    told = capsys.readouterr().out
    assert told.startswith("d: still being learned, 51 events to go; nothing is judged yet\n\n")
    assert "not flagged" not in told
    assert "would change" not in told


def test_an_agent_alone_has_no_peers_that_stand_out() -> None:
    signers = deterministic_signers(b"look", 1)
    engine = Engine(roster_of("test", signers), signers, VirtualClock())
    engine.start()
    engine.feed([Observed(batch_from_records([("a", {"latency_ms": 3.0})], offset=0, phases=[0]))])
    assert engine.witness.explain("a").peers == "no other agents."


@pytest.mark.parametrize("url", [None, "http://there:1"])
def test_the_certificate_of_a_verdict_is_named(tmp_path: Path, url: str | None, capsys: Any) -> None:
    verdict = {"epoch": 3, "verdict_id": "v3"}
    look._print_certificate(verdict, tmp_path, url)
    if url:
        assert capsys.readouterr().out == "its certificate: http://there:1/api/v1/verdicts/v3/certificate\n"
        return
    assert capsys.readouterr().out == ""  # there is none to name
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "000003-v3.cert.json").write_bytes(b"{}")
    look._print_certificate(verdict, tmp_path, url)
    file = f"{tmp_path}/certificates/000003-v3.cert.json"
    assert capsys.readouterr().out == f"next: tocsin verify {file} --roster {tmp_path}\n"


def test_a_verdict_says_what_decided_and_ends_in_the_next_command() -> None:
    statement = Statement(
        net="n", config_hash=b"", epoch=3, view=0, phase="C", prev_cert_hash=b"", cut_root=b"", posterior_root=b""
    )
    verdict = Verdict(
        verdict_id="v", agent_id="a b", decision="compromised", confidence=0.031, epoch=3, decided_ms=0, proof=(),
        proof_index=0, entry=entry("a b", log_e=6.5, log_odds=-3, flagged=True),
        certificate=QuorumCertificate(statement=statement, signatures={2: b"", 0: b"", 1: b""}),
    )  # fmt: skip
    assert verdict_line(verdict, Path("d e")) == (
        "verdict: a b compromised (log e 6.5; alone an agent needs 6.0; belief now 3.10 %; epoch 3, signed by monitors "
        "0, 1, 2); next: tocsin explain --data 'd e' -- 'a b'"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_gets_less_than_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert safe("x" * 50 + "\n", 10) == "x" * 50 + r"\n"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert safe("x" * 50 + "\n", 10) == "x" * 9 + "…"


def test_alarms_without_a_verdict_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _say_unconfirmed({"a1": 3, "a2": 25}, {"a1"})
    assert capsys.readouterr().out == "1 agent had alarms that no verdict confirmed: a2, 25 events\n"
    _say_unconfirmed({"a1": 3}, {"a1"})
    assert capsys.readouterr().out == ""
