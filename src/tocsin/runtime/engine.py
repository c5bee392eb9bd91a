"""A whole small fleet's worth of tocsin in one object: monitors, tree, verdicts. Single-threaded; the host owns the thread.

    entries (already durable) ──> Hierarchy (summaries climb) ──> Cluster (monitors judge, agree) ──> verdicts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.consensus.replica import ConsensusConfig, Replica
from tocsin.detection.detector import DetectorConfig, FleetDetector
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import UnknownAgent
from tocsin.model.baseline import DistributedBaseline
from tocsin.model.steps import Emit
from tocsin.model.verdict import Roster, Verdict
from tocsin.monitor.inputs import Flush, Observed, Sealed
from tocsin.monitor.monitor import Monitor, Transform
from tocsin.runtime.clock import Clock
from tocsin.runtime.cluster import Cluster, NoRecords, Records
from tocsin.runtime.journal import Journal
from tocsin.runtime.memory_bus import MemoryBus
from tocsin.trust.signing import Signer

OnVerdict = Callable[[Verdict], None]


def _ignore(_: Verdict) -> None:
    """No listener."""


class Engine:
    """`roster.n` monitors that all see every event. Feed it only what is already durable, in ingest order."""

    def __init__(
        self,
        roster: Roster,
        signers: Sequence[Signer],
        clock: Clock,
        *,
        records: Records | None = None,
        consensus: ConsensusConfig | None = None,
        alter: Mapping[int, Transform] | None = None,
        on_verdict: OnVerdict = _ignore,
        bus: MemoryBus | None = None,
    ) -> None:
        self.roster = roster
        self.clock = clock
        self.verdicts: dict[str, Verdict] = {}
        self.refused: dict[str, int] = {}
        self.equivocations: set[int] = set()
        self.decided_epoch = -1
        self.certified_signers: tuple[int, ...] = ()
        self.events = 0
        self.tree = Hierarchy()
        self._on_verdict = on_verdict
        alterations = alter or {}
        self.monitors = [
            self._monitor(i, signer, consensus or ConsensusConfig(), alterations.get(i)) for i, signer in enumerate(signers)
        ]
        self.cluster = Cluster(self.monitors, clock, records or NoRecords(), self._emitted, bus)

    def _monitor(self, me: int, signer: Signer, consensus: ConsensusConfig, alter: Transform | None) -> Monitor:
        detector = FleetDetector(DetectorConfig(prior_ppm=self.roster.prior_ppm))
        replica = Replica(self.roster, me, signer, FleetPosterior(self.roster), consensus)
        if alter is None:
            return Monitor(self.roster, me, replica, detector)
        return Monitor(self.roster, me, replica, detector, alter=alter)

    def recover(self, journal: Journal) -> None:
        """Rebuild what every monitor had bound itself to. Call before `start`."""
        for monitor in self.monitors:
            monitor.recover(journal.records(monitor.me))

    def start(self) -> None:
        self.cluster.start()
        self.cluster.pump()

    def feed(self, entries: Sequence[Observed | Sealed | Flush]) -> None:
        """Analyse `entries`, then deliver whatever messages that caused."""
        for entry in entries:
            if isinstance(entry, Observed):
                self.events += len(entry.batch)
                self.tree.observe(entry.batch)
        self.cluster.feed(entries)
        self.cluster.pump()
        self.tree.pump(self.clock.now_ns())

    def tick(self) -> None:
        """Fire due timers and deliver messages."""
        self.cluster.pump()

    def establish(self, agents: Sequence[str], level: int) -> DistributedBaseline:
        """The baseline of `agents` at `level`. Raises UnknownAgent."""
        known = self.witness.detector.known
        for agent in agents:
            if agent not in known:
                raise UnknownAgent(
                    f"agent {agent!r:.80} has never been observed", remedy="`tocsin agents` lists the observed ones"
                )
        return self.tree.establish(agents, level, self.clock.now_ns())

    @property
    def witness(self) -> Monitor:
        """The monitor whose view is shown where one honest view is enough: the first that nobody caught lying."""
        return next((m for m in self.monitors if m.me not in self.equivocations), self.monitors[0])

    def _emitted(self, monitor: int, emit: Emit) -> None:
        if emit.kind == "verdict":
            verdict: Verdict = emit.value
            if verdict.verdict_id not in self.verdicts:
                self.verdicts[verdict.verdict_id] = verdict
                self._on_verdict(verdict)
        elif emit.kind == "decided":
            self.decided_epoch = max(self.decided_epoch, emit.value.epoch)
            self.certified_signers = tuple(sorted(emit.value.certificate.signatures))
        elif emit.kind == "refused":
            reason = f"{emit.value}"
            self.refused[reason] = self.refused.get(reason, 0) + 1
        elif emit.kind == "equivocation":
            self.equivocations.add(emit.value.monitor)

    def status(self) -> dict[str, Any]:
        """Counts for people and dashboards; cheap enough for every second."""
        detector = self.witness.detector
        return {
            "events": self.events,
            "agents": len(detector.agents),
            "agents_judged": detector.fleet_size,
            "evidence_stated": sum(m.evidence_stated for m in self.monitors),
            "verdicts": len(self.verdicts),
            "agents_flagged": len({v.agent_id for v in self.verdicts.values() if v.decision == "compromised"}),
            "epoch": self.decided_epoch,
            "monitors": self.roster.n,
            "tolerated_faults": self.roster.f,
            "quorum": self.roster.quorum,
            "last_signers": list(self.certified_signers),
            "equivocators": sorted(self.equivocations),
            "messages": self.cluster.bus.sent,
            "message_bytes": self.cluster.bus.sent_bytes,
            "refused": dict(self.refused),
            "tree": self.tree.state(),
        }
