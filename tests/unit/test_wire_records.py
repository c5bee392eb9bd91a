"""Dictionaries become columns, or a sentence that says why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError
from tocsin.model.events import Effect, Kind
from tocsin.wire.records import batch_from_records, hash64


def test_columns_follow_the_records():
    records = [
        ("a", {"action": "send_mail", "effect": "egress", "session": "s1", "latency_ms": 3, "t": 5.5}),
        ("b", {"cpu": 0.5, "context": "night"}),
        ("a", {"action": "send_mail", "session": "s1", "latency_ms": None, "ok": True, "group": "clerk"}),
    ]
    batch = batch_from_records(records, offset=7, phases=[0, 1, 0])
    assert batch.offset == 7
    assert [batch.agents[i] for i in batch.agent] == ["a", "b", "a"]
    assert [batch.actions[i] if i >= 0 else None for i in batch.action] == ["send_mail", None, "send_mail"]
    assert batch.kind.tolist() == [Kind.CALL, Kind.METRIC, Kind.CALL]
    assert batch.effect.tolist() == [Effect.EGRESS, Effect.UNKNOWN, Effect.UNKNOWN]
    assert batch.phase.tolist() == [0, 1, 0]
    assert batch.t_ns.tolist() == [5_500_000_000, 8_000_000_000, 9_000_000_000]
    assert batch.session[0] == batch.session[2] != batch.session[1]
    assert [batch.contexts[i] for i in batch.context] == ["", "night", ""]
    assert [batch.groups[i] for i in batch.group] == ["", "", "clerk"]
    by_name = {name: batch.values[:, i] for i, name in enumerate(batch.feature_names)}
    np.testing.assert_array_equal(by_name["latency_ms"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(by_name["ok"], [np.nan, np.nan, 1])


@pytest.mark.parametrize(
    ("agent", "record", "says"),
    [
        ("", {}, "agent_id"),
        ("x" * 257, {}, "agent_id"),
        ("a", {"action": 3}, "action"),
        ("a", {"effect": "explode"}, "explode"),
        ("a", {"kind": "nap"}, "nap"),
        ("a", {"cpu": float("inf")}, "cpu"),
        ("a", {"cpu": float("nan")}, "cpu"),
        ("a", {"cpu": "much"}, "cpu"),
        ("a", {"t": "noon"}, "t must"),
        ("a", {"y" * 300: 1}, "feature name"),
        ("a", {"kind": ["call"]}, "kind"),
        ("a", {"t": 1e300}, "t"),
        ("a", {"t_ns": 2**70}, "no key 't_ns'"),
        ("a", None, "mapping"),
        ("a", [], "mapping"),
        (None, {}, "agent_id"),
        ("a", {7: 1}, "feature name"),
        ("a", {"cpu": 10**400}, "cpu"),
        ("a", {"cpu": 10**5000}, "type int"),
        ("a", {"t": 10**400}, "t must"),
        ("\ud800", {}, "agent_id"),
        ("a", {"action": "\ud800"}, "action"),
        ("a", {"\ud800": 1}, "feature name"),
        ("a", {"session": "\ud800"}, "session"),
        ("a", {"group": "\ud800"}, "group"),
        ("a", {"context": "\ud800"}, "context"),
        ("a", {"session": []}, "session"),
        ("\N{SNOWMAN}" * 100, {}, "agent_id"),
        ("a", {"\N{SNOWMAN}" * 50: 1}, "feature name"),
    ],
)
def test_what_does_not_fit_is_named(agent, record, says):
    with pytest.raises(InputError, match=says):
        batch_from_records([(agent, record)], offset=0, phases=[0])


def test_values_beyond_any_measurement_saturate():
    batch = batch_from_records([("a", {"x": 1e308, "y": -(10**300)})], offset=0, phases=[0])
    assert batch.values.tolist() == [[1e50, -1e50]]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(["action", "effect", "kind", "session", "t", "group", "context", "cpu"]) | st.text(
    st.characters()
)


@given(ANYTHING, st.dictionaries(KEYS, ANYTHING, max_size=4) | ANYTHING)
def test_anything_is_columns_or_an_input_error(agent, record):
    try:
        batch = batch_from_records([(agent, record)], offset=0, phases=[0])
    except InputError:
        return
    assert len(batch) == 1
    assert len(agent.encode()) <= 256
    for text in (*batch.agents, *batch.actions, *batch.groups, *batch.contexts, *batch.feature_names):
        text.encode()


@given(st.text())
def test_hash64_is_a_signed_64_bit_number_that_only_depends_on_the_text(text):
    assert hash64(text) == hash64(text)
    assert -(2**63) <= hash64(text) < 2**63


def test_hash64_does_not_change_between_versions():
    assert hash64("session a") == 7405013690304616286
