"""The stored form of event batches: what comes back is what went in, and nothing else decodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError, WireError
from tocsin.model.events import ARG_TYPES, EventBatch
from tocsin.wire.events import concat, decode_batch, empty, encode_batch, filled, take

I64 = st.integers(-(2**63), 2**63 - 1)
I31 = st.integers(0, 2**31 - 1)
NAMES = st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    n = draw(st.integers(0, 6))

    def column(elements: st.SearchStrategy[Any], dtype: Any, size: int = n) -> Any:
        return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype)

    def offsets() -> Any:
        sizes = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        return np.cumsum([0, *sizes]).astype(np.int32)

    agents, actions, groups, contexts = draw(NAMES), draw(NAMES), draw(NAMES), draw(NAMES)
    features = draw(st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple))
    args, words = offsets(), offsets()
    m, k = int(args[-1]), int(words[-1])
    return EventBatch(
        offset=draw(st.integers(0, 2**60)),
        agents=agents,
        agent=column(st.integers(0, len(agents) - 1), np.int32),
        t_ns=column(I64, np.int64),
        session=column(I64, np.int64),
        phase=column(st.integers(0, 1), np.int8),
        kind=column(st.integers(0, 3), np.int8),
        actions=actions,
        action=column(st.integers(-1, len(actions) - 1), np.int32),
        effect=column(st.integers(0, 4), np.int8),
        groups=groups,
        group=column(st.integers(0, len(groups) - 1), np.int32),
        contexts=contexts,
        context=column(st.integers(0, len(contexts) - 1), np.int32),
        feature_names=features,
        values=column(st.floats(), np.float64, n * len(features)).reshape(n, len(features)),
        arg_offset=args,
        arg_name=column(I64, np.int64, m),
        arg_hash=column(I64, np.int64, m),
        arg_type=column(st.integers(0, len(ARG_TYPES) - 1), np.int8, m),
        arg_flags=column(st.integers(0, 3), np.uint8, m),
        arg_len=column(I31, np.int32, m),
        prompt_offset=words,
        prompt_word=column(I31, np.int32, k),
        event_id=column(I64, np.int64),
    )


def rows(batch: EventBatch) -> list[tuple[Any, ...]]:
    """The dumb twin: one tuple per row, strings and ragged values spelt out, features by name."""
    batch = filled(batch)
    out: list[tuple[Any, ...]] = []
    for i in range(len(batch)):
        a, b = int(batch.arg_offset[i]), int(batch.arg_offset[i + 1])
        w, x = int(batch.prompt_offset[i]), int(batch.prompt_offset[i + 1])
        values = {name: repr(float(v)) for name, v in zip(batch.feature_names, batch.values[i], strict=True)}
        out.append(
            (
                batch.agents[batch.agent[i]],
                batch.t_ns[i],
                batch.session[i],
                batch.phase[i],
                batch.kind[i],
                batch.actions[batch.action[i]] if batch.action[i] >= 0 else None,
                batch.effect[i],
                batch.groups[batch.group[i]],
                batch.contexts[batch.context[i]],
                {name: value for name, value in values.items() if value != "nan"},
                batch.arg_name[a:b].tolist(),
                batch.arg_hash[a:b].tolist(),
                batch.arg_type[a:b].tolist(),
                batch.arg_flags[a:b].tolist(),
                batch.arg_len[a:b].tolist(),
                batch.prompt_word[w:x].tolist(),
                batch.event_id[i],
            )
        )
    return out


@given(batches())
def test_a_batch_comes_back_as_it_went_in(batch: EventBatch) -> None:
    data = encode_batch(batch)
    back = decode_batch(data)
    assert back.offset == batch.offset
    assert rows(back) == rows(batch)
    assert encode_batch(back) == data


@given(batches(), st.data())
def test_take_agrees_with_picking_rows_one_by_one(batch: EventBatch, data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=8)) if len(batch) else []
    taken = take(batch, np.array(picks, np.int64), 7)
    everything = rows(batch)
    assert rows(taken) == [everything[i] for i in picks]
    assert taken.offset == 7
    mask = np.array([i in picks for i in range(len(batch))], np.bool_)
    assert rows(take(batch, mask)) == [everything[i] for i in sorted(set(picks))]


@given(st.lists(batches(), max_size=4))
def test_concat_agrees_with_joining_lists_of_rows(parts: list[EventBatch]) -> None:
    joined = concat(parts)
    assert rows(joined) == [row for part in parts for row in rows(part)]
    assert rows(decode_batch(encode_batch(joined))) == rows(joined)


@given(batches(), st.data())
def test_any_changed_byte_is_noticed(batch: EventBatch, data: st.DataObject) -> None:
    encoded = bytearray(encode_batch(batch))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        decode_batch(bytes(encoded))


@given(batches(), st.data())
def test_a_batch_cut_short_is_noticed(batch: EventBatch, data: st.DataObject) -> None:
    encoded = encode_batch(batch)
    with pytest.raises(WireError):
        decode_batch(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_optional_columns_may_be_left_out() -> None:
    one = EventBatch(
        offset=3,
        agents=("a",),
        agent=np.zeros(2, np.int32),
        t_ns=np.arange(2),
        session=np.zeros(2, np.int64),
        phase=np.zeros(2, np.int8),
        kind=np.zeros(2, np.int8),
        actions=(),
        action=np.full(2, -1, np.int32),
        effect=np.zeros(2, np.int8),
        feature_names=("x",),
    )
    back = decode_batch(encode_batch(one))
    assert back.group.tolist() == back.context.tolist() == back.event_id.tolist() == [0, 0]
    assert back.values.shape == (2, 1)
    assert np.isnan(back.values).all()
    assert back.arg_offset.tolist() == [0, 0, 0]


def test_no_events_are_a_batch_too() -> None:
    assert len(decode_batch(encode_batch(empty(9)))) == 0
    assert decode_batch(encode_batch(empty(9))).offset == 9
    assert len(concat([])) == 0


def test_columns_that_disagree_are_not_written() -> None:
    bad = EventBatch(
        offset=0,
        agents=("a",),
        agent=np.zeros(2, np.int32),
        t_ns=np.zeros(1, np.int64),
        session=np.zeros(2, np.int64),
        phase=np.zeros(2, np.int8),
        kind=np.zeros(2, np.int8),
        actions=(),
        action=np.full(2, -1, np.int32),
        effect=np.zeros(2, np.int8),
    )
    with pytest.raises(InputError, match="t_ns"):
        encode_batch(bad)


@pytest.mark.parametrize(("column", "value"), [("agent", 1), ("agent", -1), ("kind", 4), ("effect", 5), ("action", -2)])
def test_a_code_outside_its_table_does_not_decode(column: str, value: int) -> None:
    columns: dict[str, Any] = {
        "agent": np.zeros(1, np.int32),
        "kind": np.zeros(1, np.int8),
        "effect": np.zeros(1, np.int8),
        "action": np.zeros(1, np.int32),
    }
    columns[column] = np.array([value], columns[column].dtype)
    batch = EventBatch(
        offset=0,
        agents=("a",),
        actions=("x",),
        t_ns=np.zeros(1, np.int64),
        session=np.zeros(1, np.int64),
        phase=np.zeros(1, np.int8),
        **columns,
    )
    with pytest.raises(WireError, match=column):
        decode_batch(encode_batch(batch))
