"""R6.1: what people say about alarms is kept, and the share of false alarms made of it is what it says it is."""

from __future__ import annotations

import importlib.util
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, UnknownAgent
from tocsin.model.verdict import Roster
from tocsin.monitor.inputs import Observed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.feedback import MAX_NOTE, take_feedback
from tocsin.runtime.quality import false_share, known_power, quality
from tocsin.runtime.store import SAID_ABOUT_ONE, Store
from tocsin.stats.intervals import spotless_trials, wilson_interval
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire.records import batch_from_records


@pytest.fixture
def engine() -> Engine:
    signers = deterministic_signers(b"quality", 1)
    roster = Roster(net="test", keys=tuple(s.public_key for s in signers), alpha_ppm=10_000, prior_ppm=10_000)
    made = Engine(roster, signers, VirtualClock())
    made.start()
    rows = [(name, {"action": "read"}) for name in ("alarmed", "quiet")]
    made.feed([Observed(batch_from_records(rows, offset=0, phases=[0, 0]))])
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store.db")
    made.add_verdict("v1", "alarmed", 1, "compromised", 1000, b"{}")
    made.add_verdict("v2", "alarmed", 2, "cleared", 2000, b"{}")
    return made


def test_feedback_is_about_the_latest_alarm_and_the_last_word_counts(engine: Engine, store: Store) -> None:
    assert take_feedback(engine, store, "alarmed", "confirmed")["verdict_id"] == "v1"
    store.add_verdict("v3", "alarmed", 3, "compromised", 3000, b"{}")
    assert take_feedback(engine, store, "alarmed", "confirmed")["verdict_id"] == "v3"
    take_feedback(engine, store, "alarmed", "benign", "a new task, see ticket 7")
    shares = quality(store, engine.roster)["false_share"]
    assert (shares["alarms"], shares["right"], shares["false"]) == (2, 1, 1)
    assert [said["outcome"] for said in store.feedback("alarmed")] == ["benign", "confirmed", "confirmed"]


def test_whoever_goes_on_talking_fills_nothing_and_the_last_word_counts(engine: Engine, store: Store) -> None:
    for turn in range(SAID_ABOUT_ONE + 5):
        take_feedback(engine, store, "alarmed", "confirmed" if turn % 2 else "benign", f"word {turn}")
    take_feedback(engine, store, "quiet", "confirmed")
    kept = store.feedback("alarmed")
    assert [said["note"] for said in kept] == [f"word {SAID_ABOUT_ONE + 4 - k}" for k in range(SAID_ABOUT_ONE)]
    assert store.last_word("alarmed", "v1") == "benign"
    assert (store.last_word("alarmed", "v2"), store.last_word("quiet", "")) == ("", "confirmed")


@given(said=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "v1", "v2", "v3"]), st.booleans())))
def test_counts_of_labels_are_those_of_a_dumb_twin(said: list[tuple[str, str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store.db")
        for name, decision in (("v1", "compromised"), ("v2", "cleared"), ("v3", "compromised")):
            store.add_verdict(name, "a", 1, decision, 1000, b"{}")
        last: dict[tuple[str, str], str] = {}
        for agent, verdict, good in said:
            last[agent, verdict] = "confirmed" if good else "benign"
            store.add_feedback(agent, verdict, last[agent, verdict], "", 1)
        on_alarms = Counter(outcome for (_, verdict), outcome in last.items() if verdict in ("v1", "v3"))
        on_none = Counter(outcome for (_, verdict), outcome in last.items() if not verdict)
        assert store.labels("compromised") == (2, on_alarms, on_none)
        store.close()


def test_a_compromise_without_an_alarm_counts_as_missed_and_not_as_an_alarm(engine: Engine, store: Store) -> None:
    take_feedback(engine, store, "quiet", "confirmed")
    told = quality(store, engine.roster)
    assert (told["missed"], told["false_share"]["labelled"]) == (1, 0)


@pytest.mark.parametrize(
    ("agent", "outcome", "note", "error"),
    [
        ("quiet", "benign", "", InputError),  # no alarm to be benign
        ("alarmed", "maybe", "", InputError),
        ("alarmed", "benign", "x" * (MAX_NOTE + 1), InputError),
        ("alarmed", "benign", "\ud800", InputError),
        ("nobody", "confirmed", "", UnknownAgent),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    engine: Engine, store: Store, agent: str, outcome: str, note: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        take_feedback(engine, store, agent, outcome, note)
    assert store.feedback() == []


def test_feedback_moves_nothing_that_monitors_agreed_on(engine: Engine, store: Store) -> None:
    before = (engine.status(), dict(engine.entries), store.verdicts())
    take_feedback(engine, store, "alarmed", "benign")
    assert (engine.status(), dict(engine.entries), store.verdicts()) == before


def test_a_store_from_before_feedback_opens_and_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    Store(path).close()
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE feedback")
    old.close()
    opened = Store(path)
    opened.add_feedback("a", "", "confirmed", "", 5)
    opened.close()
    again = Store(path)
    assert [said["agent_id"] for said in again.feedback()] == ["a"]
    again.close()


counts = st.integers(0, 400)


@given(counts, counts, counts, st.sampled_from([0.001, 0.01, 0.2]))
def test_the_true_share_over_all_alarms_lies_between_the_two_ends(b: int, c: int, rest: int, target: float) -> None:
    told = false_share(b + c + rest, b, c, target)
    if b + c == 0:
        assert told["realised"] is None
        assert told["interval"] == [0.0, 1.0]
        return
    low, high = told["interval"]
    assert low <= told["realised"] <= high
    for false_among_rest in {0, rest // 2, rest}:
        share = (b + false_among_rest) / (b + c + rest)
        assert told["if_rest_right"] <= share <= told["if_rest_false"]


def test_a_judgement_needs_as_many_labels_as_it_says() -> None:
    enough = spotless_trials(0.01)
    assert wilson_interval(0, enough)[1] <= 0.01 < wilson_interval(0, enough - 1)[1]
    assert f"{enough} labelled alarms" in false_share(1000, 0, enough - 1, 0.01)["judgement"]
    assert "within the target" in false_share(1000, 0, enough, 0.01)["judgement"]
    assert "more of the labelled alarms are false" in false_share(50, 5, 45, 0.01)["judgement"]
    assert "not known" in false_share(50, 0, 0, 0.01)["judgement"]


def test_the_measured_power_that_is_shown_is_what_the_benchmark_measured(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("known_power", repository / "tools" / "known_power.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--check"]) == 0, "out of date: run python tools/known_power.py"
    assert all(row["interval"][0] <= row["found"] / row["total"] <= row["interval"][1] for row in known_power()["rows"])
