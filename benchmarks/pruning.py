"""What history costs: the journal and the time to start again after many decisions, and taking over a whole state.

Four replicas in one process on a bus without delay, monitor 0 with a real journal. Restarts are read off that journal:
the largest of a few along the last fifth of each history, since a journal grows from one snapshot to the next. Growth
is that of the longest history over the greater of the others.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks._harness import Bench, main
from tocsin.consensus.inputs import ConsensusConfig, Start, SubmitEvidence
from tocsin.consensus.replica import Replica
from tocsin.consensus.transfer import Transfer, chunk_of
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.steps import EVERYONE, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.runtime.journal import Journal
from tocsin.trust.keyring import deterministic_signers, roster_of

N = 4
KIB = 1024
SIGNERS = deterministic_signers(b"benchmark", N)
ROSTER = roster_of("benchmark", SIGNERS)
NEVER = 1 << 60


class Committee:
    """The replicas. Timers fire, in the order set, when no message is left."""

    def __init__(self, config: ConsensusConfig, path: Path) -> None:
        self.config = config
        self.journal = Journal(path)
        self.decisions = 0
        self.snapshot_seconds: list[float] = []
        self._inputs: deque[tuple[int, Any]] = deque()
        self._timers: dict[tuple[int, str], None] = {}
        self.replicas = [Replica(ROSTER, i, signer, FleetPosterior(ROSTER), config) for i, signer in enumerate(SIGNERS)]
        for i in range(N):
            self.give(i, Start())

    def give(self, i: int, event: Any) -> None:
        """An input, and all that follows from it."""
        self._inputs.append((i, event))
        while self._inputs or self._timers:
            if not self._inputs:
                number, token = next(iter(self._timers))
                del self._timers[number, token]
                self._inputs.append((number, Fired(token)))
            self._step(*self._inputs.popleft())

    def _step(self, i: int, event: Any) -> None:
        began = time.process_time()
        effects = self.replicas[i].step(0, event)
        if isinstance(event, Fired) and event.token == "checkpoint":
            self.snapshot_seconds.append(time.process_time() - began)
        if i == 0:
            self.journal.append([(0, one) for one in effects if isinstance(one, Persist)])
        for effect in effects:
            if isinstance(effect, Send):
                targets = range(N) if effect.to == EVERYONE else (effect.to,)
                self._inputs.extend((target, Received(i, effect.body)) for target in targets if target != i)
            elif isinstance(effect, SetTimer):
                self._timers.pop((i, effect.token), None)
                if effect.delay_ns >= 0 and effect.token.split()[0] in ("propose", "checkpoint"):
                    self._timers[i, effect.token] = None
            elif isinstance(effect, Emit) and effect.kind == "decided" and i == 0:
                self.decisions += 1

    def state(self, window: int, agents: range) -> None:
        """Every monitor speaks of `agents`; what follows is decided."""
        for i in range(N):
            items = tuple(
                Evidence(
                    monitor=i,
                    agent_id=f"agent-{agent}",
                    first_seq=window,
                    last_seq=window,
                    log_e_q32=Q32,
                    log_bf_q32=Q32,
                )
                for agent in agents
            )
            self._inputs.append((i, SubmitEvidence(items, window + 1, 16)))
        self.give(0, Fired("nothing"))


def restart(path: Path, config: ConsensusConfig) -> tuple[float, float, Replica]:
    """Seconds of processor time, KiB of records read, and the monitor that came back."""
    began = time.process_time()
    journal = Journal(path)
    records = list(journal.records(0))
    replica = Replica(ROSTER, 0, SIGNERS[0], FleetPosterior(ROSTER), config)
    replica.recover(records)
    seconds = time.process_time() - began
    journal.close()
    return seconds, sum(len(record) for _, record in records) / KIB, replica


def histories(bench: Bench, name: str, config: ConsensusConfig, lengths: tuple[int, ...]) -> list[float]:
    """The largest restart of each length of history, in milliseconds."""
    worst: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        committee = Committee(config, path)
        looks = {length * part // 20 for length in lengths for part in (16, 17, 18, 19, 20)}
        samples: dict[int, tuple[float, float]] = {}
        for window in range(max(lengths)):
            committee.state(window, range(window % 16, window % 16 + 1))
            if window + 1 in looks:
                seconds, kib, replica = restart(path, config)
                assert replica.epoch == committee.decisions == window + 1
                samples[window + 1] = seconds * 1e3, kib
        committee.journal.close()
    for length in lengths:
        last = [one for at, one in samples.items() if 0.8 * length <= at <= length]
        worst.append(max(ms for ms, _ in last))
        bench.record(f"{name}: restart after {length} decisions", worst[-1], unit="core-ms", requirement="R2.6")
        bench.record(f"{name}: journal after {length} decisions", max(kib for _, kib in last), unit="KiB")
    return worst


def whole_state(bench: Bench, agents: int) -> None:
    """A snapshot of a fleet, and another monitor that takes it over chunk by chunk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        committee = Committee(ConsensusConfig(checkpoint_bytes=1 << 60), path)
        for window, first in enumerate(range(0, agents, 400)):
            committee.state(window, range(first, min(first + 400, agents)))
        began = time.process_time()
        effects = committee.replicas[0].step(0, Fired("checkpoint"))
        made = time.process_time() - began
        record = next(one for one in effects if isinstance(one, Persist))
        committee.journal.append([(0, record)])
        seconds, _, replica = restart(path, committee.config)
        assert replica.epoch == committee.decisions
        committee.journal.close()
    fold = FleetPosterior(ROSTER)
    source = committee.replicas[1]
    certified = source._last  # pyright: ignore[reportPrivateUsage]
    assert certified is not None
    folded = source._fold.folded()  # pyright: ignore[reportPrivateUsage]
    began = time.process_time()
    transfer = Transfer(N, 1, certified, folded.size)
    chunks = 0
    while wanted := transfer.wanted():
        chunk = chunk_of(N, certified.votes.epoch, folded, wanted[0])
        assert chunk is not None
        assert transfer.take(chunk)
        chunks += 1
    fetched = time.process_time() - began
    began = time.process_time()
    fold.restore(transfer.items())
    restored = time.process_time() - began
    assert fold.root == certified.votes.posterior_root
    bench.count(agents_in_the_state=agents)
    bench.record("snapshot: size", len(record.record) / KIB, unit="KiB")
    bench.record("snapshot: made", made * 1e3, unit="core-ms")
    bench.record("snapshot: started from", seconds * 1e3, unit="core-ms")
    bench.record("transfer: chunks", chunks, unit="")
    bench.record("transfer: made and checked", fetched * 1e3, unit="core-ms")
    bench.record("transfer: folded", restored * 1e3, unit="core-ms")


def measure(bench: Bench) -> None:
    """Bounds: a restart after the longest history takes at most twice one after an eighth of it."""
    lengths = (100, 400) if bench.quick else (250, 500, 2000)
    pruned = ConsensusConfig(checkpoint_bytes=64 * KIB)
    worst = histories(bench, "pruned", pruned, lengths)
    growth = worst[-1] / max(worst[:-1])
    bench.record("pruned: growth of a restart", growth, unit="x", bound="<= 2", requirement="R2.6")
    everything = ConsensusConfig(checkpoint_bytes=1 << 60, keep_epochs=1 << 30)
    histories(bench, "unpruned", everything, lengths[:2])
    whole_state(bench, 1000 if bench.quick else 10_000)


if __name__ == "__main__":
    raise SystemExit(main("pruning", measure))
