"""A monitor: events in, signed evidence and certified verdicts out. Nothing here but routing.

    Observed ──> FleetDetector ──> Ledger ──> Replica.SubmitEvidence ─┐
    Screened ──> JointEvidence ─────────────> Replica.SubmitEvidence ─┤
    Received / Fired ───────────────────────> Replica ────────────────┴──> Send, Persist, SetTimer, Emit

Recovery: the host first replays the journal (`recover`), then the ingest log (`Observed`, `Sealed`, in order). The
detector is deterministic, so the second replay rebuilds exactly the state that stated what the journal holds. Events
of an agent up to the last one that this monitor's own chain speaks about are not stated again, nor are rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tocsin.consensus.inputs import Start, SubmitEvidence
from tocsin.consensus.replica import Replica
from tocsin.detection.detector import Observation
from tocsin.detection.explain import Explanation
from tocsin.model.evidence import COORDINATION, Evidence, Reason
from tocsin.model.steps import Effect, Emit, Fired, Received
from tocsin.monitor.coordination import JointEvidence
from tocsin.monitor.inputs import Flush, Observed, Screened, Sealed
from tocsin.monitor.judge import Judge
from tocsin.monitor.ledger import Ledger
from tocsin.monitor.verdicts import verdicts_of
from tocsin.stats.logodds import to_q32

MonitorInput = Observed | Screened | Sealed | Flush | Start | Received | Fired
Transform = Callable[[tuple[Evidence, ...]], tuple[Evidence, ...]]


def _unaltered(items: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    return items


class Monitor:
    """Monitor number `me`. `step(now_ns, input) -> list[Effect]`; see the module docstring for recovery.

    `alter` exists for fault injection: a lying monitor is an honest one whose statements pass through a lie.
    """

    def __init__(self, me: int, replica: Replica, detector: Judge, *, alter: Transform | None = None) -> None:
        self.me = me
        self.replica = replica
        self.detector = detector
        self._ledger = Ledger()
        self._joint = JointEvidence(me)
        self._through = 0  # ingest offset up to which this monitor has analysed
        self._alter = alter or _unaltered
        self._stated: dict[str, int] = {}  # agent -> last event that the journal's statements speak about, on recovery
        self.evidence_stated = 0
        self.names: list[str] = []  # every agent observed, in the order of the detector's indices
        self.index: dict[str, int] = {}
        self.seen: Observation | None = None  # of the latest batch

    def recover(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Rebuild from journal records (kind, bytes), oldest first. Call once, before any `step`."""
        self.replica.recover(records)
        for agent_id, kind, last in self.replica.spoken():
            if kind == COORDINATION:
                self._joint.recover(agent_id, last)
            else:
                self._stated[agent_id] = last

    def step(self, now_ns: int, event: MonitorInput) -> list[Effect]:
        """Advance by one input. Pure but for this object's own state."""
        if isinstance(event, Observed):
            return self._observe(now_ns, event)
        if isinstance(event, Screened):
            return self._submit(now_ns, self._joint.add(event.findings, now_ns // 1_000_000), self._through)
        if isinstance(event, Sealed):
            known = None if event.agents is None else tuple(a for a in event.agents if a in self.index)
            if known is None or known:
                self.detector.establish(known)
            return []
        if isinstance(event, Flush):
            return self._state(now_ns, self._ledger.pending().tolist(), event.offset)
        return self._finish(now_ns, self.replica.step(now_ns, event))

    @property
    def windows(self) -> int:
        """Windows of behaviour compared with a baseline or learned from: an agent's events in one batch."""
        return self._ledger.windows

    @property
    def events(self) -> list[int]:
        """Number of events analysed, per agent."""
        return self._ledger.events.tolist()[: len(self.names)]

    def _observe(self, now_ns: int, event: Observed) -> list[Effect]:
        batch = event.batch
        if len(batch) == 0:
            return []
        seen = self.detector.observe(batch)
        self.seen = seen
        self._through = batch.offset + len(batch)
        for name in seen.agents[len(self.names) :]:
            self.index[name] = len(self.names)
            self.names.append(name)
        material = self._ledger.add(seen.agent_index, seen.seq, seen.log_bf, seen.log_e).tolist()
        if self._stated:
            known = self._skip_stated(seen.agent_index.tolist())
            material = [agent for agent in material if agent not in known]
        return self._state(now_ns, material, self._through)

    def _skip_stated(self, agents: Iterable[int]) -> set[int]:
        """While the ingest log is replayed: drop what the journal holds statements about. Returns whose it was."""
        skipped: set[int] = set()
        for agent in set(agents):
            name = self.names[agent]
            if name not in self._stated:
                continue
            if self._ledger.events[agent] - 1 <= self._stated[name]:
                self._ledger.take(agent)
                skipped.add(agent)
            else:
                del self._stated[name]
        return skipped

    def _state(self, now_ns: int, agents: list[int], offset: int) -> list[Effect]:
        return self._submit(now_ns, tuple(self._evidence(now_ns, agent) for agent in agents), offset)

    def _submit(self, now_ns: int, items: tuple[Evidence, ...], offset: int) -> list[Effect]:
        items = self._alter(items) if items else items
        if not items:
            return []
        self.evidence_stated += len(items)
        submit = SubmitEvidence(items, offset, self.detector.fleet_size)
        return self._finish(now_ns, self.replica.step(now_ns, submit))

    def _evidence(self, now_ns: int, agent: int) -> Evidence:
        first, last, log_bf, log_e = self._ledger.take(agent)
        return Evidence(
            monitor=self.me,
            agent_id=self.names[agent],
            first_seq=first,
            last_seq=last,
            log_e_q32=to_q32(log_e),
            log_bf_q32=to_q32(log_bf),
            observed_ms=now_ns // 1_000_000,
            reasons=self.detector.reasons(agent),
        )

    def _finish(self, now_ns: int, effects: list[Effect]) -> list[Effect]:
        """Turn the replica's decisions into verdicts; pass everything else through."""
        out: list[Effect] = []
        for effect in effects:
            out.append(effect)
            if isinstance(effect, Emit) and effect.kind == "decided":
                verdicts = verdicts_of(effect.value, now_ns // 1_000_000, self._reasons_of)
                out.extend(Emit("verdict", verdict) for verdict in verdicts)
            elif isinstance(effect, Emit) and effect.kind == "provisional":
                verdicts = verdicts_of(effect.value, now_ns // 1_000_000, self._reasons_of)
                marked = tuple(msgspec.structs.replace(verdict, provisional=True) for verdict in verdicts)
                out.append(Emit("provisional verdicts", marked))
        return out

    def _reasons_of(self, agent_id: str) -> tuple[Reason, ...]:
        own = self.detector.reasons(self.index[agent_id]) if agent_id in self.index else ()
        return (*self._joint.reasons(agent_id), *own)

    def explain(self, agent_id: str) -> Explanation:
        """Why this monitor believes what it believes about `agent_id`. Raises `UnknownAgent`."""
        return self._joint.explained(self.detector.explain(agent_id))
