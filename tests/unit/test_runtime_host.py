"""The host's promises: what leaves when, one fsync for many, and silence after a failure. Real sockets and replicas."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tocsin.consensus.certificate import verify_certificate
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig, SubmitEvidence
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import StorageError
from tocsin.model.evidence import Q32, Evidence
from tocsin.model.steps import EVERYONE, Effect, Emit, Fired, Persist, Received, Send, SetTimer
from tocsin.runtime.clock import SystemClock
from tocsin.runtime.cluster import NoRecords
from tocsin.runtime.host import Host, demand_running
from tocsin.runtime.journal import Journal
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of

PATIENCE_SECONDS = 30
SIGNERS = deterministic_signers(b"host", 4)
ROSTER = roster_of("host", SIGNERS)


class Scripted:
    """Answers each input with the effects listed for it."""

    def __init__(self, answers: dict[str, list[Effect]]) -> None:
        self.answers = answers
        self.inputs: list[str] = []

    def step(self, now_ns: int, event: Any) -> list[Effect]:
        name = event.token if isinstance(event, Fired) else event if isinstance(event, str) else type(event).__name__
        self.inputs.append(name)
        if name == "fail":
            raise ValueError("broken machine")
        return self.answers.get(name, [])


class Diary:
    """Records and emissions in the order in which they happen."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.full = False

    def append(self, records: Sequence[tuple[int, Persist]]) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.lines.append("disk " + " ".join(f"{number}:{persist.kind}" for number, persist in records))

    def emitted(self, number: int, emit: Emit) -> None:
        self.lines.append(f"emit {number}:{emit.kind}")


async def turns(host: Host, inputs: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while host.inputs < inputs and not host.failed.done():
            await asyncio.sleep(0)


def script(answers: dict[str, list[Effect]], inputs: Sequence[tuple[int, str]], machines: int = 2) -> list[str]:
    """What a host with scripted machines writes and emits for one round of inputs."""

    async def scenario() -> list[str]:
        diary = Diary()
        host = Host({i: Scripted(answers) for i in range(machines)}, diary, SystemClock(), diary.emitted)
        for number, event in inputs:
            host.submit(number, event)
        await turns(host, len(inputs))
        assert host.rounds == 1
        host.close()
        return diary.lines

    return asyncio.run(scenario())


def test_what_follows_a_record_leaves_after_it_is_durable_and_what_precedes_it_at_once():
    answers: dict[str, list[Effect]] = {"vote": [Emit("before", 0), Persist("vote", b""), Emit("after", 0)]}
    assert script(answers, [(0, "vote")]) == ["emit 0:before", "disk 0:vote", "emit 0:after"]


def test_a_round_of_many_inputs_and_machines_is_one_commit():
    answers: dict[str, list[Effect]] = {"vote": [Persist("vote", b""), Emit("voted", 0)], "look": [Emit("seen", 0)]}
    assert script(answers, [(0, "vote"), (1, "look"), (1, "vote"), (0, "look")]) == [
        "emit 1:seen",  # nothing of machine 1 is waiting for the disk
        "disk 0:vote 1:vote",
        "emit 0:voted",
        "emit 1:voted",
        "emit 0:seen",  # came after the vote, so it waits
    ]


def test_records_that_nothing_waits_for_go_with_the_next_commit_and_precede_what_it_lets_out():
    async def scenario() -> None:
        diary = Diary()
        answers: dict[str, list[Effect]] = {"keep": [Persist("kept", b"")], "say": [Emit("said", 0)]}
        host = Host({0: Scripted(answers)}, diary, SystemClock(), diary.emitted)
        host.submit(0, "keep")
        await turns(host, 1)
        assert diary.lines == []
        host.submit(0, "say")  # in a later round, but it may rest on what was kept
        await turns(host, 2)
        assert diary.lines == ["disk 0:kept", "emit 0:said"]
        host.submit(0, "keep")
        await turns(host, 3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(diary.lines) < 3:
                await asyncio.sleep(0.001)  # durable soon even if nothing else happens
        host.submit(0, "keep")
        await turns(host, 4)
        host.close()
        assert diary.lines[2:] == ["disk 0:kept", "disk 0:kept"]

    asyncio.run(scenario())


def test_a_full_disk_stops_everything_before_anything_leaves():
    async def scenario() -> None:
        diary = Diary()
        machine = Scripted({"vote": [Persist("vote", b""), Emit("voted", 0)]})
        host = Host({0: machine}, diary, SystemClock(), diary.emitted)
        diary.full = True
        host.submit(0, "vote")
        with pytest.raises(StorageError, match="full"):
            await host.failed
        host.submit(0, "vote")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (diary.lines, machine.inputs) == ([], ["vote"])
        with pytest.raises(StorageError):
            demand_running(host)
        host.close()

    asyncio.run(scenario())


def test_a_machine_that_fails_stops_its_host():
    async def scenario() -> None:
        diary = Diary()
        host = Host({0: Scripted({})}, diary, SystemClock(), diary.emitted)
        demand_running(host)
        host.submit(0, "fail")
        with pytest.raises(ValueError, match="broken machine"):
            await host.failed
        host.close()

    asyncio.run(scenario())


def test_timers_fire_once_move_and_are_cancelled():
    async def scenario() -> None:
        answers: dict[str, list[Effect]] = {
            "go": [SetTimer("a", 500 * MILLISECOND_NS), SetTimer("b", MILLISECOND_NS)],
            "b": [SetTimer("a", 2 * MILLISECOND_NS), SetTimer("d", 6 * MILLISECOND_NS)],
        }
        cancelled: list[Effect] = [SetTimer("c", MILLISECOND_NS), SetTimer("c", -1)]
        machine = Scripted({**answers, "go": [*answers["go"], *cancelled]})
        host = Host({0: machine}, NoRecords(), SystemClock(), lambda _, __: None)
        host.submit(0, "go")
        await turns(host, 4)
        assert machine.inputs == ["go", "b", "a", "d"]
        host.close()

    asyncio.run(scenario())


# --- replicas on it


class Committee:
    """Four replicas on one loop, a journal each."""

    def __init__(self, path: Path, config: ConsensusConfig) -> None:
        self.decided: dict[int, list[Any]] = {i: [] for i in range(4)}
        self.news = asyncio.Event()
        self.journals = [Journal(path / f"{i}.db") for i in range(4)]
        self.replicas = [Replica(ROSTER, i, s, FleetPosterior(ROSTER), config) for i, s in enumerate(SIGNERS)]
        self.hosts = [
            Host({i: replica}, journal, SystemClock(), self._emitted)
            for i, (replica, journal) in enumerate(zip(self.replicas, self.journals, strict=True))
        ]
        nodes = [Node("127.0.0.1", 0, key) for key in ROSTER.keys]
        options = LinkOptions(first_redial_seconds=0.005)
        self.buses = [
            TcpBus(i, signer, nodes, roster_hash(ROSTER), self.hosts[i].hears(i), options=options)
            for i, signer in enumerate(SIGNERS)
        ]

    def _emitted(self, number: int, emit: Emit) -> None:
        if emit.kind == "decided":
            self.decided[number].append(emit.value)
            self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def committee(path: Path) -> AsyncIterator[Committee]:
    four = Committee(path, ConsensusConfig(proposal_delay_ns=MILLISECOND_NS))
    for i, bus in enumerate(four.buses):
        for lower in range(i):
            bus.move(lower, "127.0.0.1", four.buses[lower].port)
        await bus.start()
    for i, host in enumerate(four.hosts):
        host.start({i: four.buses[i]})
    try:
        yield four
    finally:
        for host in four.hosts:
            demand_running(host)
            host.close()
        for bus in four.buses:
            await bus.close()
        for journal in four.journals:
            journal.close()


def item(monitor: int, seq: int) -> Evidence:
    return Evidence(monitor=monitor, agent_id="ada", first_seq=seq, last_seq=seq, log_e_q32=4 * Q32, log_bf_q32=4 * Q32)


def test_four_replicas_agree_over_sockets_and_their_journals_rebuild_them(tmp_path):
    async def scenario() -> None:
        async with committee(tmp_path) as four:
            for seq in range(5):
                for i, host in enumerate(four.hosts):
                    host.submit(i, SubmitEvidence((item(i, seq),), seq + 1))
                await four.until(
                    lambda seq=seq: all(
                        replica.settled and all(replica.evidence_log.tip(m).seq == seq for m in range(4))
                        for replica in four.replicas
                    )
                )
            roots = {tuple(d.certificate.statement.posterior_root for d in four.decided[i]) for i in range(4)}
            assert len(roots) == 1
            for decision in four.decided[0]:
                verify_certificate(decision.certificate, ROSTER)
            epochs = four.replicas[0].epoch
        for i, signer in enumerate(SIGNERS):
            journal = Journal(tmp_path / f"{i}.db")
            again = Replica(ROSTER, i, signer, FleetPosterior(ROSTER), ConsensusConfig())
            again.recover(journal.records(i))
            assert (again.epoch, again.settled) == (epochs, True)
            journal.close()

    asyncio.run(scenario())


def test_what_a_machine_records_after_sending_is_written_while_the_message_travels():
    async def scenario() -> None:
        diary = Diary()
        nodes = [Node("127.0.0.1", 0, key) for key in ROSTER.keys[:2]]
        host = Host(
            {0: Scripted({"lead": [Send(1, b"certificate"), Persist("lock", b"")]})}, diary, SystemClock(), print
        )
        host.start({0: TcpBus(0, SIGNERS[0], nodes, bytes(32), host.hears(0))})
        host.submit(0, "lead")
        await turns(host, 2)
        assert diary.lines == ["disk 0:lock"]
        host.close()

    asyncio.run(scenario())


class Listener:
    """Sends what it is told to when it starts; keeps what it hears."""

    def __init__(self, first: list[Effect], news: asyncio.Event) -> None:
        self.first, self.news = first, news
        self.heard: list[tuple[int, bytes]] = []

    def step(self, now_ns: int, event: Any) -> list[Effect]:
        if not isinstance(event, Received):
            return self.first
        self.heard.append((event.source, event.body))
        self.news.set()
        return []


def test_sends_go_to_one_or_to_everyone_and_arrive_with_their_source():
    async def scenario() -> None:
        news = asyncio.Event()
        machines = [Listener([Send(2, b"x"), Send(EVERYONE, b"y")] if i == 1 else [], news) for i in range(3)]
        nodes = [Node("127.0.0.1", 0, key) for key in ROSTER.keys[:3]]
        host = Host(dict(enumerate(machines)), NoRecords(), SystemClock(), lambda _, __: None)
        buses = [TcpBus(i, SIGNERS[i], nodes, bytes(32), host.hears(i)) for i in range(3)]
        for i, bus in enumerate(buses):
            for lower in range(i):
                bus.move(lower, "127.0.0.1", buses[lower].port)
            await bus.start()
        host.start(dict(enumerate(buses)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sum(len(machine.heard) for machine in machines) < 3:
                news.clear()
                await news.wait()
        assert [machine.heard for machine in machines] == [[(1, b"y")], [], [(1, b"x"), (1, b"y")]]
        host.close()
        for bus in buses:
            await bus.close()

    asyncio.run(scenario())
