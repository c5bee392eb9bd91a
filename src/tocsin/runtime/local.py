"""`tocsin.local()`: a complete fleet of monitors inside the calling program, for notebooks, tests and small fleets.

Time is virtual: every call runs the monitors until they have agreed, and returns. Nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tocsin.analysis import check_cluster
from tocsin.errors import InputError, QuorumUnavailable, UnknownAgent
from tocsin.model.baseline import DistributedBaseline
from tocsin.model.events import Phase
from tocsin.model.evidence import Evidence
from tocsin.model.verdict import Roster, Verdict
from tocsin.monitor.inputs import Flush, Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.memory_bus import Filter, MemoryBus
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire.records import batch_from_records

BUFFER_ROWS = 4096
MAX_LOCAL_MONITORS = 100
SETTLE_NS = 30_000_000_000  # virtual: how long monitors may take to agree


class LocalSession:
    """Implements `tocsin.analysis.Session`. Not thread-safe."""

    def __init__(self, engine: Engine, clock: VirtualClock) -> None:
        self._engine = engine
        self._clock = clock
        self._rows: list[tuple[str, Mapping[str, Any]]] = []
        self._offset = 0
        self._sealed: set[str] = set()
        self._closed = False

    @property
    def roster(self) -> Roster:
        return self._engine.roster

    def observe(self, agent_id: str, behavior: Mapping[str, Any]) -> int:
        """Record one event; see `tocsin.wire.records` for the keys. Rows of sealed agents are judged.

        Raises InputError at once where the event does not fit, or the session is closed.
        """
        self._demand_open()
        batch_from_records([(agent_id, behavior)], offset=0, phases=[0])  # refuse bad input now, not at the next flush
        self._rows.append((agent_id, dict(behavior)))  # a copy: the caller may use its dictionary again
        if len(self._rows) >= BUFFER_ROWS:
            self._flush()
        return self._offset + len(self._rows) - 1

    def establish(self, agents: Sequence[str], level: int) -> DistributedBaseline:
        self._demand_open()
        check_cluster(agents, level)
        self._flush()
        baseline = self._engine.establish(agents, level)
        self._sealed.update(agents)
        self._engine.feed([Sealed(tuple(agents), self._offset)])
        return baseline

    def assess(self, agent_id: str, behavior: Mapping[str, Any], *, consensus: bool) -> list[Evidence]:
        self._demand_open()
        if not isinstance(cast(object, agent_id), str):
            raise InputError(f"agent_id is of type {type(agent_id).__name__}", remedy="give the agent's name as text")
        self._flush()
        if agent_id not in self._engine.witness.index:
            raise UnknownAgent(
                f"agent {agent_id!r:.80} has never been observed", remedy="observe its normal behaviour first"
            )
        if agent_id not in self._sealed:
            raise InputError(
                f"agent {agent_id!r:.80} has no established baseline",
                remedy="call establish_baseline_distributed for it first",
            )
        batch_from_records([(agent_id, behavior)], offset=0, phases=[0])
        before = self._engine.chain_lengths()
        self._rows.append((agent_id, dict(behavior)))
        self._flush()
        self._engine.feed([Flush(self._offset)])
        self._engine.cluster.settle(SETTLE_NS)
        stated = self._engine.evidence_since(before, agent_id)
        if consensus and not self._engine.witness.replica.settled:
            raise QuorumUnavailable(
                f"no certificate covers the evidence about {agent_id!r:.80}: fewer than {self.roster.quorum} of "
                f"{self.roster.n} monitors answered",
                remedy="retry when the monitors can reach each other; the local evidence is provisional",
                local_evidence=tuple(stated),
            )
        return stated

    def verdicts(self) -> list[Verdict]:
        self._demand_open()
        self._flush()
        self._engine.cluster.settle(SETTLE_NS)
        return sorted(self._engine.verdicts.values(), key=lambda verdict: (verdict.epoch, verdict.verdict_id))

    def close(self) -> None:
        """Nothing is held outside this process's memory, but a closed session answers no more."""
        self._closed = True

    def _demand_open(self) -> None:
        if self._closed:
            raise InputError("the session is closed", remedy="start another with tocsin.local()")

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        phases = [Phase.LIVE if agent in self._sealed else Phase.BASELINE for agent, _ in rows]
        batch = batch_from_records(rows, offset=self._offset, phases=phases)
        self._offset += len(rows)
        self._clock.advance_to(int(batch.t_ns.max()))
        self._engine.feed([Observed(batch)])


def local(
    *, monitors: int = 4, alpha: float = 0.01, prior: float = 0.01, seed: int = 0, deliver: Filter | None = None
) -> LocalSession:
    """Start `monitors` monitors in this process and return the session that talks to them.

    Args:
        monitors: how many; floor((n - 1) / 3) of them may fail.
        alpha: target share of false alarms among alarms, over the fleet.
        prior: probability, before any evidence, that an agent is compromised.
        seed: of the monitors' signing keys: fine for experiments, not for verdicts anybody relies on.
        deliver: loses messages between monitors where it returns False (source, destination, body); for experiments.

    Raises:
        InputError: an argument is out of range.
    """
    _check_options(monitors, alpha, prior, seed, deliver)
    signers = deterministic_signers(seed.to_bytes(8, "big", signed=True), monitors)
    roster = Roster(
        net="local",
        keys=tuple(signer.public_key for signer in signers),
        alpha_ppm=round(alpha * 1e6),
        prior_ppm=round(prior * 1e6),
    )
    clock = VirtualClock()
    engine = Engine(roster, signers, clock, bus=MemoryBus(monitors, deliver))
    engine.start()
    return LocalSession(engine, clock)


def _check_options(monitors: Any, alpha: Any, prior: Any, seed: Any, deliver: Any) -> None:
    if type(monitors) is not int or not 1 <= monitors <= MAX_LOCAL_MONITORS:
        raise InputError(
            f"cannot start {monitors!r:.40} monitors", remedy=f"use a whole number from 1 to {MAX_LOCAL_MONITORS}"
        )
    for name, share in (("alpha", alpha), ("prior", prior)):
        if not isinstance(share, float) or not 1e-6 <= share <= 1 - 1e-6:
            raise InputError(
                f"{name}={share!r:.40} is out of range", remedy="use a number between 0.000001 and 0.999999"
            )
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise InputError("the seed does not fit", remedy="use a whole number of at most 64 bits")
    if deliver is not None and not callable(deliver):
        raise InputError("deliver cannot be called", remedy="give a function of (source, destination, body)")
