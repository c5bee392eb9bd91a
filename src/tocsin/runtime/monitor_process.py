"""One monitor as a process of its own: `python -m tocsin.runtime.monitor_process CONFIG`.

It agrees with the others over TCP and keeps a journal. What it is to state comes as JSON lines on standard input, what
happens goes as JSON lines to standard output, so that whatever starts it needs no other connection to it:

    in   {"state": [{"agent_id": "ada", "first_seq": 0, "last_seq": 7, "log_e_q32": 1, "log_bf_q32": 1}]}
         {"ask": "beliefs"}                                   {"ask": "network"}
    out  {"event": "ready", "port": 4711}                {"event": "link", "peer": 2, "up": true}
         {"event": "decided", "epoch": 0, "cut": "…", "posterior": "…", "at_ns": 1, "flagged": {}}
         {"event": "provisional", "epoch": 0, "flagged": {"ada": true}}
         {"event": "beliefs", "provisional": true, "reachable": 1, "quorum": 3, "epoch": 1, "agents": {…}}
         {"event": "network", "measured": 60, "unanswered": 0, "site": "2", "error": 0.1, "round_trips_ms": {"0": 41.5}}

A belief that rests on evidence under no certificate is marked provisional. A monitor that reaches fewer than a quorum
goes on stating and believing; its statements are certified when the others are back. The process ends with its input.

Monitors measure round trips to each other all the time. `site` is the nearest of the others by network coordinates, ""
until they have settled: what `Hierarchy.measured` and `Tree.join` take to place an agent that runs beside this monitor.
"""

from __future__ import annotations

import asyncio
import fcntl
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec

from tocsin.consensus.inputs import ConsensusConfig, SubmitEvidence
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import ConfigError, InputError, StorageError, TocsinError
from tocsin.model.evidence import Evidence
from tocsin.model.steps import Emit
from tocsin.runtime.clock import SystemClock
from tocsin.runtime.host import Host, demand_running
from tocsin.runtime.journal import Journal
from tocsin.runtime.probes import PERIOD_SECONDS, Prober
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.trust.keyring import roster_from_dict, roster_hash
from tocsin.trust.signing import Signer
from tocsin.wire.evidence import encode_evidence

MAX_LINE_BYTES = 1 << 20


class MonitorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration file, in JSON. `listen` and `peers`: [host, port]; monitors with lower numbers are dialled.

    `seed_file` holds the signing key's 32 bytes.
    """

    roster: dict[str, Any]
    me: int
    seed_file: str
    journal: str
    listen: tuple[str, int]
    peers: dict[int, tuple[str, int]]
    consensus: ConsensusConfig = msgspec.field(default_factory=ConsensusConfig)
    heartbeat_seconds: float = 2.0
    probe_seconds: float = PERIOD_SECONDS  # between two round trips that are measured


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item of evidence as it comes in; the monitor adds its own number."""

    agent_id: str
    first_seq: int
    last_seq: int
    log_e_q32: int
    log_bf_q32: int


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of input."""

    state: tuple[Statement, ...] = ()
    ask: str = ""


def read_config(path: Path) -> MonitorFile:
    """Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MonitorFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} is no monitor's configuration: {error}", remedy="see its documentation") from error


def _lock(path: Path) -> TextIO:
    """Held until the process ends: two of one monitor would sign against each other. Raises StorageError."""
    try:
        held = path.open("w")
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        cause = f"cannot lock {path}: {error.strerror}"
        raise StorageError(cause, remedy="stop the monitor that uses this journal, or name another") from error
    return held


class MonitorProcess:
    """The monitor that `config` describes; `run` returns when standard input ends."""

    def __init__(self, config: MonitorFile) -> None:
        self._config = config
        self._roster = roster_from_dict(config.roster)
        if not 0 <= config.me < self._roster.n:
            raise ConfigError(f"there is no monitor {config.me} in the roster", remedy="number them from 0")
        signer = Signer(Path(config.seed_file).read_bytes())
        self._posterior = FleetPosterior(self._roster)
        self._replica = Replica(self._roster, config.me, signer, self._posterior, config.consensus)
        self._lock = _lock(Path(config.journal).with_suffix(".lock"))
        self._journal = Journal(Path(config.journal))
        self._replica.recover(self._journal.records(config.me))
        self._host = Host({config.me: self._replica}, self._journal, SystemClock(), self._emitted)
        self._bus = TcpBus(
            config.me,
            signer,
            [self._node(i) for i in range(self._roster.n)],
            roster_hash(self._roster),
            self._heard,
            options=LinkOptions(heartbeat_seconds=config.heartbeat_seconds),
            on_change=lambda peer, up: self._tell("link", peer=peer, up=up),
        )

        self._hears = self._host.hears(config.me)
        peers = {i: f"{i}" for i in range(self._roster.n) if i != config.me}
        self._prober = Prober(f"{config.me}", peers, self._bus, period_seconds=config.probe_seconds)

    def _heard(self, peer: int, body: bytes) -> None:
        if not self._prober.received(peer, body):
            self._hears(peer, body)

    def _node(self, number: int) -> Node:
        # Who has a higher number dials us: its address is of no use here.
        host, port = self._config.listen if number == self._config.me else self._config.peers.get(number, ("", 0))
        return Node(host, port, self._roster.keys[number])

    def _tell(self, event: str, **fields: Any) -> None:
        sys.stdout.buffer.write(msgspec.json.encode({"event": event, **fields}) + b"\n")
        sys.stdout.buffer.flush()

    def _emitted(self, _: int, emit: Emit) -> None:
        if emit.kind == "decided":
            statement = emit.value.certificate.statement
            self._tell(
                "decided",
                epoch=emit.value.epoch,
                cut=statement.cut_root.hex(),
                posterior=statement.posterior_root.hex(),
                flagged={entry.agent_id: entry.flagged for entry in emit.value.changed},
                at_ns=time.monotonic_ns(),
            )
        elif emit.kind == "provisional":
            changed = {entry.agent_id: entry.flagged for entry in emit.value.changed}
            self._tell("provisional", epoch=emit.value.epoch, flagged=changed)
        elif emit.kind == "refused":
            self._tell("refused", reason=f"{emit.value}")

    async def run(self) -> None:
        """Until the input ends. Raises TocsinError: what stopped the monitor, or a line that is no command."""
        await self._bus.start()
        self._host.start({self._config.me: self._bus})
        self._tell("ready", port=self._bus.port)
        probing = asyncio.create_task(self._prober.run())
        reading = asyncio.create_task(self._read())
        await asyncio.wait((reading, self._host.failed), return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        probing.cancel()
        demand_running(self._host)
        self._host.close()
        await self._bus.close()
        self._journal.close()
        self._lock.close()
        if not reading.cancelled():
            reading.result()

    async def _read(self) -> None:
        reader = asyncio.StreamReader(MAX_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            try:
                command = msgspec.json.decode(line, type=Command)
            except msgspec.MsgspecError as error:
                raise InputError(f"a line of input is no command: {error}", remedy="one JSON object a line") from None
            if command.state:
                self._state(command.state)
                await asyncio.sleep(0)  # a round: a question that follows is answered with what was stated
            if command.ask == "beliefs":
                self._tell("beliefs", **self.beliefs())
            elif command.ask == "network":
                self._tell("network", **self.network())

    def _state(self, statements: tuple[Statement, ...]) -> None:
        me = self._config.me
        items = tuple(Evidence(monitor=me, **msgspec.structs.asdict(one)) for one in statements)
        for item in items:
            encode_evidence(item)  # raises InputError here rather than drop it later
        self._host.submit(me, SubmitEvidence(items, self._replica.through_offset + 1))

    def beliefs(self) -> dict[str, Any]:
        """What this monitor believes now, certified or not."""
        uncertified = self._replica.uncertified()
        provisional = {item.agent_id for batch in uncertified for item in batch.items}
        return {
            "provisional": bool(uncertified),
            "reachable": 1 + sum(link.up for link in self._bus.links().values()),
            "quorum": self._roster.quorum,
            "epoch": self._replica.epoch,
            "agents": {
                name: {"log_odds_q32": entry.log_odds_q32, "provisional": name in provisional}
                for name, entry in self._posterior.provisional(uncertified).items()
            },
        }

    def network(self) -> dict[str, Any]:
        """Where this monitor takes itself to be among the others, by measured round trips."""
        prober, me = self._prober, f"{self._config.me}"
        own = prober.network.coordinates.get(me)
        known = [name for name in prober.network.sites if name != me]
        return {
            "measured": prober.measured,
            "unanswered": prober.unanswered,
            "site": prober.network.place(me, otherwise=""),
            "error": own.error if own is not None else 1.0,
            "round_trips_ms": {name: prober.network.rtt_ms(me, name) for name in known},
        }


def main(arguments: list[str]) -> int:
    """Exit code 0 when the input ended, else that of the error, which is told on standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us by closing our input
    try:
        if len(arguments) != 1:
            raise ConfigError("give one configuration file", remedy="see the module's documentation")
        config = read_config(Path(arguments[0]))
        asyncio.run(_run(config))
    except TocsinError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


async def _run(config: MonitorFile) -> None:
    await MonitorProcess(config).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
