"""Every order of events in a small case: nothing is certifiable twice, and broken rules are found that way too."""

from __future__ import annotations

import pytest

from tocsin.consensus.replica import Replica
from tocsin.sim.broken import Amnesia, LockIgnored, TimeoutForgotten, VotesForgotten
from tocsin.sim.explore import Explorer


@pytest.mark.parametrize("liar", [0, 1])
def test_one_view_has_no_order_of_events_in_which_two_values_are_certifiable(liar: int):
    found = Explorer(liar, 0, crashes=True).run()
    assert found.complete
    assert found.violation == ""
    assert found.states > 100
    assert found == Explorer(liar, 0, crashes=True).run()


def test_a_search_that_is_cut_short_says_so():
    assert not Explorer(0, 1).run(most_states=500).complete


def test_an_ignored_lock_is_found():
    found = Explorer(0, 1, LockIgnored).run(most_states=40_000)
    assert found.violation == "two values can be certified"
    assert not found.complete


@pytest.mark.parametrize(("kind", "last_view"), [(Amnesia, 0), (VotesForgotten, 0), (TimeoutForgotten, 1)])
def test_what_is_forgotten_in_a_crash_is_found(kind: type[Replica], last_view: int):
    found = Explorer(0, last_view, kind, crashes=True).run(most_states=5000)
    assert found.violation == "two values can be certified"


def test_nothing_is_forgotten_where_nothing_crashes():
    found = Explorer(0, 0, VotesForgotten).run()
    assert found.complete
    assert found.violation == ""
