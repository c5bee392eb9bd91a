"""Timers: a dumb dictionary of deadlines is the twin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin.runtime.timers import Timers

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 50)),
        st.tuples(st.just("cancel"), st.integers(0, 2), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("due"), st.just(0), st.just(""), st.integers(0, 50)),
    ),
    max_size=40,
)


@given(STEPS)
def test_like_a_dictionary_of_deadlines(steps):
    timers = Timers()
    twin: dict[tuple[int, str], int] = {}
    for what, monitor, token, at in steps:
        if what == "set":
            timers.set(monitor, token, at)
            twin[monitor, token] = at
        elif what == "cancel":
            timers.cancel(monitor, token)
            twin.pop((monitor, token), None)
        else:
            expected = {key for key, deadline in twin.items() if deadline <= at}
            fired = timers.due(at)
            assert set(fired) == expected
            assert len(fired) == len(expected)
            assert [twin[key] for key in fired] == sorted(twin[key] for key in fired)
            for key in expected:
                del twin[key]
        assert timers.next_ns() == (min(twin.values()) if twin else None)
