"""n real replicas on loopback sockets and one event loop, with one fsynced journal: what the socket benchmarks run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tocsin.consensus.inputs import ConsensusConfig, SubmitEvidence
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.evidence import Q32, Evidence, Reason
from tocsin.model.steps import Emit, Persist
from tocsin.runtime.clock import SystemClock
from tocsin.runtime.host import Host, demand_running
from tocsin.runtime.journal import Journal
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of

QUIET = LinkOptions(heartbeat_seconds=30.0)  # no pings between the messages measured


def statement(monitor: int, seq: int) -> Evidence:
    """A small statement as monitors make it about one window of one agent."""
    return Evidence(
        monitor=monitor,
        agent_id=f"agent-{seq % 16}",
        first_seq=seq * 8,
        last_seq=seq * 8 + 7,
        log_e_q32=Q32,
        log_bf_q32=Q32,
        reasons=(Reason("tool", Q32, "seen twice"),),
    )


class TimedJournal:
    """A journal that notes how long each commit took, in seconds."""

    def __init__(self, path: Path) -> None:
        self.seconds: list[float] = []
        self._journal = Journal(path)

    def append(self, records: Sequence[tuple[int, Persist]]) -> None:
        began = time.perf_counter()
        self._journal.append(records)
        self.seconds.append(time.perf_counter() - began)

    def close(self) -> None:
        self._journal.close()


def processor_ns() -> tuple[int, int]:
    """Nanoseconds this thread has run, and has waited for a core that others had (0 where the system does not say)."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    except OSError:
        return time.thread_time_ns(), 0
    return int(ran), int(waited)


class Committee:
    """An async context manager. `decided[epoch][monitor]` = perf_counter when `monitor` had the certificate."""

    def __init__(
        self,
        n: int,
        journal: Path,
        config: ConsensusConfig,
        delay_ns: Callable[[int], int] | None,
        *,
        adds_up: bool = False,
    ) -> None:
        self.n = n
        self.signers = deterministic_signers(b"committee", n)
        self.roster = roster_of("committee", self.signers, adds_up=adds_up)
        self.decided: dict[int, dict[int, float]] = {}
        self.news = asyncio.Event()
        self._stated = [-1] * n
        self.journal = TimedJournal(journal)
        self.replicas = {
            i: Replica(self.roster, i, signer, FleetPosterior(self.roster), config)
            for i, signer in enumerate(self.signers)
        }
        self.host = Host(self.replicas, self.journal, SystemClock(), self._emitted)
        self.host.failed.add_done_callback(lambda _: self.news.set())
        nodes = [Node("127.0.0.1", 0, key) for key in self.roster.keys]
        self._up = 0
        self.buses = {
            i: TcpBus(
                i,
                signer,
                nodes,
                roster_hash(self.roster),
                self.host.hears(i),
                options=QUIET,
                delay_ns=delay_ns,
                on_change=self._changed,
            )
            for i, signer in enumerate(self.signers)
        }

    def _changed(self, _: int, up: bool) -> None:
        self._up += 1 if up else -1
        self.news.set()

    def _emitted(self, number: int, emit: Emit) -> None:
        if emit.kind == "decided":
            self.decided.setdefault(emit.value.epoch, {})[number] = time.perf_counter()
            self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something decided or connected that makes `holds` true. Raises what stopped the host."""
        while not holds():
            self.news.clear()
            await asyncio.wait(
                (asyncio.ensure_future(self.news.wait()), self.host.failed), return_when="FIRST_COMPLETED"
            )
            demand_running(self.host)

    async def __aenter__(self) -> Committee:
        for i, bus in self.buses.items():
            for lower in range(i):
                bus.move(lower, "127.0.0.1", self.buses[lower].port)
            await bus.start()
        await self.until(lambda: self._up == self.n * (self.n - 1))
        self.host.start(self.buses)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.host.close()
        for bus in self.buses.values():
            await bus.close()
        self.journal.close()

    def state(self, monitors: Sequence[int]) -> None:
        """Let monitors state evidence about one agent each, all at one moment."""
        for m in monitors:
            seq = self._stated[m] = self._stated[m] + 1
            self.host.submit(m, SubmitEvidence((statement(m, seq),), seq + 1))

    @property
    def newest(self) -> int:
        """The last epoch that anybody decided; -1 where there is none."""
        return max(self.decided, default=-1)

    def agreed(self) -> bool:
        """Whether everything stated is decided by everybody."""
        if len(self.decided.get(self.newest, ())) < self.n:
            return False
        return all(
            replica.settled and all(replica.evidence_log.tip(m).seq == seq for m, seq in enumerate(self._stated))
            for replica in self.replicas.values()
        )
