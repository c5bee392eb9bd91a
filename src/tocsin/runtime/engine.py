"""A whole small fleet's worth of tocsin in one object: monitors, tree, verdicts. The host owns its one thread.

entries (already durable) ──> Hierarchy (summaries climb) ──> Cluster (monitors judge, agree) ──> verdicts
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tocsin.aggregation.activity import ActivityWindows, Pace, Snapshot
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.rounds import Outcome, Rounds
from tocsin.consensus.replica import ConsensusConfig, Replica
from tocsin.detection.detector import DetectorConfig, FleetDetector
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.baseline import DistributedBaseline, Level
from tocsin.model.evidence import Evidence
from tocsin.model.steps import Emit
from tocsin.model.verdict import PosteriorEntry, Roster, Verdict
from tocsin.monitor.inputs import Entry, Flush, Observed, Refitted, Retired, Screened, Sealed
from tocsin.monitor.monitor import Monitor, Transform
from tocsin.runtime.clock import Clock
from tocsin.runtime.cluster import Cluster, NoRecords, Records
from tocsin.runtime.journal import Journal
from tocsin.runtime.memory_bus import MemoryBus
from tocsin.runtime.screener import Screener
from tocsin.runtime.shared_detector import SharedDetector
from tocsin.stats.logodds import log_odds_of_ppm
from tocsin.trust.signing import DITHER, Signer
from tocsin.wire.events import trimmed
from tocsin.wire.evidence import attested_items, open_batch

OnVerdict = Callable[[Verdict], None]


BLAMED_SHOWN = 10
RETIRED = "(retired)"  # region and zone of agents that left while a round still looks back on them


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
        pace: Pace | None = None,
        background: bool = False,
    ) -> None:
        """`pace` is that of the rounds that look for coordinated groups; in the `background`, or where they are due."""
        self.roster = roster
        self.clock = clock
        self.verdicts: dict[str, Verdict] = {}
        self._provisional: dict[int, tuple[Verdict, ...]] = {}  # by monitor, until it sees a decision
        self.refused: dict[str, int] = {}
        self.equivocations: set[int] = set()
        self.decided_epoch = -1
        self.certified_signers: tuple[int, ...] = ()
        self.events = 0
        self.tree = Hierarchy()
        self.retired = 0  # agents that operators took out of the tree's sums
        self.refits = 0  # epochs that they opened
        self.samples_discarded = 0  # by those: what had been learned on the grids before
        self.activity = ActivityWindows(pace or Pace())
        secret = signers[0].sign(DITHER, roster.net.encode())
        self._screener = Screener(Rounds(self.activity.pace.length, secret), background=background)
        self.screened: Outcome | None = None  # the latest round
        self.pairs_excused = 0
        self.blamed = Counter[str]()  # region or zone -> what it sent to rounds of screening and was refused
        self.prior_log_odds_q32 = log_odds_of_ppm(roster.prior_ppm)
        self._posteriors: list[FleetPosterior] = []
        self._on_verdict = on_verdict
        config = DetectorConfig(alpha=roster.alpha_ppm / 1e6, prior=roster.prior_ppm / 1e6)
        self._detector = SharedDetector(FleetDetector(config))
        alterations = alter or {}
        self.monitors = [
            self._monitor(i, signer, consensus or ConsensusConfig(), alterations.get(i))
            for i, signer in enumerate(signers)
        ]
        self.cluster = Cluster(self.monitors, clock, records or NoRecords(), self._emitted, bus)

    def _monitor(self, me: int, signer: Signer, consensus: ConsensusConfig, alter: Transform | None) -> Monitor:
        posterior = FleetPosterior(self.roster)
        self._posteriors.append(posterior)
        replica = Replica(self.roster, me, signer, posterior, consensus)
        return Monitor(me, replica, self._detector.seat(), alter=alter)

    def recover(self, journal: Journal) -> None:
        """Rebuild what every monitor had bound itself to. Call before `start`."""
        for monitor in self.monitors:
            monitor.recover(journal.records(monitor.me))

    def start(self) -> None:
        self.cluster.start()
        self.cluster.pump()

    def feed(self, entries: Sequence[Entry | Flush], *, more: bool = False) -> None:
        """Analyse `entries`, then deliver the messages that caused; where `more` follow, messages go with those."""
        snapshots: list[Snapshot] = []
        for_monitors: list[Observed | Sealed | Flush] = []
        for logged in entries:
            # Tables are cut out of larger ones, and may name agents of which there is no event here.
            entry = Observed(trimmed(logged.batch)) if isinstance(logged, Observed) else logged
            if isinstance(entry, Retired):
                self.retired += self.tree.retire(entry.agents)
            elif isinstance(entry, Refitted):
                epoch = self.tree.leaves.epoch
                self.samples_discarded += self.tree.refit()
                self.refits += self.tree.leaves.epoch != epoch  # none is opened before there is one
            else:
                for_monitors.append(entry)
            if isinstance(entry, Observed):
                self.events += len(entry.batch)
                self.tree.observe(entry.batch)
                snapshots += self.activity.observe(entry.batch)
        self.cluster.feed(for_monitors)
        self._screen(snapshots)
        if not more:
            self.cluster.pump()
        self.tree.pump(self.clock.now_ns())

    def tick(self) -> None:
        """Fire due timers and deliver messages; let what has changed climb the tree."""
        self._tell()
        self.cluster.pump()
        self.tree.pump(self.clock.now_ns())

    def next_timer_ns(self) -> int | None:
        """When `tick` is next called for; None if nothing waits."""
        return min((t for t in (self.cluster.next_timer_ns(), self.tree.due_ns()) if t is not None), default=None)

    def _screen(self, snapshots: Sequence[Snapshot]) -> None:
        """Begin the rounds that are due; tell the monitors what those that are over found."""
        for snapshot in snapshots:
            tree = self.tree.tree
            regions = [tree.region_of(name) if name in tree else RETIRED for name in snapshot.names]
            zones = {region: tree.nodes[region].parent if region in tree.nodes else RETIRED for region in set(regions)}
            self._screener.submit(snapshot, regions, zones)
            self._tell()
        self._tell()

    def _tell(self) -> None:
        for outcome in self._screener.outcomes():
            self.screened = outcome
            self.pairs_excused += outcome.excused
            self.blamed += outcome.blamed
            for reason, count in outcome.refused.items():
                self.refused[reason] = self.refused.get(reason, 0) + count
            self.cluster.feed([Screened(outcome.findings)])

    def establish(self, agents: Sequence[str], level: int) -> DistributedBaseline:
        """The baseline that covers `agents` at `level`. Raises UnknownAgent."""
        return self.tree.establish(agents, level, self.clock.now_ns())

    @property
    def placed(self) -> list[str]:
        """Agents observed, but for those that are retired."""
        return [name for name in self.witness.names if name in self.tree.tree]

    def learned(self) -> dict[str, Any]:
        """What the tree's sums rest on, and how much of it a refit would count again."""
        found = self.establish([], Level.GLOBAL)
        state = self.tree.state()
        return {
            "epoch": found.epoch, "agents": found.agents, "samples": found.samples, "summary_hash": found.summary_hash,
            "saturating": state["saturating"], "kept": self.tree.leaves.kept_by_refit, "refits": self.refits,
            "retired": self.retired,
        }  # fmt: skip

    @property
    def witness(self) -> Monitor:
        """The monitor whose view is shown where one honest view is enough: the first that nobody caught lying."""
        return next((m for m in self.monitors if m.me not in self.equivocations), self.monitors[0])

    @property
    def entries(self) -> dict[str, PosteriorEntry]:
        """What the monitors agreed about each agent they spoke of; not to be changed."""
        return self._posteriors[self.witness.me].entries

    def stated_about(self, agent_id: str) -> list[dict[str, Any]]:
        """What each monitor said about an agent, in nats, and whether it lies outside what the others kept."""
        return self._posteriors[self.witness.me].stated_about(agent_id)

    def chain_lengths(self) -> list[int]:
        """How many evidence batches of each monitor the witness holds."""
        log = self.witness.replica.evidence_log
        return [log.tip(m).seq + 1 for m in range(self.roster.n)]

    def evidence_since(self, lengths: Sequence[int], agent_id: str) -> list[Evidence]:
        """Signed evidence about an agent in the batches that came after `lengths` (see `chain_lengths`)."""
        log = self.witness.replica.evidence_log
        found: list[Evidence] = []
        for m, length in enumerate(lengths):
            for raw in log.stretch(m, length - 1, log.tip(m).seq):
                found.extend(e for e in attested_items(open_batch(raw, self.roster)) if e.agent_id == agent_id)
        return found

    @property
    def provisional(self) -> list[Verdict]:
        """What the witness would decide about, if a quorum could be reached: marked, and certified by nobody."""
        return list(self._provisional.get(self.witness.me, ()))

    def _emitted(self, monitor: int, emit: Emit) -> None:
        if emit.kind == "verdict":
            verdict: Verdict = emit.value
            if verdict.verdict_id not in self.verdicts:
                self.verdicts[verdict.verdict_id] = verdict
                self._on_verdict(verdict)
        elif emit.kind == "provisional verdicts":
            self._provisional[monitor] = emit.value
        elif emit.kind == "decided":
            self._provisional.pop(monitor, None)
            self.decided_epoch = max(self.decided_epoch, emit.value.epoch)
            self.certified_signers = emit.value.certificate.monitors
        elif emit.kind == "refused":
            reason = f"{emit.value}"
            self.refused[reason] = self.refused.get(reason, 0) + 1
        elif emit.kind == "equivocation":
            self.equivocations.add(emit.value.monitor)

    def status(self) -> dict[str, Any]:
        """Counts for people and dashboards; cheap enough for every second."""
        detector = self.witness.detector
        return {
            "as_of_ms": self.clock.now_ns() // 1_000_000,
            "events": self.events,
            "windows": self.witness.windows,
            "agents": len(self.witness.names),
            "agents_in_alarm_rule": detector.fleet_size,
            "alarm_log_e_nats": math.log(max(1, detector.fleet_size) * 1e6 / self.roster.alpha_ppm),
            "evidence_stated": sum(m.evidence_stated for m in self.monitors),
            "verdicts": len(self.verdicts),
            "certifying": self.witness.me not in self._provisional,
            "provisional": [{"agent_id": v.agent_id, "decision": v.decision} for v in self.provisional],
            "agents_flagged": sum(entry.flagged for entry in self.entries.values()),
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
            "agents_retired": self.retired,
            "refits": self.refits,
            "samples_discarded": self.samples_discarded,
            "coordination": {
                "rounds": self.screened.findings.number if self.screened else 0,
                "agents_screened": self.screened.findings.agents if self.screened else 0,
                "agents_in_groups": len(self.screened.findings.bonds) if self.screened else 0,
                "pairs_excused": self.pairs_excused,
                "refused_of": dict(self.blamed.most_common(BLAMED_SHOWN)),
                "late_events": self.activity.late,
                "early_events": self.activity.ahead,
            },
        }
