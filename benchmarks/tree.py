"""The tree's own cost: messages an operation takes over the size of the fleet, depth, placement by round trips."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks._harness import Bench, main, percentile
from benchmarks.establishment import GROUPS, windows
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.placement import NetworkMap
from tocsin.aggregation.tree import REGION, REGION_MIN, ZONE, Tree, most_attachments
from tocsin.runtime.probes import Prober
from tocsin.runtime.tcp_bus import Node, TcpBus
from tocsin.sim.round_trips import RoundTrips
from tocsin.trust.keyring import deterministic_signers

SECOND = 1_000_000_000
SITES = tuple(f"site-{k}" for k in range(12))
OPERATIONS = 200
PROBED = 8
FAR_NS = 20_000_000  # one way
NODES = tuple(f"node-{k}" for k in range(300))


def sizes(bench: Bench) -> tuple[int, ...]:
    return (100, 1_000, 10_000) if bench.quick else (100, 1_000, 10_000, 100_000)


class Fleet:
    """A settled hierarchy of `n` agents, and what one more operation on it costs in messages."""

    def __init__(self, n: int) -> None:
        self.hierarchy = Hierarchy(flush_ns=0)
        self.rng = np.random.default_rng(n)
        self.now = SECOND
        self.made = 0
        step = min(n, 1_000)
        for _ in range(0, n, step):
            self.join(step)
        self.messages(lambda: None)

    def join(self, count: int) -> None:
        self.hierarchy.observe(windows(self.made, count, 1 if self.made else 6, 3, self.rng))
        self.made += count

    def messages(self, operation: Callable[[], object], told: int = 0) -> int:
        """Between nodes, as if each leaf were a machine of its own: at most, since some are counted twice.

        Control messages and packets upwards; a message for every child that is attached or detached, each leaf that a
        split or merge moves among them; a request and a snapshot for each leaf of a region that is lost (`told`); and
        what one leaf fetches downwards when it then asks what the fleet does.
        """
        one = self.hierarchy
        before = one.control + one.packets + one.tree.operations
        operation()
        self.now += 1_000  # no heartbeat falls due in between
        one.pump(self.now)
        up = one.control + one.packets + one.tree.operations - before
        before = one.packets_down
        one.fleet_known_to(next(iter(one.tree.at_level(REGION)[-1].children)))
        return up + 2 * told + one.packets_down - before


def costs(fleet: Fleet, n: int) -> dict[str, list[int]]:
    """Messages of joins, moves and leaves of random agents and of lost nodes, one operation at a time."""
    one, rng = fleet.hierarchy, np.random.default_rng(n)
    found: dict[str, list[int]] = {"join": [], "leave": [], "move": []}
    for k, agent in enumerate(rng.permutation(n)[:OPERATIONS].tolist()):
        found["join"].append(fleet.messages(lambda: fleet.join(1)))
        name = ("leave", "move")[k % 2]
        operation = one.leave if name == "leave" else partial(one.tree.move, group=GROUPS[k // 2 % 3])
        found[name].append(fleet.messages(partial(operation, f"agent-{agent}")))
    for level, name in ((REGION, "lost region"), (ZONE, "lost zone")):
        lost = one.tree.at_level(level)[:10]
        sizes = [node.agents if level == REGION else 0 for node in lost]
        found[name] = [fleet.messages(lambda x=x: one.fail_over(x.id), k) for x, k in zip(lost, sizes, strict=True)]
    return found


def operations(bench: Bench) -> None:
    """Single operations on fleets of every size; the root still is the sum of the leaves after all of them."""
    most: dict[str, list[float]] = {}
    for n in sizes(bench):
        fleet = Fleet(n)
        for name, values in costs(fleet, n).items():
            bench.record_all(f"{name} at {n} agents", values, unit="messages", requirement="R1.3")
            most.setdefault(name, []).append(max(values) / math.log2(n))
            bench.record(f"{name} at {n} agents: most over log2 n", most[name][-1], unit="messages")
        depth, exact = fleet.hierarchy.tree.depth, fleet.hierarchy.root_equals_leaf_sum()
        bench.record(f"depth at {n} agents", depth, unit="levels", requirement="R1.2", bound="<= 4")
        bench.record(f"root equals leaf sum at {n} agents", exact, unit="", requirement="R1.3", bound="== 1")
    by_size = [max(ratios) for ratios in zip(*most.values(), strict=True)]
    title = "most of any operation over log2 n, the largest fleet against 100 agents"
    bench.record(title, by_size[-1] / by_size[0], unit="x", requirement="R1.3", bound="<= 1")
    for name, ratios in most.items():
        # The sizes at which a zone may be full come after the first: 100 agents are a few regions.
        title = f"{name}: most of any one over log2 n, the largest fleet against 1000 agents"
        bench.record(title, ratios[-1] / ratios[1], unit="x", requirement="R1.3", bound="<= 1")


class Attachments:
    """Children attached or detached by each operation on a tree: what has to be told, splits and merges included."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.found: dict[str, list[int]] = {}

    def run(self, name: str, operation: Callable[[str], object], agent: str) -> None:
        before = self.tree.operations
        operation(agent)
        self.found.setdefault(name, []).append(self.tree.operations - before)

    def join(self, agent: str) -> None:
        self.run("join", lambda one: self.tree.join(one, GROUPS[int(one) % 3]), agent)

    def leave(self, agent: str) -> None:
        self.run("leave", self.tree.leave, agent)

    def thin_out(self) -> None:
        """Regions as small as may be, so that zones have as many as they can and their splits and merges cost most."""
        for region in self.tree.at_level(REGION):
            while region.id in self.tree.nodes and region.agents > REGION_MIN:
                self.leave(next(iter(region.children)))


def attachments(bench: Bench) -> None:
    """Growth, thinning out, and then as many joins and leaves again as there are agents, in random order."""
    for n in sizes(bench):
        one, rng = Attachments(), np.random.default_rng(n)
        start = time.process_time()
        for k in range(n):
            one.join(str(k))
        spent = 1e6 * (time.process_time() - start) / n
        deepest = one.tree.depth
        one.thin_out()
        for k in rng.permutation(n).tolist():
            (one.leave if str(k) in one.tree else one.join)(str(k))
        for k in rng.permutation(n).tolist():
            if str(k) in one.tree:
                one.leave(str(k))
        one.tree.check()
        limit = most_attachments(deepest)
        for name, values in one.found.items():
            mean = sum(values) / len(values)
            bench.record(f"{name} up to {n} agents: mean", mean, unit="attachments", requirement="R1.3", bound="<= 12")
            bench.record(f"{name} up to {n} agents: 99.9 %", percentile(values, 99.9), unit="attachments")
            most = f"{name} up to {n} agents: most of any one"
            bench.record(most, max(values), unit="attachments", requirement="R1.3", bound=f"<= {limit}")
        bench.record(f"growing to {n} agents: time a join", spent, unit="core-us")


def coordinates(world: RoundTrips, rng: np.random.Generator, names: tuple[str, ...]) -> NetworkMap:
    """What is known after each of `names` has measured 60 times to a site, now this one, now that."""
    network = NetworkMap()
    for _ in range(60):
        for name in names:
            site = SITES[int(rng.integers(len(SITES)))]
            if site != name:
                network.measured(name, site, world.probe(name, site))
    return network


def placement(bench: Bench) -> None:
    """Nearest of 12 sites by coordinates against a random site; three continents, access links, 10 % noise."""
    mean, p99 = list[float](), list[float]()
    for seed in range(5):
        world, rng = RoundTrips(seed, SITES + NODES), np.random.default_rng(seed)
        network = coordinates(world, rng, SITES + NODES)
        ours = [world.rtt_ms(name, network.nearest(name, SITES)) for name in NODES]
        chance = [world.rtt_ms(name, SITES[int(rng.integers(len(SITES)))]) for name in NODES]
        mean.append(sum(ours) / sum(chance))
        p99.append(percentile(ours, 99) / percentile(chance, 99))
    what = "round trip to the nearest site by coordinates, against a random site"
    bench.record_all(f"{what}, mean", mean, unit="x", requirement="R1.1", bound="< 1")
    bench.record_all(f"{what}, p99", p99, unit="x", requirement="R1.1", bound="< 1")


def hosts(tree: Tree, choose: Callable[[list[str]], str]) -> dict[str, str]:
    """Node -> the site that runs it, chosen from the agents or the sites of the nodes below it."""
    found: dict[str, str] = {}
    for node in sorted(tree.nodes.values(), key=lambda one: one.level):
        found[node.id] = choose([found.get(child, child) for child in node.children])
    return found


def path_ms(world: RoundTrips, tree: Tree, at: dict[str, str], agent: str) -> float:
    """One way from an agent to where the root runs, over every node between."""
    total, here, node = 0.0, agent, tree.region_of(agent)
    while node:
        total += world.rtt_ms(here, at[node]) / 2 if here != at[node] else 0.0
        here, node = at[node], tree.nodes[node].parent
    return total


def paths(bench: Bench) -> None:
    """Agents joined where they are near and nodes run where their children are near, against both at random."""
    agents = tuple(f"agent-{k}" for k in range(300 if bench.quick else 1_200))
    mean, p99, ways = list[float](), list[float](), list[float]()
    for seed in range(2 if bench.quick else 5):
        world, rng = RoundTrips(seed, SITES + agents), np.random.default_rng(seed)
        network = coordinates(world, rng, SITES + agents)
        near, anywhere = Tree(), Tree()
        for name in agents:
            near.join(name, network.nearest(name, SITES))
            anywhere.join(name)
        ours = hosts(near, partial(network.central, SITES))
        random = hosts(anywhere, lambda _, rng=rng: SITES[int(rng.integers(len(SITES)))])
        placed = [path_ms(world, near, ours, name) for name in agents]
        chance = [path_ms(world, anywhere, random, name) for name in agents]
        mean.append(sum(placed) / sum(chance))
        p99.append(percentile(placed, 99) / percentile(chance, 99))
        ways.append(sum(placed) / len(agents))
    what = f"path to the root, {len(agents)} agents and 12 sites: placed by coordinates, against at random"
    bench.record_all(f"{what}, mean", mean, unit="x", requirement="R1.1", bound="< 1")
    bench.record_all(f"{what}, p99", p99, unit="x", requirement="R1.1", bound="< 1")
    bench.record_all("path to the root, placed by coordinates: mean", ways, unit="ms one way")


async def probed() -> tuple[list[bool], list[float]]:
    """Nodes of two sites probe each other over TCP: is the nearest one of their own site; the far ones' errors."""
    signers = deterministic_signers(b"probes", PROBED)
    nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in signers]
    probers: list[Prober] = []
    buses: list[TcpBus] = []

    def hear(me: int, peer: int, body: bytes) -> None:
        probers[me].received(peer, body)

    for me, signer in enumerate(signers):
        far_ns = {peer: FAR_NS for peer in range(PROBED) if peer % 2 != me % 2}
        bus = TcpBus(
            me, signer, nodes, b"p" * 32, partial(hear, me), delay_ns=lambda peer, far=far_ns: far.get(peer, 0)
        )
        await bus.start()
        nodes[me] = Node("127.0.0.1", bus.port, signer.public_key)
        buses.append(bus)
        probers.append(Prober(str(me), {k: str(k) for k in range(PROBED) if k != me}, bus))
    for turn in range(1, 3 * PROBED):
        await asyncio.gather(*(p.probe((me + turn) % PROBED) for me, p in enumerate(probers) if turn % PROBED))
    right, errors = list[bool](), list[float]()
    for me, prober in enumerate(probers):
        others = [str(k) for k in range(PROBED) if k != me]
        right.append(int(prober.network.nearest(str(me), others)) % 2 == me % 2)
        far = [prober.network.rtt_ms(str(me), k) for k in others if int(k) % 2 != me % 2]
        errors += [abs(rtt / (2 * FAR_NS / 1e6) - 1) for rtt in far]
    for bus in buses:
        await bus.close()
    return right, errors


def probes(bench: Bench) -> None:
    right, errors = asyncio.run(probed())
    where = f"{PROBED} nodes of two sites 40 ms apart, TCP"
    share, median = sum(right) / len(right), percentile(errors, 50)
    bench.record(
        f"{where}: nearest by coordinates is of the own site", share, unit="", requirement="R1.1", bound="== 1"
    )
    bench.record(f"{where}: predicted round trip, median relative error", median, unit="", requirement="R1.1")


def measure(bench: Bench) -> None:
    operations(bench)
    attachments(bench)
    placement(bench)
    paths(bench)
    probes(bench)


if __name__ == "__main__":
    raise SystemExit(main("tree", measure))
