"""Tables (Parquet, CSV, JSON lines) as a stream of `EventBatch`, in the order in which a fleet would have sent them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.ingest.mapping import Mapping, check_columns, choose_mapping, feature_columns, load_mapping
from tocsin.ingest.ragged import Arguments, Ragged, parse_arguments, parse_words
from tocsin.model.events import EventBatch, Kind

MAX_ACTION_CHARS = 200  # a longer name is cut: it is shown to people and kept in tables
NS_PER_SECOND = 1_000_000_000

KINDS = {"call": Kind.CALL, "final": Kind.FINAL, "chat": Kind.CHAT, "metric": Kind.METRIC}
EFFECTS = {"read": 1, "write": 2, "egress": 3, "final": 4}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole table as columns in delivery order; `EventBatch`es are slices of it."""

    seq: NDArray[np.int64]
    agents: tuple[str, ...]
    agent: NDArray[np.int32]
    t_ns: NDArray[np.int64]
    session: NDArray[np.int64]
    phase: NDArray[np.int8]
    kind: NDArray[np.int8]
    actions: tuple[str, ...]
    action: NDArray[np.int32]
    effect: NDArray[np.int8]
    groups: tuple[str, ...]
    group: NDArray[np.int32]
    contexts: tuple[str, ...]
    context: NDArray[np.int32]
    feature_names: tuple[str, ...]
    values: NDArray[np.float64]
    arguments: Arguments
    words: Ragged

    def batch(self, start: int, stop: int) -> EventBatch:
        """Rows `start..stop` as an `EventBatch` whose offset is `start`."""
        rows = slice(start, stop)
        arguments, words = self.arguments.slice(start, stop), self.words.slice(start, stop)
        return EventBatch(
            offset=start,
            agents=self.agents,
            agent=self.agent[rows],
            t_ns=self.t_ns[rows],
            session=self.session[rows],
            phase=self.phase[rows],
            kind=self.kind[rows],
            actions=self.actions,
            action=self.action[rows],
            effect=self.effect[rows],
            groups=self.groups,
            group=self.group[rows],
            contexts=self.contexts,
            context=self.context[rows],
            feature_names=self.feature_names,
            values=self.values[rows],
            arg_offset=arguments.offset,
            arg_name=arguments.name,
            arg_hash=arguments.value,
            arg_type=arguments.type,
            arg_flags=arguments.flags,
            arg_len=arguments.length,
            prompt_offset=words.offset,
            prompt_word=words.items,
        )


def read_table(
    path: Path | str,
    mapping: Mapping | Path | None = None,
    batch_rows: int = 8192,
    baseline_share: float = 0.3,
) -> Iterator[tuple[EventBatch, NDArray[np.int64]]]:
    """Yield `(batch, seq)`: events in fleet order and each row's own `seq` in the table, shape `(len(batch),)`.

    Fleet order is by time where the table has one, else by `seq` across agents; each agent's own order is kept.
    Where the table has no phase column the first `baseline_share` of each agent's events are baseline.
    Raises `InputError` for whatever does not fit, before anything is yielded.
    """
    decoded = decode_table(load_table(Path(path)), mapping, baseline_share, str(path))
    for start in range(0, len(decoded.seq), batch_rows):
        stop = min(start + batch_rows, len(decoded.seq))
        yield decoded.batch(start, stop), decoded.seq[start:stop]


def load_table(path: Path) -> pa.Table:
    """A file's rows. Raises `InputError` if it is missing, empty, or of an unknown kind."""
    from pyarrow import csv, json, parquet

    if not path.is_file():
        raise InputError(f"{path} is not a file", remedy="give a .parquet, .csv or .jsonl file")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            table: pa.Table = parquet.read_table(path)
        elif name.endswith(".csv"):
            table = csv.read_csv(path)
        elif name.endswith((".jsonl", ".ndjson")):
            table = json.read_json(path)
        else:
            raise InputError(f"{path} is of no known kind", remedy="give a .parquet, .csv or .jsonl file")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy="check that the file is whole") from error
    if table.num_rows == 0:
        raise InputError(f"{path} has no rows", remedy="give a table with at least one event")
    return table.combine_chunks()


def decode_table(table: pa.Table, mapping: Mapping | Path | None, baseline_share: float, origin: str) -> Decoded:
    """Columns of `table` as `mapping` reads them, in fleet order."""
    if not 0.0 < baseline_share < 1.0:
        raise InputError(f"baseline share {baseline_share} is not between 0 and 1", remedy="0.3 is usual")
    names = list(table.column_names)
    meaning = load_mapping(mapping) if isinstance(mapping, Path) else mapping
    if meaning is None:
        meaning = choose_mapping(names, {name: _kind_of(table.schema.field(name).type) for name in names})
    check_columns(meaning, names)
    columns = meaning.columns
    agent, agents = codes(table, columns.agent)
    if np.any(agent < 0):
        raise InputError(
            f"{origin}: {int(np.sum(agent < 0))} rows have no {columns.agent}", remedy="name the agent on every row"
        )
    seq = sequence_of(table, meaning, agent, agents, origin)
    t_ns = _times(table, columns.time) if columns.time else seq * NS_PER_SECOND
    order = fleet_order(agent, seq, t_ns)
    phase = _phases(table, columns.phase, agent, seq, baseline_share)
    session = sessions_of(table, columns.session, agent, agents)
    kind = _lookup(table, columns.kind, KINDS, int(KINDS.get(meaning.default_kind, Kind.CALL)))
    action, actions = _texts(table, columns.action)
    group, groups = _texts(table, columns.group)
    context, contexts = contexts_of(table, columns.context)
    values, features = features_of(table, meaning)
    arguments = parse_arguments(table.column(columns.arguments) if columns.arguments else None, table.num_rows)
    words = parse_words(table.column(columns.prompt_words) if columns.prompt_words else None, table.num_rows)
    return Decoded(
        seq=seq[order],
        agents=agents,
        agent=agent[order],
        t_ns=t_ns[order],
        session=session[order],
        phase=phase[order],
        kind=kind[order],
        actions=actions,
        action=action[order],
        effect=_lookup(table, columns.effect, EFFECTS, 0)[order],
        groups=groups or ("",),
        group=np.maximum(group, 0)[order],
        contexts=contexts,
        context=context[order],
        feature_names=features,
        values=values[order],
        arguments=arguments.take(order),
        words=words.take(order),
    )


def codes(table: pa.Table, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """A column as codes into its distinct texts; -1 where it is null or not a number."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    texts = tuple(_text(value)[:MAX_ACTION_CHARS] for value in column.dictionary.to_pylist())
    index = np.asarray(pc.fill_null(column.indices, -1)).astype(np.int32)
    absent = np.array([text == "nan" for text in texts], np.bool_)
    return (np.where((index >= 0) & absent[index], np.int32(-1), index) if absent.any() else index), texts


def sequence_of(
    table: pa.Table, mapping: Mapping, agent: NDArray[np.int32], agents: tuple[str, ...], origin: str
) -> NDArray[np.int64]:
    """Each row's number within its agent: the table's own, else counted in time order."""
    columns = mapping.columns
    if columns.seq:
        seq = _integers(table, columns.seq)
        _check_rising(seq, agent, agents, columns.seq, origin)
        return seq
    if not columns.time:
        raise InputError(f"mapping {mapping.name!r} names neither seq nor time", remedy="name one under [columns]")
    by_time = np.lexsort((_times(table, columns.time), agent))  # stable: rows of one time stay in file order
    counted = np.empty(agent.shape[0], np.int64)
    counted[by_time] = _rank_within(agent[by_time])
    return counted


def _check_rising(
    seq: NDArray[np.int64], agent: NDArray[np.int32], agents: tuple[str, ...], name: str, origin: str
) -> None:
    by_agent = np.argsort(agent, kind="stable")
    same = agent[by_agent][1:] == agent[by_agent][:-1]
    step = np.diff(seq[by_agent])
    wrong = np.flatnonzero(same & (step <= 0))
    if wrong.size:
        row = int(by_agent[wrong[0] + 1])
        what = "repeats" if step[wrong[0]] == 0 else "falls"
        raise InputError(
            f"{origin}: {name} {what} at row {row} (agent {agents[agent[row]]!r}, {name} {int(seq[row])})",
            remedy=f"drop repeated rows and sort each agent's rows by {name}",
        )


def fleet_order(agent: NDArray[np.int32], seq: NDArray[np.int64], t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row order by time across the fleet in which each agent's rows stay in the order of `seq`, shape `(n,)`."""
    by_agent = np.lexsort((seq, agent))
    times, owner = t_ns[by_agent].copy(), agent[by_agent]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], owner.shape[0]], strict=True):
        times[start:stop] = np.maximum.accumulate(times[start:stop])
    return by_agent[np.lexsort((seq[by_agent], owner, times))]


def sessions_of(table: pa.Table, name: str, agent: NDArray[np.int32], agents: tuple[str, ...]) -> NDArray[np.int64]:
    """Hash of (agent, session) per row; 0 where the table has no sessions."""
    if not name:
        return np.zeros(int(agent.shape[0]), np.int64)
    code, texts = codes(table, name)
    pairs, inverse = np.unique(agent.astype(np.int64) * (len(texts) + 1) + code + 1, return_inverse=True)
    hashes = np.empty(pairs.shape[0], np.int64)
    for i in range(int(pairs.shape[0])):
        owner, label = divmod(int(pairs[i]), len(texts) + 1)
        text = texts[label - 1] if label else ""
        digest = hashlib.blake2b(f"{agents[owner]}\x00{text}".encode(), digest_size=8).digest()
        hashes[i] = (int.from_bytes(digest, "big", signed=True) | 1) if label else 0
    rows: NDArray[np.int64] = np.asarray(inverse, np.int64)
    return hashes[rows]


def contexts_of(table: pa.Table, names: tuple[str, ...]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Context columns, coarse to fine, joined by '/' into one label per row."""
    context: NDArray[np.int32] = np.zeros(int(table.num_rows), np.int32)
    labels: tuple[str, ...] = ("",)
    for name in names:
        code, texts = codes(table, name)
        known = (*texts, "?")
        pairs, inverse = np.unique(context.astype(np.int64) * len(known) + (code % len(known)), return_inverse=True)
        parts = [divmod(int(pair), len(known)) for pair in pairs]
        labels = tuple(f"{labels[a]}/{known[b]}" if labels[a] else known[b] for a, b in parts)
        context = np.asarray(inverse, np.int32)
    return context, labels


def features_of(table: pa.Table, mapping: Mapping) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Feature columns and derived differences, shape `(n, d)`; NaN where missing."""
    names = feature_columns(mapping, table.column_names)
    columns = {name: _numbers(table, name) for name in names}
    for name, difference in mapping.derived.items():
        columns[name] = _numbers(table, difference.left) - _numbers(table, difference.minus)
    if not columns:
        return np.zeros((table.num_rows, 0)), ()
    return np.column_stack(list(columns.values())), tuple(columns)


def _kind_of(kind: Any) -> str:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        return "number"
    return "text" if pa.types.is_string(inner) or pa.types.is_large_string(inner) else "other"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(table.column(name).cast(pa.float64(), safe=False).to_numpy(), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column {name!r} holds no numbers: {error}", remedy="mend it or the mapping") from error


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    numbers = _numbers(table, name)
    if not np.all(np.isfinite(numbers)) or np.any(numbers != np.rint(numbers)):
        raise InputError(f"column {name!r} has missing or broken numbers", remedy="number events with whole numbers")
    return numbers.astype(np.int64)


def _times(table: pa.Table, name: str) -> NDArray[np.int64]:
    kind = table.schema.field(name).type
    if pa.types.is_timestamp(kind):
        return np.asarray(table.column(name).cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy(), np.int64)
    seconds = _numbers(table, name)
    if not np.all(np.isfinite(seconds)):
        raise InputError(f"column {name!r} has rows without a time", remedy="give every row its time in seconds")
    return np.rint(seconds * NS_PER_SECOND).astype(np.int64)


def _phases(
    table: pa.Table, name: str, agent: NDArray[np.int32], seq: NDArray[np.int64], share: float
) -> NDArray[np.int8]:
    if name:
        return np.minimum(np.maximum(_integers(table, name), 0), 1).astype(np.int8)
    by_agent = np.lexsort((seq, agent))
    count = np.bincount(agent)
    live = np.empty(agent.shape[0], np.int8)
    live[by_agent] = _rank_within(agent[by_agent]) >= np.ceil(share * count)[agent[by_agent]]
    return live


def _rank_within(owner: NDArray[np.int32]) -> NDArray[np.int64]:
    """0, 1, 2 ... within each run of equal owners."""
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    sizes = np.diff(np.append(starts, owner.shape[0]))
    return np.arange(int(owner.shape[0]), dtype=np.int64) - np.repeat(starts, sizes)


def _lookup(table: pa.Table, name: str, known: dict[str, Any], default: int) -> NDArray[np.int8]:
    if not name:
        return np.full(int(table.num_rows), default, np.int8)
    code, texts = codes(table, name)
    values = np.array([int(known.get(text, default)) for text in texts] + [default], np.int8)
    return values[code]


def _texts(table: pa.Table, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    if not name:
        return np.full(int(table.num_rows), -1, np.int32), ()
    return codes(table, name)
