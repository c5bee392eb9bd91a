"""The public interface: establish baselines, detect deviations, combine everybody's evidence.

>>> import tocsin
>>> session = tocsin.local()
>>> analysis = tocsin.DistributedBehavioralAnalysis(session)

Teach it what two agents normally do, then ask about one of them:

>>> for i in range(120):
...     for agent in ("agent-a", "agent-b"):
...         _ = session.observe(agent, {"action": ("search", "read")[i % 2], "latency_ms": 100 + i % 7})
>>> baseline = analysis.establish_baseline_distributed(["agent-a", "agent-b"], aggregation_level=1)
>>> baseline.agents, baseline.samples
(2, 240)
>>> evidence = analysis.detect_behavioral_deviation_distributed(
...     "agent-a", {"action": "search", "latency_ms": 103}, consensus_required=True)
>>> analysis.calculate_global_compromise_confidence(evidence) < 0.05
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from tocsin.model.baseline import DistributedBaseline
    from tocsin.model.evidence import Evidence
    from tocsin.model.verdict import Roster, Verdict

MAX_CLUSTER = 100_000


class Session(Protocol):
    """A fleet of monitors to talk to: `tocsin.local()` in this process, or a running service."""

    @property
    def roster(self) -> Roster:
        """The monitors' public keys; certificates and evidence are checked against it."""
        ...

    def observe(self, agent_id: str, behavior: Mapping[str, Any]) -> int:
        """Record one event (keys: see `tocsin.wire.records`). Returns its position in the ingest log."""
        ...

    def establish(self, agents: Sequence[str], level: int) -> DistributedBaseline:
        """Seal the agents' baselines and return the baseline at `level`."""
        ...

    def assess(self, agent_id: str, behavior: Mapping[str, Any], *, consensus: bool) -> list[Evidence]:
        """Judge one more event; every monitor's signed evidence about the agent."""
        ...

    def verdicts(self) -> list[Verdict]:
        """Every certified verdict so far, oldest first."""
        ...

    def close(self) -> None:
        """Release files and threads."""
        ...


def check_cluster(agents: Any, level: Any) -> None:
    """Raise InputError unless `agents` are 1 to 100,000 different names and `level` is a level of the tree."""
    from tocsin.errors import InputError

    if isinstance(agents, (str, bytes)) or not isinstance(agents, Sequence):
        raise InputError(f"agent_cluster is of type {type(agents).__name__}", remedy="give a list of agent ids")
    names = cast("Sequence[Any]", agents)
    if not 1 <= len(names) <= MAX_CLUSTER:
        raise InputError(f"agent_cluster has {len(names)} names", remedy=f"give 1 to {MAX_CLUSTER} agent ids")
    if not all(isinstance(name, str) for name in names):
        raise InputError("agent_cluster holds something that is not text", remedy="give agent ids as text")
    if len(set(names)) != len(names):
        raise InputError("agent_cluster names an agent twice", remedy="give each agent id once")
    if not isinstance(level, int) or isinstance(level, bool) or level not in (0, 1, 2, 3):
        raise InputError(
            f"aggregation_level {level!r:.40} is not a level of the tree",
            remedy="use 0 (agents), 1 (regions), 2 (zones) or 3 (global)",
        )


class DistributedBehavioralAnalysis:
    """Three questions over a `Session`. Names and signatures are a fixed interface."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def establish_baseline_distributed(self, agent_cluster: list[str], aggregation_level: int) -> DistributedBaseline:
        """Learn what `agent_cluster` normally does, from everything observed of it so far.

        Args:
            agent_cluster: agent ids, 1 to 100,000; each must have been observed.
            aggregation_level: 0 the agents themselves (in `parts`), 1 their regions, 2 zones, 3 the whole fleet.

        Returns:
            Baseline whose statistics are derived from exact integer summaries: the same for any order or tree shape.

        Raises:
            InputError: the cluster is empty, has duplicates, or the level is not 0..3.
            UnknownAgent: an agent has never been observed.
        """
        check_cluster(agent_cluster, aggregation_level)
        return self.session.establish(agent_cluster, aggregation_level)

    def detect_behavioral_deviation_distributed(
        self, agent_id: str, current_behavior: dict[str, Any], consensus_required: bool
    ) -> list[Evidence]:
        """Judge one more event of an agent against its baseline.

        Args:
            agent_id: an observed agent.
            current_behavior: one event; keys as in `tocsin.wire.records` (`action`, `effect`, numeric features ...).
            consensus_required: wait until n - f monitors certified a cut that contains the evidence.

        Returns:
            One signed `Evidence` per monitor that spoke. `log_e_q32` controls error, `log_bf_q32` is belief.

        Raises:
            UnknownAgent: the agent has never been observed.
            InputError: the behaviour does not fit.
            QuorumUnavailable: consensus was required and not reached; carries the local evidence.
        """
        from tocsin.errors import InputError

        if type(consensus_required) is not bool:
            raise InputError(
                f"consensus_required is of type {type(consensus_required).__name__}", remedy="give True or False"
            )
        return self.session.assess(agent_id, current_behavior, consensus=consensus_required)

    def calculate_global_compromise_confidence(self, evidence_from_all_nodes: list[Evidence]) -> float:
        """Probability, 0..1, that the agent (with several agents: at least one) is compromised.

        Pure: signatures are verified against the session's roster, what does not verify or repeats is dropped,
        each monitor's belief is capped, the f most extreme on each side are trimmed, the rest is added as exact
        integers, then one logistic. The order of the list cannot matter.

        Raises:
            InputError: what is given is not a list of `Evidence`.
        """
        from tocsin.detection.fusion import global_compromise_confidence

        return global_compromise_confidence(evidence_from_all_nodes, self.session.roster)
