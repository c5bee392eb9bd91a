"""A fleet whose agents do ordinary things at their own rhythms, and a hidden group that beats as one.

Nothing that any member does is odd: same tools, same shares, same mean pace and same variation as everybody. Only from
`turns` on the group's variation is one and the same, each member a few windows late. Whole batches are made at once,
so 10,000 agents are produced as fast as they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import InputError
from tocsin.model.events import Effect, EventBatch, Kind, Phase
from tocsin.sim.fleet import FLEET_EPOCH_NS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

TOOLS = (("search", Effect.READ), ("read", Effect.READ), ("note", Effect.WRITE), ("send", Effect.EGRESS))
USE = np.cumsum([0.35, 0.35, 0.2, 0.1])
VARIATION = 0.5  # standard deviation of the log of an agent's pace, from window to window


class RhythmFleet:
    """`size` agents in `roles` roles, `pace` calls a window on average; `group` of them, of all roles, are hidden.

    The log of an agent's pace is the sum of the fleet's rhythm, its role's, and a variation of its own: white noise,
    of which members of the group have `shared` in common once window `turns` is reached, `late` windows at most after
    each other. Calls take longer where it does more. `live_from` is the first window judged. `echoes`: agents (numbers)
    that from `turns` on do what another one did a window before, which knows nothing of it.
    """

    def __init__(
        self,
        *,
        size: int,
        group: int,
        windows: int,
        turns: int,
        live_from: int,
        window_ns: int = 10_000_000_000,
        pace: float = 8.0,
        roles: int = 4,
        shared: float = 0.98,
        late: int = 2,
        seed: int = 0,
        echoes: Mapping[int, int] | None = None,
    ) -> None:
        if not 0 <= group <= size or roles < 1 or not 0.0 <= shared <= 1.0 or late < 0:
            raise InputError(f"no fleet of {size} agents in {roles} roles with a group of {group}")
        self.window_ns, self.windows, self.live_from = window_ns, windows, live_from
        self._rng = np.random.default_rng(seed)
        self._role: I64 = np.arange(size, dtype=np.int64) % roles
        self._roles = tuple(f"role-{k}" for k in range(roles))
        self._names = tuple(f"{self._roles[k % roles]}-{k:05d}" for k in range(size))
        members: I64 = np.sort(self._rng.choice(size, group, replace=False)).astype(np.int64)
        chosen: list[int] = members.tolist()
        self.members = frozenset(self._names[k] for k in chosen)
        self._turns, self._echoes = turns, dict(echoes or {})
        self._pace = pace * np.exp(self._log_pace(members, turns, shared, late))
        self._offset = 0

    def _log_pace(self, members: I64, turns: int, shared: float, late: int) -> F64:
        """(size, windows)."""
        rng, size, windows = self._rng, self._role.shape[0], self.windows
        own = rng.standard_normal((size, windows))
        beat = rng.standard_normal(windows + late)
        for k in members.tolist():
            delay = int(rng.integers(0, late + 1))
            mine = beat[late - delay : late - delay + windows]
            own[k, turns:] = (shared**0.5 * mine + (1.0 - shared) ** 0.5 * own[k])[turns:]
        fleet = 0.3 * np.sin(np.arange(windows) / 11.0) + 0.2 * rng.standard_normal(windows)
        of_role = 0.25 * rng.standard_normal((len(self._roles), windows))
        weight = rng.uniform(0.5, 1.5, (size, 1))
        self._own = own
        return VARIATION * own + weight * fleet + of_role[self._role] - VARIATION**2 / 2.0

    def agent_ids(self) -> tuple[str, ...]:
        return self._names

    def batches(self) -> Iterator[EventBatch]:
        """One batch a window, in order of time."""
        rng = self._rng
        before = np.zeros(self._pace.shape[0], np.int64)
        for window in range(self.windows):
            counts = rng.poisson(self._pace[:, window])
            if window >= self._turns:
                for one, other in self._echoes.items():
                    counts[one] = before[other]
            before = counts
            agent = np.repeat(np.arange(counts.shape[0], dtype=np.int32), counts)
            n = agent.shape[0]
            within = rng.integers(0, self.window_ns, n)
            order = np.argsort(within, kind="stable")
            tool = np.searchsorted(USE[:-1], rng.random(n), side="right").astype(np.int32)
            effect = np.array([effect for _, effect in TOOLS], np.int8)
            live = Phase.LIVE if window >= self.live_from else Phase.BASELINE
            agent = agent[order]
            yield EventBatch(
                offset=self._offset,
                agents=self._names,
                agent=agent,
                t_ns=FLEET_EPOCH_NS + window * self.window_ns + within[order],
                session=1 + agent.astype(np.int64) * self.windows + window // 4,
                phase=np.full(n, live, np.int8),
                kind=np.full(n, Kind.CALL, np.int8),
                actions=tuple(name for name, _ in TOOLS),
                action=tool,
                effect=effect[tool],
                groups=self._roles,
                group=self._role[agent].astype(np.int32),
                feature_names=("duration_ms",),
                values=np.exp(4.0 + 0.4 * self._own[agent, window] + 0.2 * rng.standard_normal(n))[:, None],
                arg_offset=np.zeros(n + 1, np.int32),
                prompt_offset=np.zeros(n + 1, np.int32),
            )
            self._offset += n
