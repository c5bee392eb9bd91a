"""Small fleets of agents that do different jobs, straight as events: hardly anybody has a peer to be compared with.

Each job has tools, tasks and a group of its own, and one of five temperaments. Its first WARMUP events are baseline,
as an admission without further knowledge would have it, so baselines end inside sessions. A hijacked agent goes about
its work; from the onset on, each session also carries out somebody else's goal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np

from tocsin.errors import InputError
from tocsin.model.events import ARG_TYPES, ArgFlag, Effect, EventBatch, Kind, Phase

TEMPERAMENTS = ("routine", "explorer", "clumsy", "moody", "correspondent")
ATTACKS = ("foreign tools", "own tools")
WARMUP = 200  # events
TOOLS = 60  # that an agent could use; most use few
EMAIL, SHORT = ARG_TYPES.index("email"), ARG_TYPES.index("short")
SESSION_NS = 900 * 10**9
_FOREIGN = range(10_000, 10_040)  # tools that no job has


@dataclass(frozen=True, slots=True)
class LoneFleet:
    """The events in order of sessions, and per agent the event number of its onset, -1 where it is honest."""

    batch: EventBatch
    onset: tuple[int, ...]
    hijacked_sessions: tuple[tuple[int, ...], ...]  # first event numbers of an agent's hijacked sessions


@dataclass(slots=True)
class _Rows:
    """Columns under construction; `arguments` are (name, value, type, flags, length)."""

    agent: list[int] = field(default_factory=list[int])
    session: list[int] = field(default_factory=list[int])
    tool: list[int] = field(default_factory=list[int])
    effect: list[int] = field(default_factory=list[int])
    words: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    arguments: list[list[tuple[int, int, int, int, int]]] = field(
        default_factory=list[list[tuple[int, int, int, int, int]]]
    )


class _Agent:
    """One job: which tasks there are, how they come, and how they are carried out."""

    def __init__(self, index: int, job: int, seed: int, attack: str) -> None:
        self.index, self.job, self.attack = index, job, attack
        self.rng = Random(f"job {seed} {job}")  # noqa: S311 - reproducible, not secret
        self.temperament = TEMPERAMENTS[self.rng.randrange(len(TEMPERAMENTS))]
        self.writes = [self.rng.random() < 0.5 for _ in range(TOOLS)]
        tasks = {"routine": 4, "explorer": 40, "moody": 12}.get(self.temperament, 6)
        self.tasks = [[self._tool() for _ in range(self.rng.randint(3, 6))] for _ in range(tasks)]
        self.task = 0
        self.rng = Random(f"loner {seed} {index}")  # noqa: S311

    def _tool(self) -> int:
        """Explorers choose among all tools, the others among eight."""
        reach = TOOLS if self.temperament == "explorer" else 8
        return min(int(self.rng.paretovariate(0.7)) - 1, reach - 1)

    def session(self, rows: _Rows, number: int, hijacked: bool, calls: int) -> None:
        rng = self.rng
        if self.temperament != "moody" or rng.random() < 0.15:
            self.task = rng.randrange(len(self.tasks))
            if self.temperament == "explorer":
                self.task = min(int(rng.paretovariate(0.6)) - 1, len(self.tasks) - 1)
        tools = self.tasks[self.task]
        at = rng.randrange(1, len(tools)) if hijacked else -1
        for step, tool in enumerate(tools):
            again = 1
            while self.temperament == "clumsy" and rng.random() < 0.25:
                again += 1
            for _ in range(again):
                stray = self.temperament == "clumsy" and rng.random() < 0.03
                self._call(rows, number, rng.randrange(12) if stray else tool, self._arguments())
            if step == at:
                self._serve(rows, number, calls)

    def _arguments(self) -> list[tuple[int, int, int, int, int]]:
        rng = self.rng
        asked = ArgFlag.IN_PROMPT if rng.random() < 0.7 else ArgFlag.IN_OUTPUT
        out = [(1, rng.randrange(1, 30), SHORT, int(asked), 9)]
        if self.temperament == "correspondent":
            out.append((2, rng.randrange(1, 10**6), EMAIL, int(ArgFlag.IN_OUTPUT), 18))
        return out

    def _serve(self, rows: _Rows, number: int, calls: int) -> None:
        """Calls of tools it never had, or of its own with a recipient that only tool output knew."""
        rng = self.rng
        foreign = rng.sample(_FOREIGN, 3)
        own = [tool for tool in self.tasks[0] if self.writes[tool]] or [0]
        for _ in range(calls):
            tool = rng.choice(foreign if self.attack == ATTACKS[0] else own)
            self._call(rows, number, tool, [(2, 10**7 + rng.randrange(100), EMAIL, int(ArgFlag.IN_OUTPUT), 24)])

    def _call(self, rows: _Rows, number: int, tool: int, arguments: list[tuple[int, int, int, int, int]]) -> None:
        effect = Effect.EGRESS if tool >= TOOLS or self.writes[tool] else Effect.READ
        rows.agent.append(self.index)
        rows.session.append(number * 10_000 + self.index + 1)
        rows.tool.append(tool if tool >= TOOLS else self.job * TOOLS + tool)
        rows.effect.append(int(effect))
        rows.words.append(tuple(self.job * 1000 + self.task * 10 + word for word in range(4)))
        rows.arguments.append(arguments)


def lone_fleet(
    agents: int,
    *,
    seed: int,
    hijacked: int = 0,
    attack: str = ATTACKS[0],
    calls: int = 5,
    live_sessions: int = 30,
    jobs: int = 10_000,
) -> LoneFleet:
    """`agents` loners, the first `hijacked` of them with `attack`: `calls` calls in each of their last ten sessions.

    There are `jobs` jobs, dealt in turn.

    Raises InputError for a fleet that cannot be.
    """
    if not 0 <= hijacked <= agents < 10_000 or attack not in ATTACKS or live_sessions < 10 or jobs < 1:
        raise InputError(f"no fleet of {agents} agents, {hijacked} of them with {attack!r}, {live_sessions} sessions")
    rows = _Rows()
    crew = [_Agent(index, index % jobs, seed, attack if index < hijacked else "") for index in range(agents)]
    events = [0] * agents
    starts: list[list[int]] = [[] for _ in crew]
    left = [live_sessions] * agents
    number = 0
    while any(left):
        for agent in crew:
            if not left[agent.index]:
                continue
            if events[agent.index] >= WARMUP:
                left[agent.index] -= 1
            turned = bool(agent.attack) and left[agent.index] < 10 and events[agent.index] >= WARMUP
            if turned:
                starts[agent.index].append(events[agent.index])
            before = len(rows.agent)
            agent.session(rows, number, turned, calls)
            events[agent.index] += len(rows.agent) - before
        number += 1
    onset = tuple(found[0] if found else -1 for found in starts)
    return LoneFleet(_batch(rows, agents, jobs), onset, tuple(map(tuple, starts)))


def _batch(rows: _Rows, agents: int, jobs: int) -> EventBatch:
    n = len(rows.agent)
    agent = np.array(rows.agent, np.int32)
    events = np.zeros(agents, np.int64)
    phase = np.empty(n, np.int8)
    for i, a in enumerate(rows.agent):
        phase[i] = Phase.LIVE if events[a] >= WARMUP else Phase.BASELINE
        events[a] += 1
    tools, action = np.unique(np.array(rows.tool, np.int64), return_inverse=True)
    arguments = np.array([part for call in rows.arguments for part in call], np.int64).reshape(-1, 5)
    words = np.array([word for call in rows.words for word in call], np.int32)
    session = np.array(rows.session, np.int64)
    return EventBatch(
        offset=0, agents=tuple(f"loner-{index}" for index in range(agents)), agent=agent,
        t_ns=session // 10_000 * SESSION_NS, session=session, phase=phase,
        kind=np.full(n, Kind.CALL, np.int8), actions=tuple(f"tool-{tool}" for tool in tools.tolist()),
        action=action.astype(np.int32), effect=np.array(rows.effect, np.int8),
        groups=tuple(f"job-{job}" for job in range(min(agents, jobs))), group=agent % jobs,
        arg_offset=np.cumsum([0, *map(len, rows.arguments)]).astype(np.int32), arg_name=arguments[:, 0].copy(),
        arg_hash=arguments[:, 1].copy(), arg_type=arguments[:, 2].astype(np.int8),
        arg_flags=arguments[:, 3].astype(np.uint8), arg_len=arguments[:, 4].astype(np.int32),
        prompt_offset=np.cumsum([0, *map(len, rows.words)]).astype(np.int32), prompt_word=words,
    )  # fmt: skip
