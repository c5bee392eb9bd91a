"""What `tocsin up` tells before its first verdict: each thing once, and in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin.cli.milestones import Milestones


def status(agents: int = 0, learning: int = 0, spans: int = 0, waiting: int = 0, backlog: int = 0) -> dict[str, object]:
    received = {"spans": spans, "waiting": waiting}
    return {"agents": agents, "agents_learning": learning, "backlog_events": backlog, "received": received}


def test_from_the_first_span_to_the_last_agent_learned() -> None:
    told = Milestones(50)
    assert told.news(status()) == []
    assert told.news(status(spans=3)) == []
    (line,) = told.news(status(spans=3))
    assert line.startswith("3 spans arrived, none of an agent so far")
    assert told.news(status(spans=4)) == []
    assert told.news(status(1, 1, 5)) == ["first events, of 1 agent: each is judged after 50 events"]
    assert told.news(status(8, 7, 90)) == []
    assert told.news(status(8, 6, 95)) == ["2 of 8 agents judged now, 6 still learning"]
    assert told.news(status(8, 5, 96)) == []
    assert told.news(status(8, 0, 200)) == ["8 of 8 agents judged now"]
    assert told.news(status(8, 0, 300)) == []
    assert told.news(status(9, 1, 310)) == []
    assert told.news(status(9, 0, 390)) == ["9 of 9 agents judged now"]


def test_spans_on_their_way_are_not_called_spans_of_nobody() -> None:
    told = Milestones(50)
    for waiting, backlog in ((0, 0), (7, 0), (0, 0), (0, 7), (0, 0)):  # never twice in a row without anything to come
        assert told.news(status(spans=789, waiting=waiting, backlog=backlog)) == []
    assert told.news(status(6, 6, 789)) == ["first events, of 6 agents: each is judged after 50 events"]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_it_never_chatters(steps: list[tuple[int, int]]) -> None:
    told = Milestones(10)
    before = 0.0
    for agents, learning in steps:
        learning = min(agents, learning)
        lines = [line for line in told.news(status(agents, learning, agents)) if "judged now" in line]
        share = 1 - learning / agents if agents else before
        assert len(lines) <= 1
        assert not lines or share > before
        before = share
