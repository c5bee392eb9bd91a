"""R1.9: how long until an agent's behaviour is part of what every one of 1000 leaves knows about the fleet.

In one process by function calls, and over TCP sockets, every node and every leaf with its own connections, links held
back by the sender (`TcpBus(delay_ns=...)`). The nodes live in one process and the leaves in another, so the figures
contain the work of every machine of the tree on two cores, where a real tree would do it side by side. The fleet is
busy: every leaf has a whole sum before the measured update, so statements are as large as they get.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import selectors
import socket
import time
from multiprocessing.connection import Connection

import numpy as np
import uvloop

from benchmarks._harness import Bench, main
from benchmarks.establishment import windows
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.messages import FromAbove, Input
from tocsin.aggregation.summary import Summary
from tocsin.aggregation.tree import Tree
from tocsin.model.baseline import Level
from tocsin.model.events import EventBatch
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.runtime.tree_host import Place, ToLeaf, TreeHost, neighbours
from tocsin.stats.moments import Grid
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire import update as wire

LEAVES = 1_000
EVENTS = 64  # of a leaf, each time it says something
FEATURES = 8
FRAME_BYTES = 1_316  # of a whole sum, to one leaf
SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def in_process(bench: Bench) -> None:
    """One agent acts, the tree climbs, the root states, and every leaf asks what the fleet does now."""
    agents = 200 if bench.quick else LEAVES
    rng = np.random.default_rng(1)
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(windows(0, agents, EVENTS, FEATURES, rng))
    names, one = [f"agent-{k}" for k in range(agents)], windows(0, 1, EVENTS, FEATURES, rng)
    hierarchy.pump(SECOND)
    wall, core, stale, packets = list[float](), list[float](), 0, list[float]()
    for k in range(2, 12 if bench.quick else 52):
        hierarchy.pump(k * 60 * SECOND)  # heartbeats leave here, so that they are not charged to the event
        before, start, busy = hierarchy.packets_down, time.perf_counter(), time.process_time()
        hierarchy.observe(one)
        now = k * 60 * SECOND + SECOND
        hierarchy.pump(now)
        known = [hierarchy.fleet_known_to(name).seq for name in names]
        wall.append(1e3 * (time.perf_counter() - start))
        core.append(1e3 * (time.process_time() - busy))
        packets.append(hierarchy.packets_down - before)
        stale += sum(seq != now for seq in known)
    where = f"agent to root and back to {agents} leaves, in process"
    bench.record_all(where, wall, unit="ms", requirement="R1.9", bound="< 20")
    bench.record_all(f"{where}: core time", core, unit="ms")
    bench.record("leaves that did not hear of it", stale, unit="", requirement="R1.9", bound="== 0")
    bench.record_all("packets fetched downwards, all of them asking", packets, unit="")


def as_the_service(bench: Bench) -> None:
    """By the tree's own timer, virtual time: how long after an event the root counts it, with the default settings.

    After quiet; and every event of a stream of `rate` a second over all agents, which is what a busy service has.
    """
    agents = 200 if bench.quick else LEAVES
    rng = np.random.default_rng(1)
    hierarchy = Hierarchy()
    hierarchy.observe(windows(0, agents, EVENTS, FEATURES, rng))
    now, quiet = SECOND, list[float]()
    for k in rng.integers(0, agents, 50).tolist():
        hierarchy.pump(now)
        now += 25 * SECOND  # heartbeats are due and leave with the event
        quiet.append(1e3 * delay(hierarchy, windows(k, 1, 1, FEATURES, rng), now))
    what = f"{agents} agents, as the service uses the tree: an event counts at the root"
    bench.record_all(f"{what}, after quiet", quiet, unit="ms", requirement="R1.9", bound="< 100")
    for rate in (20, 200, 2_000):
        hierarchy.pump(now := now + 25 * SECOND)
        waits, waiting = list[float](), list[int]()
        for k in rng.integers(0, agents, 200 if bench.quick else 2_000).tolist():
            now += SECOND // rate
            due = hierarchy.due_ns()
            if due is not None and due <= now:  # the service's timer
                hierarchy.pump(due)
                waits += [(due - then) / MILLISECOND for then in waiting]
                waiting = []
            hierarchy.observe(windows(k, 1, 1, FEATURES, rng))
            waiting.append(now)
            hierarchy.pump(now)
            if hierarchy.due_ns() is None:
                waits += [(now - then) / MILLISECOND for then in waiting]
                waiting = []
        bench.record_all(
            f"{what}, waits for a climb at {rate} events/s", waits, unit="ms", requirement="R1.9", bound="< 100"
        )


def delay(hierarchy: Hierarchy, one: EventBatch, now: int) -> float:
    """Seconds from an event at `now` until the root counts it: virtual time of waiting and core time of the work."""
    start, at = time.process_time(), now
    hierarchy.observe(one)
    hierarchy.pump(now)
    while (due := hierarchy.due_ns()) is not None:
        at = due
        hierarchy.pump(due)
    return (at - now) / SECOND + time.process_time() - start


class Plan:
    """A tree of `n` leaves; each node, and as many leaves of a region as live `together`, a machine with a number.

    Links take so long one way.
    """

    def __init__(self, n: int, leaf_ms: float, node_ms: float, together: int = 1) -> None:
        tree = Tree()
        for k in range(n):
            tree.join(f"leaf-{k}")
        inner = sorted(tree.nodes.values(), key=lambda node: -node.level)
        numbers = {node.id: k for k, node in enumerate(inner)}
        self.places = {x.id: Place(x.level, x.parent, tuple(x.children), (numbers[x.id],)) for x in inner}
        regions = [node for node in inner if node.level == 1]
        members = [
            list(node.children)[k : k + together] for node in regions for k in range(0, len(node.children), together)
        ]
        self.leaves = {leaf: len(inner) + k for k, some in enumerate(members) for leaf in some}
        self.machines = len(inner) + len(members)
        self.region_of = {leaf: tree.region_of(leaf) for leaf in self.leaves}
        self.inner = len(inner)
        self.near: dict[int, set[int]] = {}
        for name, place in self.places.items():
            around = {one: self.places[one] for one in (place.parent, *place.children) if one in self.places}
            self.near[numbers[name]] = neighbours({name: place, **around}, self.leaves, numbers[name])
        for leaf, me in self.leaves.items():
            self.near[me] = set(self.places[self.region_of[leaf]].hosts)
        self._leaf_ms, self._node_ms = leaf_ms, node_ms

    def delays_ns(self, me: int) -> dict[int, int]:
        """One way from a machine to each of its neighbours."""
        return {
            peer: int(MILLISECOND * (self._leaf_ms if max(me, peer) >= self.inner else self._node_ms))
            for peer in self.near[me]
        }


class Machines:
    """Some of the machines of a plan, in this process."""

    def __init__(self, plan: Plan, numbers: range, ports: list[int], to_leaf: ToLeaf | None = None) -> None:
        self._plan, self._numbers, self._to_leaf = plan, numbers, to_leaf
        self._signers = deterministic_signers(b"propagation", plan.machines)
        ports = ports + [0] * (len(self._signers) - len(ports))
        self._nodes = [Node("127.0.0.1", ports[k], one.public_key) for k, one in enumerate(self._signers)]
        self.hosts: dict[int, TreeHost] = {}
        self.buses: dict[int, TcpBus] = {}

    async def start(self) -> list[int]:
        """Listen and link up; the ports."""
        plan = self._plan
        # What is written leaves at once, so that the other process works while this one goes on writing.
        options = LinkOptions(heartbeat_seconds=60, handshake_seconds=60, pending=len(self._nodes), unsent_bytes=0)
        for me in self._numbers:
            host = TreeHost(
                me, plan.places, plan.leaves, time.monotonic_ns, to_leaf=self._to_leaf, patience_seconds=600
            )
            bus = TcpBus(
                me, self._signers[me], self._nodes, b"p" * 32, host.received, options=options, on_change=host.changed,
                peers=plan.near[me], delay_ns=plan.delays_ns(me).__getitem__,
            )  # fmt: skip
            await bus.start()
            self._nodes[me] = Node("127.0.0.1", bus.port, self._signers[me].public_key)
            host.attach(bus)
            self.hosts[me], self.buses[me] = host, bus
        return [node.port for node in self._nodes]

    async def linked(self, others: range) -> None:
        """Wait for every link to one of `others`."""
        while not all(state.up for bus in self.buses.values() for k, state in bus.links().items() if k in others):
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for me, host in self.hosts.items():
            host.close()
            await self.buses[me].close()


def on_core(number: int) -> None:
    """Keep this process on one of the cores it may use, or leaves would wake on the nodes' core and wait for it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def run_nodes(plan: Plan, pipe: Connection) -> None:
    """The process of the nodes: sends their ports, and what it has worked so far (ms) whenever it is asked."""

    on_core(0)

    async def serve() -> None:
        machines = Machines(plan, range(plan.inner), [])
        ports = await machines.start()
        await machines.linked(range(plan.inner))
        gc.freeze()  # as a service does once it has started
        pipe.send(ports[: plan.inner])
        while await asyncio.to_thread(pipe.recv):
            pipe.send(1e3 * time.process_time())
        await machines.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def whole_sums(n: int) -> tuple[Grid, list[Summary]]:
    """The grid and what EVENTS measurements of every feature add up to, for each of `n` leaves."""
    fleet = Hierarchy(flush_ns=0)
    fleet.observe(windows(0, n, EVENTS, FEATURES, np.random.default_rng(1)))
    fleet.establish([], Level.GLOBAL)  # so that there is a grid, however few the events
    return fleet.leaves.grid, fleet.leaves.each([f"agent-{k}" for k in range(n)])


class Leaves:
    """All leaves, in this process, and how far the newest statement has come."""

    def __init__(self, plan: Plan, ports: list[int]) -> None:
        self._plan = plan
        self._grid, sums = whole_sums(len(plan.leaves))
        self._sums = dict(zip(plan.leaves, sums, strict=True))
        self.machines = Machines(plan, range(plan.inner, plan.machines), ports, to_leaf=self._to_leaf)
        self.expected = 0  # events that a statement has to count
        self.behind: set[str] = set()  # leaves that have not heard such a statement
        self.newest = asyncio.Event()
        self.half = 0.0  # when half of the leaves had heard it
        self._counted = (-1, -1)  # number of the statement that is coming in, and the events that it counts
        self._last = b""  # packet of the statement that counts what is expected
        self._others: tuple[bytes, ...] = ()  # packets that came lately

    def _to_leaf(self, leaf: str, event: Input) -> None:
        """Comes 3000 times a run, so it costs a comparison of bytes wherever they are known."""
        if not isinstance(event, FromAbove) or event.body in self._others:
            return
        if event.body != self._last:
            self._look_at(event.body)
        if event.body == self._last:
            self.behind.discard(leaf)
            if 2 * len(self.behind) == len(self._plan.leaves):
                self.half = time.perf_counter()
            if not self.behind:
                self.newest.set()

    def _look_at(self, body: bytes) -> None:
        """Note the packet that ends a statement which counts what is expected. Its first number is its events."""
        self._others = (*self._others[-8:], body)
        if body[:2] == b"TU":
            head = wire.peek(body)
            if head.part == 0:
                self._counted = head.seq, int(wire.decode(body).residual[0])
            if head.part == head.parts - 1 and self._counted == (head.seq, self.expected):
                self._others, self._last = self._others[:-1], body

    def _state(self, leaf: str, seq: int) -> None:
        """A leaf says what it did since: EVENTS measurements of every feature."""
        more = self._sums[leaf]
        update = wire.Update(
            kind=wire.DELTA if seq else wire.SNAPSHOT, source=leaf, level=0, epoch=0, seq=seq, as_of_ms=1, agents=1,
            d=more.d, counts=more.counts, actions=more.actions,
        )  # fmt: skip
        grid = [] if seq else [wire.encode_grid(0, self._grid)]
        host = self.machines.hosts[self._plan.leaves[leaf]]
        host.send_up(leaf, self._plan.region_of[leaf], [*grid, *wire.encode(update)])

    async def begin(self) -> None:
        """Every leaf has done something, and all know of it."""
        self.expected, self.behind = EVENTS * len(self._plan.leaves), set(self._plan.leaves)
        for leaf in self._plan.leaves:
            self._state(leaf, 0)
        await self.newest.wait()

    async def tell(self, leaf: str, seq: int) -> tuple[float, float]:
        """One leaf acts once more; milliseconds until every leaf, and half of them, hold a statement that counts it."""
        self.expected, self.behind = self.expected + EVENTS, set(self._plan.leaves)
        self.newest.clear()
        start = time.perf_counter()
        self._state(leaf, seq)
        await self.newest.wait()
        return 1e3 * (time.perf_counter() - start), 1e3 * (self.half - start)


def sockets(bench: Bench, links: str, leaf_ms: float, node_ms: float, bound: str, together: int = 1) -> None:
    name = f"to root and back over TCP, {links}"
    runs = 5 if bench.quick else 15
    n = 100 if bench.quick else LEAVES
    plan = Plan(n, leaf_ms, node_ms, together)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    nodes = context.Process(target=run_nodes, args=(plan, theirs))
    nodes.start()

    def worked() -> float:
        ours.send(True)
        return 1e3 * time.process_time() + ours.recv()

    async def scenario() -> tuple[list[float], list[float], list[float]]:
        leaves = Leaves(plan, ours.recv())
        await leaves.machines.start()
        await leaves.machines.linked(range(plan.inner))
        await leaves.begin()
        gc.freeze()
        wall, half, core = list[float](), list[float](), list[float]()
        for k in range(1, runs + 1):
            await asyncio.sleep(0.1)  # quiet again
            busy = worked()
            last, middle = await leaves.tell("leaf-0", k)
            wall.append(last)
            half.append(middle)
            core.append(worked() - busy)
        await leaves.machines.close()
        return wall, half, core

    cores = os.sched_getaffinity(0)
    on_core(1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wall, half, core = runner.run(scenario())
    os.sched_setaffinity(0, cores)
    ours.send(False)
    nodes.join()
    bench.record_all(name, wall, unit="ms", requirement="R1.9", bound=bound)
    bench.record_all(f"{name}: to half of the leaves", half, unit="ms")
    bench.record_all(f"{name}: core time of both processes", core, unit="ms")


def write_all(pipe: Connection, connections: int) -> None:
    """The process that writes: once to each connection, whenever it is asked."""
    on_core(0)
    with socket.create_server(("127.0.0.1", 0), backlog=connections) as server:
        pipe.send(server.getsockname()[1])
        accepted = [server.accept()[0] for _ in range(connections)]
    while pipe.recv():
        for one in accepted:
            one.sendall(bytes(FRAME_BYTES))
    for one in accepted:
        one.close()


def bare_writes(bench: Bench) -> None:
    """What two cores need for a frame to each leaf if nothing is done but to write and to read it."""
    leaves = 200 if bench.quick else LEAVES
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    writer = context.Process(target=write_all, args=(theirs, leaves))
    writer.start()
    port = ours.recv()
    ends = [socket.create_connection(("127.0.0.1", port)) for _ in range(leaves)]
    wall, cores = list[float](), os.sched_getaffinity(0)
    on_core(1)
    with selectors.DefaultSelector() as selector:
        for one in ends:
            selector.register(one, selectors.EVENT_READ, one)
        for _ in range(5 if bench.quick else 15):
            time.sleep(0.1)  # as quiet as between the updates above
            start, missing = time.perf_counter(), leaves * FRAME_BYTES
            ours.send(True)
            while missing:
                missing -= sum(len(key.data.recv(1 << 16)) for key, _ in selector.select())
            wall.append(1e3 * (time.perf_counter() - start))
    os.sched_setaffinity(0, cores)
    ours.send(False)
    writer.join()
    for one in ends:
        one.close()
    bench.record_all(f"{leaves} frames to as many connections, only written and read", wall, unit="ms")


def measure(bench: Bench) -> None:
    bench.count(leaves=200 if bench.quick else LEAVES, features=FEATURES)
    in_process(bench)
    as_the_service(bench)
    bare_writes(bench)
    sockets(bench, "no delay", 0.0, 0.0, "< 100")
    beside = "20 ms one way between nodes, leaves beside their region's node"
    sockets(bench, f"{beside}, ten of them on a machine", 0.0, 20.0, "< 100", together=10)
    sockets(bench, f"{beside}, each on its own", 0.0, 20.0, "< 100")
    sockets(bench, "20 ms there and back on each of the six links", 10.0, 10.0, "< 100")
    sockets(bench, "20 ms one way on each of the six links, so at least 120", 20.0, 20.0, "< 100")


if __name__ == "__main__":
    raise SystemExit(main("propagation", measure))
