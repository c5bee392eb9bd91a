"""Replicas on a network and disks of their own, for tests that look at single messages."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from typing import Any

from tocsin.consensus import journal
from tocsin.consensus.inputs import MILLISECOND_NS, Start, SubmitEvidence
from tocsin.consensus.messages import ENVELOPE, Vote
from tocsin.consensus.replica import ConsensusConfig, Decision, Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.steps import EVERYONE, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.model.verdict import Roster
from tocsin.trust.keyring import deterministic_signers, roster_of

SIGNERS = deterministic_signers(b"replica", 4)
ROSTER = roster_of("replica", SIGNERS)


class Cluster:
    """Replicas on a network with 1 ms delay; `drop(source, target, message)` may lose messages."""

    def __init__(self, n: int = 4, dead: Collection[int] = (), config: ConsensusConfig | None = None) -> None:
        self.config = config or ConsensusConfig()
        self.signers = deterministic_signers(b"replica", n)
        self.roster: Roster = roster_of("replica", self.signers)
        self.disks: list[list[tuple[str, bytes]]] = [[] for _ in range(n)]
        self.dead = set(dead)
        self.drop: Callable[[int, int, Any], bool] = lambda _source, _target, _message: False
        self.sent: list[tuple[int, Any]] = []
        self.emitted: list[tuple[int, str, Any]] = []
        self.now = 0
        self.fuse: dict[int, int] = {}  # monitor -> effects that it still carries out before it crashes
        self.kinds: dict[int, type[Replica]] = {}
        self._queue: list[tuple[int, int, int, Any]] = []
        self._timers: dict[tuple[int, str], int] = {}
        self._pushed = 0
        self.replicas = [self.boot(i) for i in range(n)]
        for i in range(n):
            self.give(i, Start())

    def boot(self, i: int) -> Replica:
        replica = self.kinds.get(i, Replica)(self.roster, i, self.signers[i], FleetPosterior(self.roster), self.config)
        replica.recover(self.disks[i])
        return replica

    def restart(self, i: int) -> None:
        """Crash and come back, from what is on the disk."""
        self._timers = {key: count + 1 for key, count in self._timers.items() if key[0] == i} | {
            key: count for key, count in self._timers.items() if key[0] != i
        }
        self.replicas[i] = self.boot(i)
        self.give(i, Start())

    def give(self, i: int, event: Any) -> None:
        if i in self.dead:
            return
        for effect in self.replicas[i].step(self.now, event):
            if i in self.fuse:
                self.fuse[i] -= 1
                if self.fuse[i] < 0:
                    del self.fuse[i]
                    self.restart(i)
                    return
            if isinstance(effect, Persist):
                if effect.kind == journal.SNAPSHOT:
                    self.disks[i].clear()
                self.disks[i].append((effect.kind, effect.record))
            elif isinstance(effect, Emit):
                self.emitted.append((i, effect.kind, effect.value))
            elif isinstance(effect, SetTimer):
                number = self._timers[i, effect.token] = self._timers.get((i, effect.token), 0) + 1
                if effect.delay_ns >= 0:
                    self._push(effect.delay_ns, i, (effect.token, number))
            else:
                self._send(i, effect)

    def _send(self, i: int, effect: Send) -> None:
        message = ENVELOPE.decode(effect.body)
        self.sent.append((i, message))
        for target in range(self.roster.n):
            if target != i and effect.to in (EVERYONE, target) and not self.drop(i, target, message):
                self._push(MILLISECOND_NS, target, Received(i, effect.body))

    def _push(self, delay: int, i: int, event: Any) -> None:
        self._pushed += 1
        heapq.heappush(self._queue, (self.now + delay, self._pushed, i, event))

    def run(self, milliseconds: int = 10_000) -> None:
        end = self.now + milliseconds * MILLISECOND_NS
        while self._queue and self._queue[0][0] <= end:
            self.now, _, i, event = heapq.heappop(self._queue)
            if isinstance(event, tuple):
                token, number = event
                if self._timers[i, token] != number:
                    continue
                event = Fired(token)
            self.give(i, event)
        self.now = end

    def state(self, window: int = 0, agent: str = "mallory", nats: int = 30, by: Collection[int] | None = None) -> None:
        for i in by if by is not None else range(self.roster.n):
            item = Evidence(
                monitor=i,
                agent_id=agent,
                first_seq=window * 8,
                last_seq=window * 8 + 7,
                log_e_q32=nats * Q32,
                log_bf_q32=nats * Q32,
            )
            self.give(i, SubmitEvidence((item,), window + 1, 10))

    def decisions(self, i: int) -> list[Decision]:
        return [value for monitor, kind, value in self.emitted if monitor == i and kind == "decided"]

    def double_votes(self) -> list[Any]:
        """Slots in which one monitor was seen to vote for two values."""
        cast: dict[Any, set[Any]] = {}
        for i, m in self.sent:
            if isinstance(m, Vote):
                cast.setdefault((i, m.epoch, m.view, m.phase), set()).add((m.cut_root, m.posterior_root))
        return [slot for slot, values in cast.items() if len(values) > 1]

    def armed(self, i: int) -> set[str]:
        """Timers of monitor i that will fire."""
        waiting = [event for _, _, monitor, event in self._queue if monitor == i and isinstance(event, tuple)]
        return {token for token, number in waiting if self._timers[i, token] == number}

    def epochs(self) -> list[int]:
        return [replica.epoch for replica in self.replicas]

    def refusals(self, i: int) -> set[str]:
        return {str(value) for monitor, kind, value in self.emitted if monitor == i and kind == "refused"}
