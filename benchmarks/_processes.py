"""Monitors as operating-system processes, every link through a relay that can be cut, read along and healed.

The relays stand where the network is: a cut link is a reset connection that cannot be opened again, and what crosses is
read as the receiver would read it, so that two votes of one monitor in one slot are seen on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.messages import ENVELOPE, Vote
from tocsin.errors import WireError
from tocsin.model.evidence import Q32
from tocsin.trust.keyring import roster_of, roster_to_dict
from tocsin.trust.signing import Signer, domain_hash
from tocsin.wire.link import BODY, Frames

PATIENCE_SECONDS = 60
Slot = tuple[int, int, int, str]  # monitor, epoch, view, phase


class Relay:
    """Listens for the dialling monitor, connects to the one dialled, and carries bytes both ways until cut."""

    def __init__(self, dialler: int, target: int, voted: Callable[[int, bytes], None]) -> None:
        self.ends = (dialler, target)
        self.target_port = 0
        self.delay_seconds = 0.0  # one way
        self._voted = voted
        self._cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Returns the port listened on."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset what is open, and refuse what comes."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        self._cut = False

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._cut:
                await self._carry(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            return
        self._writers.add(back)
        try:
            if not self._cut:
                ways = [
                    asyncio.create_task(self._pump(reader, back, self.ends[0])),
                    asyncio.create_task(self._pump(there, writer, self.ends[1])),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for one in (writer, back):  # an end is gone: so is the link
                    one.transport.abort()
                await asyncio.gather(*ways)
        finally:
            back.transport.abort()
            self._writers.discard(back)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: int) -> None:
        frames = Frames()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for kind, body in frames.feed(data):
                    if kind == BODY:
                        self._voted(source, body)
                if self.delay_seconds:
                    asyncio.get_running_loop().call_later(self.delay_seconds, self._write_late, writer, data)
                    continue
                writer.write(data)
                await writer.drain()

    def _write_late(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)


class Monitors:
    """n monitor processes; an async context manager that leaves none behind. Everything they say is in `events`."""

    def __init__(
        self,
        n: int,
        directory: Path,
        config: ConsensusConfig,
        heartbeat_seconds: float = 1.0,
        probe_seconds: float = 1.0,
        delay_seconds: Callable[[int, int], float] | None = None,
    ) -> None:
        self.n = n
        self.directory = directory
        seeds = [domain_hash(b"benchmark", bytes([i])) for i in range(n)]
        self.roster = roster_of("processes", [Signer(seed) for seed in seeds])
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.votes: dict[Slot, tuple[bytes, bytes]] = {}
        self.double_votes: list[Slot] = []
        self.decided: list[dict[int, tuple[str, str]]] = [{} for _ in range(n)]  # monitor -> epoch -> cut, posterior
        self.up: set[tuple[int, int]] = set()
        self._stated = [0] * n
        self._config = config
        self._heartbeat_seconds = heartbeat_seconds
        self._probe_seconds = probe_seconds
        self._delay_seconds = delay_seconds  # one way between two monitors
        self._relays: dict[tuple[int, int], Relay] = {}
        self._processes: dict[int, Process] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        for i, seed in enumerate(seeds):
            (directory / f"{i}.seed").write_bytes(seed)

    def _watch(self, source: int, body: bytes) -> None:
        with contextlib.suppress(WireError):
            message = ENVELOPE.decode(body)
            if isinstance(message, Vote):
                slot = (source, message.epoch, message.view, message.phase)
                value = (message.cut_root, message.posterior_root)
                if self.votes.setdefault(slot, value) != value:
                    self.double_votes.append(slot)

    async def __aenter__(self) -> Monitors:
        for dialler in range(self.n):
            peers: dict[int, tuple[str, int]] = {}
            for target in range(dialler):
                relay = self._relays[dialler, target] = Relay(dialler, target, self._watch)
                if self._delay_seconds is not None:
                    relay.delay_seconds = self._delay_seconds(dialler, target)
                peers[target] = ("127.0.0.1", await relay.start())
            config: dict[str, Any] = {
                "roster": roster_to_dict(self.roster),
                "me": dialler,
                "seed_file": str(self.directory / f"{dialler}.seed"),
                "journal": str(self.directory / f"{dialler}.db"),
                "listen": ("127.0.0.1", 0),
                "peers": peers,
                "consensus": self._config,
                "heartbeat_seconds": self._heartbeat_seconds,
                "probe_seconds": self._probe_seconds,
            }
            (self.directory / f"{dialler}.json").write_bytes(msgspec.json.encode(config))
        await asyncio.gather(*(self.start(i) for i in range(self.n)))
        await self.until(lambda: len(self.up) == self.n * (self.n - 1))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for i in list(self._processes):
            await self.kill(i)
        await asyncio.gather(*(relay.close() for relay in self._relays.values()))

    async def start(self, i: int) -> None:
        """Start monitor i, anew after `kill`."""
        said = len(self.events)
        command = (sys.executable, "-m", "tocsin.runtime.monitor_process", str(self.directory / f"{i}.json"))
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        self._processes[i] = process
        self._readers[i] = asyncio.create_task(self._read(i, process))
        await self.until(lambda: any(m == i and e["event"] == "ready" for m, e in self.events[said:]))

    async def kill(self, i: int) -> None:
        """SIGKILL, now."""
        process = self._processes.pop(i)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await self._readers.pop(i)
        self.up = {link for link in self.up if link[0] != i}

    def lose_disk(self, i: int) -> None:
        """Delete the journal of monitor i, which does not run, and let its next start say so."""
        for file in self.directory.glob(f"{i}.db*"):
            file.unlink()
        path = self.directory / f"{i}.json"
        config = json.loads(path.read_bytes())
        config["consensus"]["rejoin"] = True
        path.write_text(json.dumps(config))

    async def _read(self, i: int, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            event: dict[str, Any] = json.loads(line)
            self.events.append((i, event))
            if event["event"] == "ready":
                for (_, target), relay in self._relays.items():
                    if target == i:
                        relay.target_port = event["port"]
            elif event["event"] == "decided":
                self.decided[i][event["epoch"]] = (event["cut"], event["posterior"])
            elif event["event"] == "link":
                (self.up.add if event["up"] else self.up.discard)((i, event["peer"]))
            self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for news that makes `holds` true. Raises TimeoutError after a minute."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()

    # --- what one does to them

    def tell(self, i: int, command: dict[str, Any]) -> None:
        stdin = self._processes[i].stdin
        assert stdin is not None
        stdin.write(json.dumps(command).encode() + b"\n")

    def state(self, monitors: Iterable[int], agent: str = "ada") -> None:
        """Let monitors state that `agent` looks somewhat compromised."""
        for i in monitors:
            seq = self._stated[i] = self._stated[i] + 1
            item = {"agent_id": agent, "first_seq": seq, "last_seq": seq, "log_e_q32": Q32, "log_bf_q32": Q32}
            self.tell(i, {"state": [item]})

    async def beliefs(self, i: int) -> dict[str, Any]:
        """What monitor i believes now."""
        return await self.ask(i, "beliefs")

    async def ask(self, i: int, what: str) -> dict[str, Any]:
        """Monitor i's answer to a question: `beliefs` or `network`."""
        said = len(self.events)

        def answers() -> list[dict[str, Any]]:
            return [e for m, e in self.events[said:] if m == i and e["event"] == what]

        self.tell(i, {"ask": what})
        await self.until(lambda: bool(answers()))
        return answers()[0]

    def split(self, group: Collection[int]) -> None:
        """Cut every link between `group` and the others."""
        for (a, b), relay in self._relays.items():
            if (a in group) != (b in group):
                relay.cut()

    def heal(self) -> float:
        """Let every link be opened again. Returns the moment (time.monotonic)."""
        for relay in self._relays.values():
            relay.heal()
        return time.monotonic()

    def epochs(self) -> list[int]:
        """Last epoch that each monitor decided; -1 for none."""
        return [max(decided, default=-1) for decided in self.decided]

    def disagreements(self) -> list[int]:
        """Epochs in which two monitors decided differently."""
        values: dict[int, set[tuple[str, str]]] = {}
        for decided in self.decided:
            for epoch, value in decided.items():
                values.setdefault(epoch, set()).add(value)
        return [epoch for epoch, found in sorted(values.items()) if len(found) > 1]

    async def agreed(self, among: Iterable[int] | None = None) -> None:
        """Wait until these monitors (None: all) believe the same certified things and nothing is provisional."""
        members = list(range(self.n) if among is None else among)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                believed = [await self.beliefs(i) for i in members]
                same = {json.dumps([one["epoch"], one["agents"]], sort_keys=True) for one in believed}
                if len(same) == 1 and believed[0]["agents"] and not any(one["provisional"] for one in believed):
                    return
                await asyncio.sleep(0.005)
