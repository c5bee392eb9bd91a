"""A fleet composed of real runs: agent = pipeline x suite x replica.

Every AgentDojo run is independent, so the composition is ours. Baseline: clean runs of about 65 % of the suite's
user tasks, a never-exposed run and one resisted attack. Live: clean runs of the other tasks, a never-exposed run
and exactly six attacked sessions; in a compromised agent 1 ("single"), 2-3 ("few") or 4-6 ("burst") of the six
succeeded. Attacked runs are used at most once in a fleet; clean runs are shared between replicas.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tocsin.demo.agentdojo import NEVER_EXPOSED, Run, ToolCall, tool_effect
from tocsin.errors import InputError
from tocsin.model.events import Effect
from tocsin.sim.fleet import (
    CLEAN,
    FLEET_EPOCH_NS,
    HIJACKED,
    RESISTED,
    SESSION_SPACING_NS,
    AgentLabel,
    FleetSession,
    Step,
    label_agent,
)

BASELINE_TASK_SHARE = 0.65
ATTACKED_LIVE_SESSIONS = 6
TIERS = {"single": (1, 1), "few": (2, 3), "burst": (4, 6)}
_TIER_WEIGHTS = (31, 56, 34)
_MIN_DURATION_SECONDS = 0.5


class _Placed(NamedTuple):
    run: Run
    live: bool


@dataclass(frozen=True)
class _Member:
    agent_id: str
    role: str
    attack: str
    runs: tuple[_Placed, ...]
    jitter_ns: int


class _Cell:
    """The runs of one pipeline in one suite; attacked ones are dealt out, each once."""

    def __init__(self, runs: Sequence[Run], rng: random.Random) -> None:
        self.suite = runs[0].suite
        by_label: dict[str, list[Run]] = defaultdict(list)
        for run in sorted(runs, key=lambda r: (r.user_task, r.injection_task, r.attack)):
            by_label[run.label].append(run)
        self.clean = by_label[CLEAN]
        self.decks = {label: by_label[label] for label in (RESISTED, HIJACKED, NEVER_EXPOSED)}
        for deck in self.decks.values():
            rng.shuffle(deck)

    def can_deal(self, hijacked: int) -> bool:
        resisted = 1 + ATTACKED_LIVE_SESSIONS - hijacked
        return len(self.decks[HIJACKED]) >= hijacked and len(self.decks[RESISTED]) >= resisted and bool(self.clean)

    def deal(self, label: str, count: int) -> list[Run]:
        deck = self.decks[label]
        dealt = deck[len(deck) - count :] if count else []
        del deck[len(deck) - len(dealt) :]
        return dealt

    def never_exposed(self) -> list[Run]:
        """One, from the surplus that successes-only pipelines lack."""
        return self.deal(NEVER_EXPOSED, min(1, len(self.decks[NEVER_EXPOSED])))


class DojoFleet:
    """AgentDojo runs dealt to `size` agents, `compromised_share` of them compromised. Deterministic in `seed`."""

    def __init__(self, runs: Sequence[Run], *, size: int = 150, compromised_share: float = 0.17, seed: int = 0) -> None:
        """Raises InputError when the archive's runs do not suffice for that many agents."""
        if size < 1 or not 0.0 <= compromised_share <= 1.0:
            raise InputError(f"no fleet of {size} agents with a share of {compromised_share} compromised")
        self.seed = seed
        rng = random.Random(f"dojo {seed}")  # noqa: S311 - a reproducible fleet, not a secret
        self._members = _compose(runs, size, round(size * compromised_share), rng)
        self._baseline_rounds = max(sum(not p.live for p in m.runs) for m in self._members)

    @property
    def name(self) -> str:
        return "agentdojo"

    @property
    def source(self) -> str:
        return "real tool calls of language models, composed into a fleet (AgentDojo 0.1.26, Debenedetti et al. 2024)"

    def agent_ids(self) -> tuple[str, ...]:
        return tuple(m.agent_id for m in self._members)

    def labels(self) -> tuple[AgentLabel, ...]:
        return tuple(label_agent(self._sessions(m), attack=m.attack) for m in self._members)

    def rounds(self, *, live: bool) -> Iterator[list[FleetSession]]:
        """Round k: the sessions of the phase's k-th quarter of an hour, in order of agents."""
        members = [self._sessions(m) for m in self._members]
        by_start: dict[int, list[FleetSession]] = defaultdict(list)
        for session in (s for sessions in members for s in sessions if s.live == live):
            by_start[(session.start_ns - FLEET_EPOCH_NS) // SESSION_SPACING_NS].append(session)
        for slot in sorted(by_start):
            yield by_start[slot]

    def _sessions(self, member: _Member) -> list[FleetSession]:
        """Baselines end together: the fleet's live phase begins at one moment of its clock."""
        first = self._baseline_rounds - sum(not p.live for p in member.runs)
        start = FLEET_EPOCH_NS + member.jitter_ns
        return [
            session_of(placed.run, member, number, placed.live, start + (first + number) * SESSION_SPACING_NS)
            for number, placed in enumerate(member.runs)
        ]


def session_of(run: Run, member: _Member, number: int, live: bool, start_ns: int) -> FleetSession:
    """A run as a session. The logs give one duration: it is spread evenly over the calls and the answer."""
    gap_ns = int(max(run.duration_seconds, _MIN_DURATION_SECONDS) * 1e9) // (len(run.calls) + 1)
    steps = [_call_step(call, i * gap_ns, gap_ns, run.label == HIJACKED) for i, call in enumerate(run.calls)]
    in_text_only = run.label == HIJACKED and not any(s.malicious for s in steps)
    steps.append(
        Step(
            tool="",
            effect=Effect.FINAL,
            output=run.final,
            start_ns=len(run.calls) * gap_ns,
            duration_ns=gap_ns,
            malicious=in_text_only,
        )
    )
    return FleetSession(
        agent_id=member.agent_id,
        role=member.role,
        number=number,
        live=live,
        start_ns=start_ns,
        prompt=run.prompt,
        steps=tuple(steps),
        label=CLEAN if run.label == NEVER_EXPOSED else run.label,
        model=run.pipeline,
    )


def _call_step(call: ToolCall, start_ns: int, gap_ns: int, hijacked: bool) -> Step:
    return Step(
        tool=call.tool,
        effect=tool_effect(call.tool),
        args=call.args,
        output=call.output,
        error=call.error,
        start_ns=start_ns,
        duration_ns=gap_ns,
        malicious=hijacked and call.directed,
    )


def _compose(runs: Sequence[Run], size: int, compromised: int, rng: random.Random) -> list[_Member]:
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.pipeline, run.suite].append(run)
    cells = [_Cell(grouped[key], rng) for key in sorted(grouped)]
    plan = [True] * compromised + [False] * (size - compromised)
    members: list[_Member] = []
    numbers: dict[str, int] = defaultdict(int)
    # Compromised agents first: successes are the scarce runs, and need resisted ones beside them.
    for is_compromised in plan:
        tier = rng.choices(tuple(TIERS), _TIER_WEIGHTS)[0] if is_compromised else ""
        hijacked = rng.randint(*TIERS[tier]) if tier else 0
        able = [cell for cell in cells if cell.can_deal(hijacked)]
        if not able:
            raise InputError(
                f"the archive's runs suffice for {len(members)} agents, not for {size} with {compromised} compromised",
                remedy="ask for fewer agents, or: --fleet synthetic",
            )
        cell = rng.choice(able)
        placed = _deal_agent(cell, hijacked, rng)
        members.append(_Member("", cell.suite, tier, placed, rng.randrange(SESSION_SPACING_NS // 3)))
    rng.shuffle(members)
    named: list[_Member] = []
    for member in members:
        agent_id = f"{member.role}-{numbers[member.role]:03d}"
        numbers[member.role] += 1
        named.append(_Member(agent_id, member.role, member.attack, member.runs, member.jitter_ns))
    return named


def _deal_agent(cell: _Cell, hijacked: int, rng: random.Random) -> tuple[_Placed, ...]:
    clean = rng.sample(cell.clean, len(cell.clean))
    learned = max(1, round(len(clean) * BASELINE_TASK_SHARE))
    baseline = clean[:learned] + cell.never_exposed() + cell.deal(RESISTED, 1)
    live = clean[learned:] + cell.never_exposed()
    live += cell.deal(RESISTED, ATTACKED_LIVE_SESSIONS - hijacked) + cell.deal(HIJACKED, hijacked)
    rng.shuffle(baseline)
    rng.shuffle(live)
    return tuple(_Placed(run, False) for run in baseline) + tuple(_Placed(run, True) for run in live)
