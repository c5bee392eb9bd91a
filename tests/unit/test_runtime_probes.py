"""R1.1: round trips measured over real sockets place nodes, and agents join the region of the nearest."""

from __future__ import annotations

import asyncio
import math
from functools import partial

import pytest

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.placement import NetworkMap
from tocsin.runtime.probes import COORDINATE, MAGIC, Prober
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.sim.round_trips import RoundTrips
from tocsin.trust.keyring import deterministic_signers

NAMES = ("east-1", "east-2", "west-1", "west-2")
SIGNERS = deterministic_signers(b"probes", len(NAMES))
QUICK = LinkOptions(first_redial_seconds=0.005, last_redial_seconds=0.02)
OCEAN_NS = 50_000_000  # one way, so 100 ms there and back: far more than a busy machine adds


def test_probes_over_sockets_tell_near_from_far_and_agents_follow() -> None:
    async def story() -> None:
        nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in SIGNERS]
        probers: list[Prober] = []
        buses: list[TcpBus] = []
        hierarchy = Hierarchy()
        hierarchy.tree.join("agent", "somewhere")

        def hear(me: int, peer: int, body: bytes) -> None:
            assert probers[me].received(peer, body)

        for me, signer in enumerate(SIGNERS):
            bus = TcpBus(
                me, signer, nodes, b"p" * 32, partial(hear, me),
                options=QUICK, delay_ns=lambda peer, me=me: OCEAN_NS if (peer < 2) != (me < 2) else 0,
            )  # fmt: skip
            await bus.start()
            nodes[me] = Node("127.0.0.1", bus.port, signer.public_key)
            buses.append(bus)
            peers = {k: name for k, name in enumerate(NAMES) if k != me}
            sources = (NAMES[me], "agent") if me == 3 else (NAMES[me],)  # the agent runs beside west-2

            def measured(peer: str, rtt_ms: float, sources: tuple[str, ...] = sources) -> None:
                for source in sources:
                    hierarchy.measured(source, peer, rtt_ms)

            probers.append(Prober(NAMES[me], peers, bus, on_measured=measured))
        try:
            rounds = 0
            while rounds < 12 or (rounds < 60 and hierarchy.tree.group_of("agent") == "somewhere"):
                rounds += 1  # more than twelve where a busy machine has blurred the first ones
                await asyncio.gather(*(p.probe(k) for me, p in enumerate(probers) for k in range(4) if k != me))
            for me, prober in enumerate(probers):
                mine, others = NAMES[me], [n for n in NAMES if n != NAMES[me]]
                beside = NAMES[me ^ 1]
                assert prober.measured == 3 * rounds
                assert prober.network.nearest(mine, others) == beside
                far = [prober.network.rtt_ms(mine, n) for n in others if n != beside]
                assert min(far) > 2 * prober.network.rtt_ms(mine, beside)
            assert hierarchy.tree.group_of("agent") in ("west-1", "west-2")
        finally:
            for bus in buses:
                await bus.close()

    asyncio.run(story())


def test_a_peer_that_is_away_is_counted_and_nothing_moves() -> None:
    async def story() -> None:
        nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in SIGNERS[:2]]
        bus = TcpBus(0, SIGNERS[0], nodes, b"p" * 32, lambda peer, body: None, options=QUICK)
        await bus.start()
        prober = Prober("a", {1: "b"}, bus, period_seconds=0.01)
        await prober.probe(1)
        assert (prober.unanswered, prober.measured) == (1, 0)
        assert prober.network.coordinates == {}
        await bus.close()

    asyncio.run(story())


def test_who_is_alone_has_nobody_to_probe() -> None:
    async def story() -> None:
        bus = TcpBus(0, SIGNERS[0], [Node("127.0.0.1", 0, SIGNERS[0].public_key)], b"p" * 32, lambda peer, body: None)
        await asyncio.wait_for(Prober("a", {}, bus).run(), 5)

    asyncio.run(story())


def packed(x: float, y: float, height: float, error: float) -> bytes:
    return COORDINATE.pack(MAGIC, x, y, height, error)


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("impossible coordinate", packed(math.nan, 0, 1, 0.5)),
        ("impossible coordinate", packed(math.inf, 0, 1, 0.5)),
        ("impossible coordinate", packed(1e6, 0, 1, 0.5)),
        ("impossible coordinate", packed(0, 0, -1, 0.5)),
        ("impossible coordinate", packed(0, 0, math.nan, 0.5)),
        ("impossible coordinate", packed(0, 0, 1, 1.5)),
        ("malformed", packed(0, 0, 1, 0.5)[:-1]),
        ("malformed", MAGIC),
    ],
)
def test_places_that_cannot_exist_are_refused(reason: str, body: bytes) -> None:
    nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in SIGNERS[:2]]
    prober = Prober("a", {1: "b"}, TcpBus(0, SIGNERS[0], nodes, b"p" * 32, lambda peer, body: None))
    assert prober.received(1, body)
    assert prober.refused == {reason: 1}
    assert prober.network.coordinates == {}
    assert not prober.received(1, b"some other message")
    assert prober.received(1, packed(3, 4, 1, 0.5))
    assert prober.network.coordinates["b"].x == 3


def test_the_simulated_world_is_placed_by_the_same_machine() -> None:
    names = [f"n{k}" for k in range(30)]
    world, network = RoundTrips(1, names), NetworkMap()
    for turn in range(1, 30 * 4):
        for k, name in enumerate(names):
            other = names[(k + turn) % 30]
            if other != name:
                network.measured(name, other, world.probe(name, other))
    right = sum(world.continent(network.nearest(n, [m for m in names if m != n])) == world.continent(n) for n in names)
    assert right >= 27
    first, second = (RoundTrips(1, names) for _ in range(2))
    assert [first.probe("n0", "n1") for _ in range(5)] == [second.probe("n0", "n1") for _ in range(5)]
    assert all(abs(first.probe("n0", "n1") / first.rtt_ms("n1", "n0") - 1) <= 0.1 for _ in range(50))
