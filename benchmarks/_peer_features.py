"""What the peers of `detection_peers` are given: the same events as tocsin, as numbers.

Two sets of columns for every event. `pooled`: the plain numbers, one model for the whole fleet. `own`: the same
columns as deviations from the agent's own baseline, in its own scales, shrunk to the fleet's where the baseline is
short (weight 8); one model for all agents, as baselines are short, but one per machine for servers. Tool calls carry
the largest values of their session so far: a session is as odd as its oddest call, and peers that see single events
find several times as many hijacks that way. Everything is estimated on baseline events; no label is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tocsin.ingest.tables import Decoded, decode_table, load_table
from tocsin.model.events import ArgFlag, Effect

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
PRIOR_WEIGHT = 8.0
TRAILING = (10, 50)  # events over which command-risk deviations are also averaged: shifts there are small and last
FARTHEST = 50.0  # scales beyond which a deviation says nothing more


@dataclass(frozen=True)
class Fleet:
    """A fleet in the order its events came; `n` rows. `kind` is "calls", "risk" or "machines"."""

    name: str
    kind: str
    agents: tuple[str, ...]
    agent: I64  # (n,) index into agents
    seq: I64  # (n,) the table's own numbers
    live: NDArray[np.bool_]  # (n,)
    session: I64  # (n,) equal = same task of the same agent
    tools: tuple[str, ...]
    tool: I64  # (n,) index into tools
    size: I64  # (n,) characters that came back
    pooled: F64  # (n, d)
    own: F64  # (n, d)


def read_fleet(path: Path, kind: str) -> Fleet:
    """The table at `path`, decoded as tocsin decodes it."""
    events = decode_table(load_table(path), None, 0.3, str(path))
    agent = events.agent.astype(np.int64)
    baseline = events.phase == 0
    tools, tool, session, size = events.actions, events.action.astype(np.int64), events.session, agent * 0
    if kind == "calls":
        lengths = _lengths(path, events)
        size = lengths[:, 1]
        pooled = _call_features(events, tool, lengths)
    elif kind == "risk":
        # No tools or sessions there: a context stands for a tool, 16 events in a row for a session.
        tools, tool = events.contexts, events.context.astype(np.int64)
        session = agent * 1_000_000 + _running(agent) // 16
        size = np.rint(1000 * np.abs(events.values[:, 0])).astype(np.int64)
        pooled = np.column_stack([events.values[:, 0], _residual(events.values[:, 0], tool, baseline)])
    else:
        pooled = events.values
    own = _own_scale(pooled, agent, baseline)
    if kind == "calls":
        pooled, own = _largest_so_far(pooled, session, agent), _largest_so_far(own, session, agent)
    if kind == "risk":
        own = np.column_stack([own, *(_trailing_mean(own[:, 1], agent, k) * k**0.5 for k in TRAILING)])
    return Fleet(path.stem, kind, events.agents, agent, events.seq, ~baseline, session, tools, tool, size, pooled, own)


def _lengths(path: Path, events: Decoded) -> I64:
    """(n, 2) lengths of the message and of what came back, -1 unknown: columns that the table has beside the rest."""
    table = load_table(path)
    code = {name: i for i, name in enumerate(events.agents)}
    agent = np.array([code[name] for name in table["agent_id"].to_pylist()])
    theirs = np.lexsort((table["seq"].to_numpy(), agent))
    ours = np.lexsort((events.seq, events.agent))
    columns = np.column_stack([table["msg_len"].to_numpy(), table["out_len"].to_numpy()]).astype(np.int64)
    out = np.zeros_like(columns)
    out[ours] = columns[theirs]
    return out


def _call_features(events: Decoded, tool: I64, lengths: I64) -> F64:
    """Surprise of the tool for role, agent and predecessor; arguments by where they came from; sizes; effects."""
    baseline = events.phase == 0
    agent, role = events.agent.astype(np.int64), events.group.astype(np.int64)
    width = int(tool.max()) + 2
    previous = _previous(tool, events.session, agent)
    surprises = [
        _surprise(role, tool, baseline, width),
        _surprise(agent, tool, baseline, width),
        _surprise(role * width + previous + 1, tool, baseline, width),
    ]
    arguments = events.arguments
    row = np.repeat(np.arange(tool.size), np.diff(arguments.offset))
    asked = (arguments.flags & ArgFlag.IN_PROMPT) > 0
    output = ((arguments.flags & ArgFlag.IN_OUTPUT) > 0) & ~asked
    counts = [np.bincount(row[which], minlength=tool.size) for which in (asked, output, ~asked & ~output)]
    effects = [events.effect == Effect.WRITE, events.effect == Effect.EGRESS]
    return np.column_stack([*surprises, *counts, *np.log1p(np.maximum(lengths, 0)).T, *effects]).astype(np.float64)


def _surprise(given: I64, what: I64, baseline: NDArray[np.bool_], width: int) -> F64:
    """-ln P(what | given) by add-one-half counts of baseline rows."""
    _, code = np.unique(given, return_inverse=True)
    counts = np.full((int(code.max()) + 1, width), 0.5)
    np.add.at(counts, (code[baseline], what[baseline]), 1.0)
    return -np.log(counts[code, what] / counts.sum(axis=1)[code])


def _previous(tool: I64, session: I64, agent: I64) -> I64:
    """The tool called before in the same session, -1 at its start."""
    order = np.lexsort((np.arange(tool.size), session, agent))
    fresh = np.r_[True, (session[order][1:] != session[order][:-1]) | (agent[order][1:] != agent[order][:-1])]
    out = np.empty_like(tool)
    out[order] = np.where(fresh, -1, np.r_[-1, tool[order][:-1]])
    return out


def _largest_so_far(x: F64, session: I64, agent: I64) -> F64:
    """Each column's largest value in the same session up to and including each row."""
    order = np.lexsort((np.arange(agent.size), session, agent))
    out = x[order]
    a, s = agent[order], session[order]
    for i in np.flatnonzero((a[1:] == a[:-1]) & (s[1:] == s[:-1])) + 1:
        out[i] = np.maximum(out[i], out[i - 1])
    found = np.empty_like(x)
    found[order] = out
    return found


def _running(agent: I64) -> I64:
    """Each event's number within its agent."""
    order = np.argsort(agent, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(agent[order])) + 1]
    out = np.empty_like(agent)
    out[order] = np.arange(agent.size) - np.repeat(starts, np.diff(np.r_[starts, agent.size]))
    return out


def _residual(value: F64, context: I64, baseline: NDArray[np.bool_]) -> F64:
    """Value less its context's mean over the fleet's baseline."""
    count = np.bincount(context[baseline], minlength=int(context.max()) + 1)
    total = np.bincount(context[baseline], value[baseline], minlength=count.size)
    return value - (total / np.maximum(count, 1))[context]


def _own_scale(x: F64, agent: I64, baseline: NDArray[np.bool_]) -> F64:
    """Deviations from each agent's baseline mean in its own scale."""
    agents = int(agent.max()) + 1
    mean, variance = x[baseline].mean(axis=0), x[baseline].var(axis=0) + 1e-9
    count = np.bincount(agent[baseline], minlength=agents)[:, None] + PRIOR_WEIGHT
    total, square = np.zeros((agents, x.shape[1])), np.zeros((agents, x.shape[1]))
    np.add.at(total, agent[baseline], x[baseline])
    own_mean = (total + PRIOR_WEIGHT * mean) / count
    np.add.at(square, agent[baseline], (x[baseline] - own_mean[agent[baseline]]) ** 2)
    scale = np.sqrt((square + PRIOR_WEIGHT * variance) / count)
    return np.clip((x - own_mean[agent]) / scale[agent], -FARTHEST, FARTHEST)


def _trailing_mean(x: F64, agent: I64, length: int) -> F64:
    """Mean over the agent's latest `length` events, fewer at its start."""
    order = np.argsort(agent, kind="stable")
    place = _running(agent)[order]
    total = np.r_[0.0, np.cumsum(x[order])]
    taken = np.minimum(place + 1, length)
    end = np.arange(1, agent.size + 1)
    out = np.empty_like(x)
    out[order] = (total[end] - total[end - taken]) / taken
    return out
