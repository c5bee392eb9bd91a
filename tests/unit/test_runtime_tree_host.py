"""R1.3, R1.9: the tree over real sockets; a machine that falls silent is replaced, and the sums stay exact."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from tocsin.aggregation.fleet_view import FleetView
from tocsin.aggregation.messages import Flush, FromAbove, Input, ResendAsked
from tocsin.aggregation.summary import Summary
from tocsin.aggregation.tree import Tree
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.runtime.tree_host import DOWN, RESEND, UP, Place, TreeHost, neighbours
from tocsin.stats.histogram import BINS, accumulate_histograms
from tocsin.stats.moments import Grid, MomentLayout, accumulate_moments
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire import update as wire

GRID = Grid(("a", "b"), (0, 0), (-8, -8))
PLAN = {
    "g": Place(3, "", ("z",), (0,)),
    "z": Place(2, "g", ("r1", "r2"), (1, 2)),
    "r1": Place(1, "z", ("l1",), (3,)),
    "r2": Place(1, "z", ("l2",), (3,)),
}
LEAVES = {"l1": 4, "l2": 5}
REGION_OF = {"l1": "r1", "l2": "r2"}
SIGNERS = deterministic_signers(b"tree host", 6)
QUICK = LinkOptions(first_redial_seconds=0.005, last_redial_seconds=0.02)
PATIENCE_SECONDS = 20


def summary(n: int, seed: int) -> Summary:
    q = np.random.default_rng(seed).integers(-2000, 2000, (n, 2)).astype(np.int32)
    moments, cells = np.zeros((1, MomentLayout(2).open_size), np.int64), np.zeros((1, 2 * BINS), np.int32)
    accumulate_moments(q, np.zeros(n, np.int64), moments)
    accumulate_histograms(q, np.zeros(n, np.int64), cells)
    return Summary(1, 2, np.concatenate([MomentLayout(2).closed(moments)[0], cells[0]]), {"act": n})


class Machine:
    """One end with a bus of its own, and on the leaves' machines what their leaf has seen."""

    def __init__(self, me: int, ports: list[int], news: asyncio.Event) -> None:
        self.me, self.ports, self.news = me, ports, news
        self.view, self.seq, self.seen = FleetView(), -1, Summary.empty(1, 2)

    async def start(self, patience_seconds: float = 0.1) -> None:
        nodes = [Node("127.0.0.1", port, s.public_key) for port, s in zip(self.ports, SIGNERS, strict=True)]
        self.host = TreeHost(
            self.me, PLAN, LEAVES, time.monotonic_ns, to_leaf=self.heard, patience_seconds=patience_seconds
        )
        self.bus = TcpBus(
            self.me, SIGNERS[self.me], nodes, b"t" * 32, self.host.received, options=QUICK,
            on_change=self.host.changed, peers=neighbours(PLAN, LEAVES, self.me),
        )  # fmt: skip
        await self.bus.start()
        self.ports[self.me] = self.bus.port
        self.host.attach(self.bus)

    async def stop(self) -> None:
        self.host.close()
        await self.bus.close()

    @property
    def leaf(self) -> str:
        return next(name for name, machine in LEAVES.items() if machine == self.me)

    def heard(self, leaf: str, event: Input) -> None:
        if isinstance(event, FromAbove):
            self.view.accept(event.body, time.monotonic_ns())
        elif isinstance(event, ResendAsked):
            self.state(self.seen, wire.SNAPSHOT)
        self.news.set()

    def state(self, change: Summary, kind: int = wire.DELTA) -> None:
        self.seq = max(time.monotonic_ns(), self.seq + 1) if kind == wire.SNAPSHOT else self.seq + 1
        update = wire.Update(
            kind=kind, source=self.leaf, level=0, epoch=1, seq=self.seq, as_of_ms=1, agents=1, d=2,
            counts=change.counts, actions=change.actions,
        )  # fmt: skip
        grid = [wire.encode_grid(1, GRID)] if kind == wire.SNAPSHOT else []
        self.host.send_up(self.leaf, REGION_OF[self.leaf], [*grid, *wire.encode(update)])

    def act(self, n: int, seed: int) -> None:
        change = summary(n, seed)
        self.seen += change
        self.state(change, wire.SNAPSHOT if self.seq < 0 else wire.DELTA)


async def until(news: asyncio.Event, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            news.clear()
            await news.wait()


def test_a_silent_machine_is_replaced_and_the_root_still_equals_the_leaf_sum() -> None:
    async def story() -> None:
        news, ports = asyncio.Event(), [0] * 6
        machines = [Machine(me, ports, news) for me in range(6)]
        for machine in machines:
            await machine.start()
        left, right = machines[4], machines[5]

        def known() -> bool:
            views = [m.view.read() for m in (left, right)]
            return all(view is not None and view[0] == left.seen + right.seen for view in views)

        left.act(20, seed=1)
        right.act(30, seed=2)
        await until(news, known)
        assert "z" in machines[1].host.nodes
        assert "z" not in machines[2].host.nodes

        await machines[1].stop()  # the zone's machine dies; its stand-in starts with nothing
        left.act(5, seed=3)
        await until(news, known)
        assert "z" in machines[2].host.nodes
        assert machines[0].host.host_of("z") == machines[3].host.host_of("z") == 2
        assert machines[0].host.nodes["g"].total == left.seen + right.seen

        machines[1] = Machine(1, ports, news)  # and comes back, having forgotten everything
        await machines[1].start()
        right.act(7, seed=4)
        await until(news, lambda: known() and "z" in machines[1].host.nodes and not machines[2].host.nodes)
        right.act(2, seed=5)
        await until(news, known)
        assert machines[0].host.host_of("z") == 1
        assert all(one.host.failovers == 2 for one in machines[2:4])
        for machine in machines:
            await machine.stop()

    asyncio.run(story())


@pytest.mark.parametrize("agents", [1_000, 4_000])
def test_a_machine_keeps_its_neighbourhood_of_the_plan_and_no_more(agents: int) -> None:
    tree = Tree()
    for k in range(agents):
        tree.join(f"leaf-{k}")
    numbers = {name: k for k, name in enumerate(tree.nodes)}
    plan = {x.id: Place(x.level, x.parent, tuple(x.children), (numbers[x.id],)) for x in tree.nodes.values()}
    leaves = {f"leaf-{k}": len(numbers) + k for k in range(agents)}
    one = tree.at_level(1)[0]
    of_region = TreeHost(numbers[one.id], plan, leaves, lambda: 0)
    of_leaf = TreeHost(leaves["leaf-0"], plan, leaves, lambda: 0)
    assert of_region._plan.keys() == {one.id, one.parent}
    assert of_region._leaves.keys() == one.children.keys()
    assert of_leaf._plan.keys() == {tree.region_of("leaf-0")}
    assert of_leaf._leaves.keys() == {"leaf-0"}
    assert of_leaf._runs.keys() == of_leaf._plan.keys()


def test_a_machine_that_is_back_before_it_was_missed_is_not_added_to_what_it_said_before() -> None:
    async def story() -> None:
        news, ports = asyncio.Event(), [0] * 6
        machines = [Machine(me, ports, news) for me in range(6)]
        for machine in machines:
            await machine.start(60)
        left, right = machines[4], machines[5]

        def known() -> bool:
            whole = left.seen + right.seen
            regions = [machines[3].host.nodes[name].total for name in ("r1", "r2")]
            above = [machines[1].host.nodes["z"].total, machines[0].host.nodes["g"].total]
            views = [view[0] for m in (left, right) if (view := m.view.read()) is not None]
            return regions == [left.seen, right.seen] and above == [whole] * 2 and views == [whole] * 2

        for seed in range(5):
            left.act(10, seed)
            right.act(10, seed + 5)
            await until(news, known)
        for lost in (3, 1, 3, 0):  # both regions, the zone, the regions again, the root
            await machines[lost].stop()
            machines[lost] = Machine(lost, ports, news)
            await machines[lost].start(60)
            await until(news, known)  # though nobody acts
            for seed in range(10, 14):
                left.act(10, seed)
                right.act(10, seed + 5)
                await until(news, known)
        assert all(machine.host.failovers == 0 for machine in machines)
        for machine in machines:
            await machine.stop()

    asyncio.run(story())


def test_a_node_that_moves_counts_with_what_it_said_until_it_states_itself_anew() -> None:
    async def story() -> None:
        host = TreeHost(0, PLAN, LEAVES, lambda: 0, patience_seconds=0)
        host.received(1, frame_of(UP, "g z", wire.encode_grid(1, GRID), zones_word()))
        assert host.nodes["g"].total.events == 3
        host.changed(1, False)
        await asyncio.sleep(0)  # the patience is over
        await asyncio.sleep(0)
        assert host.host_of("z") == 2
        assert host.nodes["g"].total.events == 3
        host.received(1, frame_of(UP, "g z", zones_word()))
        assert host.refused == {"not from where the child runs": 1}
        host.received(2, frame_of(UP, "g z", wire.encode_grid(1, GRID), zones_word(n=4)))
        assert host.nodes["g"].total.events == 4
        host.close()

    asyncio.run(story())


def test_a_node_that_cannot_state_itself_does_not_keep_others_from_it() -> None:
    async def story() -> None:
        host = TreeHost(3, PLAN, {"l1": 3, "l2": 3}, lambda: 0)
        for region, leaf in (("r1", "l1"), ("r2", "l2")):
            packet = zones_word(leaf, level=0)
            host.send_up(leaf, region, [wire.encode_grid(1, GRID), packet])
        first = host.nodes["r1"]
        first.id = "r" * 200  # longer than a name may be
        host.flush()
        assert host.refused == {"cannot be stated": 1}
        assert not host.nodes["r2"].step(0, Flush())  # has been stated
        host.close()

    asyncio.run(story())


def frame_of(kind: int, names: str, *bodies: bytes) -> bytes:
    """A frame for names of one letter or two, given with blanks between."""
    raw = [name.encode() for name in names.split()]
    head = bytes((kind, len(raw))) + b"".join(bytes((len(name),)) + name for name in raw)
    return head + b"".join(len(body).to_bytes(2) + body for body in bodies)


def zones_word(source: str = "z", n: int = 3, level: int = 2) -> bytes:
    whole = summary(n, 0)
    (packet,) = wire.encode(wire.Update(
        kind=wire.SNAPSHOT, source=source, level=level, epoch=1, seq=0, as_of_ms=1, agents=1, d=2, counts=whole.counts,
        actions={}))  # fmt: skip
    return packet


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("malformed", b""),
        ("malformed", b"\x00"),
        ("malformed", frame_of(UP, "g z")[:2] + b"\x02\xff\xfe\x01z"),
        ("malformed", frame_of(9, "g z", b"")),
        ("malformed", frame_of(UP, "g z", b"TU")[:-1]),
        ("malformed", frame_of(UP, "g z")[:-2]),
        ("malformed", frame_of(UP, "g", zones_word())),
        ("malformed", frame_of(UP, "g z z", zones_word())),
        ("no such node here", frame_of(UP, "r1 l1", b"TU")),
        ("no such node here", frame_of(RESEND, "nobody", b"")),
        ("no such node here", frame_of(DOWN, "nobody", b"TG")),
        ("no such node here", frame_of(DOWN, "g", wire.encode_grid(1, GRID))),  # nobody is above the root
        ("no such node here", frame_of(RESEND, "g", b"")),
        ("not from where the child runs", frame_of(UP, "g z", zones_word())),
        ("not from where the child runs", frame_of(UP, "g z", wire.encode_grid(1, GRID))),
        ("not from where the child runs", frame_of(UP, "g nobody", wire.encode_grid(1, GRID))),
    ],
)
def test_frames_that_nobody_should_send_are_refused_and_counted(reason: str, frame: bytes) -> None:
    host = TreeHost(0, PLAN, LEAVES, lambda: 0)
    host.received(2, frame)  # machine 1 runs the zone, not 2
    assert host.refused == {reason: 1}
    assert host.nodes["g"].total.is_zero()
    assert host.nodes["g"].epoch == -1


def alone(host: TreeHost, peer: int, frame: bytes) -> None:
    """Receive within a loop, for what makes a node want to state something."""

    async def story() -> None:
        host.received(peer, frame)
        host.close()

    asyncio.run(story())


@pytest.mark.parametrize("body", [wire.encode_grid(9, GRID), zones_word("z"), zones_word("r3")])
def test_a_machine_speaks_only_for_the_child_that_it_runs(body: bytes) -> None:
    host = TreeHost(0, PLAN | {"g": Place(3, "", ("z", "y", "x"), (0,)), "y": Place(2, "g", (), (2,))}, LEAVES, int)
    node = host.nodes["g"]
    alone(host, 1, frame_of(UP, "g z", wire.encode_grid(1, GRID)))
    assert node.epoch == 1
    alone(host, 2, frame_of(UP, "g y", body))  # speaks as itself of an epoch far away, or in the name of others
    assert node.epoch == 1
    assert node.total.is_zero()
    assert host.refused == {}
    assert sum(node.refused.values()) == (body[:2] == b"TU")


@pytest.mark.parametrize("kind", [DOWN, RESEND])
@pytest.mark.parametrize("peer", [0, 2, 4])
def test_only_the_machine_of_the_parent_may_speak_from_above(kind: int, peer: int) -> None:
    heard: list[Input] = []
    leaves = {"l1": 3, "l2": 5}
    host = TreeHost(3, PLAN, leaves, lambda: 0, to_leaf=lambda leaf, event: heard.append(event))
    alone(host, peer, frame_of(kind, "r1", wire.encode_grid(1, GRID)))  # machine 1 runs the zone above
    alone(host, peer, frame_of(kind, "l1", wire.encode_grid(1, GRID)))  # and this one the region above the leaf
    assert host.refused == {"not from where the parent runs": 2}
    assert heard == []
    alone(host, 1, frame_of(kind, "r1", wire.encode_grid(1, GRID)))
    alone(host, 3, frame_of(kind, "l1", wire.encode_grid(1, GRID)))
    assert host.refused == {"not from where the parent runs": 2}
    assert len(heard) == (2 if kind == DOWN else 1)  # what the region was told it passes on


def test_machines_are_linked_with_those_they_have_to_do_with() -> None:
    links = [neighbours(PLAN, LEAVES, me) for me in range(6)]
    assert links == [{1, 2}, {0, 2, 3}, {0, 1, 3}, {1, 2, 4, 5}, {3}, {3}]


def test_what_several_targets_of_a_machine_get_alike_goes_in_one_frame() -> None:
    heard: list[tuple[str, Input]] = []
    leaves = {"a": 1, "b": 1, "c": 1}
    plan = {"r": Place(1, "", ("a", "b", "c"), (0,))}
    host = TreeHost(1, plan, leaves, lambda: 0, to_leaf=lambda leaf, event: heard.append((leaf, event)))
    host.received(0, bytes((DOWN, 2, 1)) + b"a" + b"\x01c" + b"\x00\x02TG" + b"\x00\x02TU")
    assert heard == [(leaf, FromAbove(body)) for leaf in ("a", "c") for body in (b"TG", b"TU")]
