"""Tables (Parquet, CSV, JSON lines) as a stream of `EventBatch`, in the order in which a fleet would have sent them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.ingest.columns import (
    MAX_SECONDS,
    NS_PER_SECOND,
    codes,
    integers,
    measurements,
    no_numbers,
    phases,
    times,
)
from tocsin.ingest.mapping import Mapping, check_columns, choose_mapping, feature_columns, load_mapping
from tocsin.ingest.ragged import Arguments, Ragged, parse_arguments, parse_words
from tocsin.model.events import EventBatch, Kind
from tocsin.wire.records import EFFECTS, KINDS


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
    notes: tuple[str, ...] = ()  # what was recognised rather than said, and what was refused, for people
    refused: dict[str, int] = field(default_factory=dict[str, int])  # values that are no measurements, by reason

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
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{origin}: two columns are called {repeated[0]!r}", remedy="give every column its own name")
    meaning = load_mapping(mapping) if isinstance(mapping, Path) else mapping
    if meaning is None:
        meaning = choose_mapping(names, {name: _kind_of(table.schema.field(name).type) for name in names})
    check_columns(meaning, names)
    columns = meaning.columns
    agent, agents = agents_of(table, columns.agent, origin)
    t_ns, unit = times(table, columns.time) if columns.time else (None, "")
    seq = sequence_of(table, meaning, agent, agents, t_ns, origin)
    t_ns = _logical_times(seq) if t_ns is None else t_ns
    order = fleet_order(agent, seq, t_ns)
    phase = _phases(table, columns.phase, agent, seq, baseline_share)
    session = sessions_of(table, columns.session, agent, agents)
    kind = _lookup(table, columns.kind, KINDS, int(KINDS.get(meaning.default_kind, Kind.CALL)))
    action, actions = _texts(table, columns.action)
    group, groups = _texts(table, columns.group)
    context, contexts = contexts_of(table, columns.context)
    values, features = features_of(table, meaning)
    refused, told = refused_values(table, meaning)
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
        notes=((f"{columns.time} is taken as {unit} since 1970",) if unit else ()) + told,
        refused=refused,
    )


def agents_of(table: pa.Table, name: str, origin: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Whose event each row is, and the agents that have one: a dictionary may name others, which count nowhere."""
    code, texts = codes(table, name)
    nameless = np.array([text == "" for text in texts] + [True], np.bool_)[code]
    if np.any(nameless):
        raise InputError(f"{origin}: {int(np.sum(nameless))} rows have no {name}", remedy="name the agent on every row")
    present, agent = np.unique(code, return_inverse=True)
    used: list[int] = present.tolist()
    return np.asarray(agent, np.int32), tuple(texts[i] for i in used)


def sequence_of(
    table: pa.Table,
    mapping: Mapping,
    agent: NDArray[np.int32],
    agents: tuple[str, ...],
    t_ns: NDArray[np.int64] | None,
    origin: str,
) -> NDArray[np.int64]:
    """Each row's number within its agent: the table's own, else counted in time order."""
    name = mapping.columns.seq
    if name:
        seq = integers(table, name)
        _check_rising(seq, agent, agents, name, origin)
        return seq
    if t_ns is None:
        raise InputError(f"mapping {mapping.name!r} names neither seq nor time", remedy="name one under [columns]")
    by_time = np.lexsort((t_ns, agent))  # stable: rows of one time stay in file order
    counted = np.empty(agent.shape[0], np.int64)
    counted[by_time] = _rank_within(agent[by_time])
    return counted


def _logical_times(seq: NDArray[np.int64]) -> NDArray[np.int64]:
    """A second an event; a nanosecond where numbers are so large that seconds would not fit 64 bits."""
    largest = max(abs(int(seq.min())), abs(int(seq.max())))
    return seq * NS_PER_SECOND if largest <= MAX_SECONDS else seq


def _check_rising(
    seq: NDArray[np.int64], agent: NDArray[np.int32], agents: tuple[str, ...], name: str, origin: str
) -> None:
    by_agent = np.argsort(agent, kind="stable")
    same = agent[by_agent][1:] == agent[by_agent][:-1]
    after, before = seq[by_agent][1:], seq[by_agent][:-1]
    wrong = np.flatnonzero(same & (after <= before))
    if wrong.size:
        row = int(by_agent[wrong[0] + 1])
        what = "repeats" if after[wrong[0]] == before[wrong[0]] else "falls"
        raise InputError(
            f"{origin}: {name} {what} at row {row} (agent {agents[agent[row]]!r}, {name} {int(seq[row])})",
            remedy=f"drop repeated rows and sort each agent's rows by {name}",
        )


def fleet_order(agent: NDArray[np.int32], seq: NDArray[np.int64], t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row order by time across the fleet in which each agent's rows stay in the order of `seq`, shape `(n,)`."""
    by_agent = np.lexsort((seq, agent))
    at, owner = t_ns[by_agent].copy(), agent[by_agent]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], owner.shape[0]], strict=True):
        at[start:stop] = np.maximum.accumulate(at[start:stop])
    return by_agent[np.lexsort((seq[by_agent], owner, at))]


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
    columns = {name: measurements(table, name) for name in names}
    for name, difference in mapping.derived.items():
        columns[name] = measurements(table, difference.left) - measurements(table, difference.minus)
    if not columns:
        return np.zeros((table.num_rows, 0)), ()
    return np.column_stack(list(columns.values())), tuple(columns)


def refused_values(table: pa.Table, mapping: Mapping) -> tuple[dict[str, int], tuple[str, ...]]:
    """(count by reason, a sentence a column) of values that are there and no measurements: NaN that is not missing."""
    names = [*feature_columns(mapping, table.column_names)]
    names += [name for both in mapping.derived.values() for name in (both.left, both.minus)]
    total: Counter[str] = Counter()
    told: list[str] = []
    for name in dict.fromkeys(names):
        found = no_numbers(table, name)
        total.update(found)
        told += [f"{name}: {count} values are {reason}: refused, not counted" for reason, count in found.items()]
    return dict(total), tuple(told)


def _kind_of(kind: Any) -> str:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        return "number"
    return "text" if pa.types.is_string(inner) or pa.types.is_large_string(inner) else "other"


def _phases(
    table: pa.Table, name: str, agent: NDArray[np.int32], seq: NDArray[np.int64], share: float
) -> NDArray[np.int8]:
    if name:
        return phases(table, name)
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
