"""R1.9: how long until an agent's behaviour is part of what every one of 1000 leaves knows about the fleet.

In one process by function calls, and over TCP sockets, every node and every leaf with its own connections, links held
back by the sender (`TcpBus(delay_ns=...)`). All sockets of a run live in one process on one core, so the figures
contain the work of every machine of the tree, one after the other, where a real tree would do it side by side.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import uvloop

from benchmarks._harness import Bench, main
from benchmarks.establishment import windows
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.messages import FromAbove, Input
from tocsin.aggregation.summary import vector_size
from tocsin.aggregation.tree import Tree
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.runtime.tree_host import Place, TreeHost, neighbours
from tocsin.stats.moments import Grid
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire import update as wire

LEAVES = 1_000
FEATURES = 8
SECOND = 1_000_000_000
MILLISECOND = 1_000_000
GRID = Grid(tuple(f"feature_{k}" for k in range(FEATURES)), (0,) * FEATURES, (-8,) * FEATURES)


def in_process(bench: Bench) -> None:
    """One agent acts; the tree climbs, the root states, every leaf's view of the fleet is the new one."""
    agents = 200 if bench.quick else LEAVES
    rng = np.random.default_rng(1)
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(windows(0, agents, 64, FEATURES, rng))
    names, one = [f"agent-{k}" for k in range(agents)], windows(0, 1, 1, FEATURES, rng)
    hierarchy.pump(SECOND)
    wall, core, stale, packets = list[float](), list[float](), 0, list[float]()
    for k in range(2, 12 if bench.quick else 52):
        hierarchy.pump(k * 60 * SECOND)  # heartbeats leave here, so that they are not charged to the event
        before, start, busy = hierarchy.packets_down, time.perf_counter(), time.process_time()
        hierarchy.observe(one)
        now = k * 60 * SECOND + SECOND
        hierarchy.pump(now)
        wall.append(1e3 * (time.perf_counter() - start))
        core.append(1e3 * (time.process_time() - busy))
        packets.append(hierarchy.packets_down - before)
        stale += sum(hierarchy.fleet_known_to(name).seq != now for name in names)
    where = f"agent to root and back to {agents} leaves, in process"
    bench.record_all(where, wall, unit="ms", requirement="R1.9", bound="< 20")
    bench.record_all(f"{where}: core time", core, unit="ms")
    bench.record("leaves that did not hear of it", stale, unit="", requirement="R1.9", bound="== 0")
    bench.record_all("packets down, a statement", packets, unit="")


class Fleet:
    """A tree of `n` leaves on sockets. Links take so long one way: to leaves `leaf_ms`, all others `node_ms`."""

    def __init__(self, n: int, leaf_ms: float, node_ms: float) -> None:
        tree = Tree()
        for k in range(n):
            tree.join(f"leaf-{k}")
        inner = sorted(tree.nodes.values(), key=lambda node: -node.level)
        numbers = {node.id: k for k, node in enumerate(inner)}
        self.plan = {x.id: Place(x.level, x.parent, tuple(x.children), (numbers[x.id],)) for x in inner}
        self.leaves = {f"leaf-{k}": len(inner) + k for k in range(n)}
        self.region_of = {leaf: tree.region_of(leaf) for leaf in self.leaves}
        self.inner = len(inner)
        self.leaf_ms, self.node_ms = leaf_ms, node_ms
        self.hosts: list[TreeHost] = []
        self.buses: list[TcpBus] = []
        self.expected = 0  # events that a statement has to count
        self.behind: set[str] = set()  # leaves that have not heard such a statement
        self.newest = asyncio.Event()
        self._counted: dict[int, int] = {}  # number of a statement -> events it counts

    async def start(self) -> None:
        signers = deterministic_signers(b"propagation", self.inner + len(self.leaves))
        nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in signers]
        near: dict[int, set[int]] = {}
        for name, place in self.plan.items():
            (me,) = place.hosts
            near[me] = neighbours({name: place, **self._around(place)}, self.leaves, me)
        for leaf, me in self.leaves.items():
            near[me] = set(self.plan[self.region_of[leaf]].hosts)
        options = LinkOptions(heartbeat_seconds=60, handshake_seconds=60, pending=len(nodes))
        for me, signer in enumerate(signers):
            host = TreeHost(me, self.plan, self.leaves, time.monotonic_ns, to_leaf=self._to_leaf, patience_seconds=600)
            bus = TcpBus(
                me, signer, nodes, b"p" * 32, host.received, options=options, on_change=host.changed, peers=near[me],
                delay_ns=lambda peer, me=me: self._delay_ns(me, peer),
            )  # fmt: skip
            await bus.start()
            nodes[me] = Node("127.0.0.1", bus.port, signer.public_key)
            host.attach(bus)
            self.hosts.append(host)
            self.buses.append(bus)
        while not all(state.up for bus in self.buses for state in bus.links().values()):
            await asyncio.sleep(0.05)

    def _delay_ns(self, a: int, b: int) -> int:
        return int(MILLISECOND * (self.leaf_ms if max(a, b) >= self.inner else self.node_ms))

    def _around(self, place: Place) -> dict[str, Place]:
        return {name: self.plan[name] for name in (place.parent, *place.children) if name in self.plan}

    async def close(self) -> None:
        for host, bus in zip(self.hosts, self.buses, strict=True):
            host.close()
            await bus.close()

    def _to_leaf(self, leaf: str, event: Input) -> None:
        if not isinstance(event, FromAbove) or event.body[:2] != b"TU":
            return
        head = wire.peek(event.body)
        if head.part == 0 and head.seq not in self._counted:
            self._counted[head.seq] = int(wire.decode(event.body).residual[0])
        if head.part == head.parts - 1 and self._counted[head.seq] == self.expected:
            self.behind.discard(leaf)
            if not self.behind:
                self.newest.set()

    async def tell(self, leaf: str, seq: int) -> float:
        """One leaf acts once more; milliseconds until every leaf holds a statement that counts it."""
        counts = np.zeros(vector_size(FEATURES), np.int64)
        counts[0] = 1
        self.expected, self.behind = seq + 1, set(self.leaves)
        self.newest.clear()
        start = time.perf_counter()
        update = wire.Update(
            kind=wire.DELTA if seq else wire.SNAPSHOT, source=leaf, level=0, epoch=0, seq=seq, as_of_ms=1, agents=1,
            d=FEATURES, counts=counts, actions={"read": 1},
        )  # fmt: skip
        grid = [] if seq else [wire.encode_grid(0, GRID)]
        host = self.hosts[self.leaves[leaf]]
        host.send_up(leaf, self.region_of[leaf], [*grid, *wire.encode(update)])
        await self.newest.wait()
        return 1e3 * (time.perf_counter() - start)


def sockets(bench: Bench, links: str, leaf_ms: float, node_ms: float, bound: str) -> None:
    name = f"to root and back over TCP, {links}"
    runs = 5 if bench.quick else 15

    async def scenario() -> tuple[list[float], list[float]]:
        fleet = Fleet(100 if bench.quick else LEAVES, leaf_ms, node_ms)
        await fleet.start()
        await fleet.tell("leaf-0", 0)
        wall, core = list[float](), list[float]()
        for k in range(1, runs + 1):
            await asyncio.sleep(0.1)  # quiet again
            busy = time.process_time()
            wall.append(await fleet.tell("leaf-0", k))
            core.append(1e3 * (time.process_time() - busy))
        await fleet.close()
        return wall, core

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wall, core = runner.run(scenario())
    bench.record_all(name, wall, unit="ms", requirement="R1.9", bound=bound)
    bench.record_all(f"{name}: core time", core, unit="ms")


def measure(bench: Bench) -> None:
    bench.count(leaves=200 if bench.quick else LEAVES, features=FEATURES)
    in_process(bench)
    sockets(bench, "no delay", 0.0, 0.0, "< 100")
    sockets(bench, "20 ms one way between nodes, leaves beside their region's node", 0.0, 20.0, "< 100")
    sockets(bench, "20 ms there and back on each of the six links", 10.0, 10.0, "< 100")
    sockets(bench, "20 ms one way on each of the six links, so at least 120", 20.0, 20.0, "")


if __name__ == "__main__":
    raise SystemExit(main("propagation", measure))
