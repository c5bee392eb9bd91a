"""Agreement over real TCP sockets on one machine: how long a message takes, how long a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks._harness import Bench, main


async def round_trips(pings: int) -> list[float]:
    """Microseconds, between two nodes on one event loop."""
    from tocsin.runtime.tcp_bus import Node, TcpBus
    from tocsin.trust.keyring import deterministic_signers

    signers = deterministic_signers(b"benchmark", 2)
    nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in signers]
    both_up = asyncio.Event()
    buses: Sequence[TcpBus] = [
        TcpBus(i, signer, nodes, bytes(32), lambda _, __: None, on_change=lambda _, __: both_up.set())
        for i, signer in enumerate(signers)
    ]
    await buses[0].start()
    buses[1].move(0, "127.0.0.1", buses[0].port)
    await buses[1].start()
    await both_up.wait()
    for _ in range(50):
        await buses[0].ping(1)
    took = [await buses[0].ping(1) / 1e3 for _ in range(pings)]
    for bus in buses:
        await bus.close()
    return took


def measure(bench: Bench) -> None:
    """All figures."""
    took = asyncio.run(round_trips(300 if bench.quick else 2000))
    bench.record_all("round trip between two nodes, loopback", took, unit="us")


if __name__ == "__main__":
    raise SystemExit(main("consensus_sockets", measure))
