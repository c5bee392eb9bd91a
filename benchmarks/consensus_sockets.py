"""Agreement over real TCP sockets on one machine: how long a message takes, how long a certificate."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks._harness import Bench, main, percentile


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


async def certificates(n: int, rounds: int, *, all_state: bool) -> list[float]:
    """Milliseconds from a statement to the certificate at the last of n monitors, once a round."""
    from benchmarks._committee import Committee
    from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig

    took: list[float] = []
    config = ConsensusConfig(view_timeout_ns=5_000 * MILLISECOND_NS)
    with tempfile.TemporaryDirectory() as directory:
        async with Committee(n, Path(directory) / "journal.db", config, None) as committee:
            for k in range(rounds + 2):
                known = committee.newest
                began = time.perf_counter()
                committee.state(range(n) if all_state else [k % n])
                await committee.until(
                    lambda known=known: max(committee.decided, default=-1) > known and committee.agreed()
                )
                if k >= 2:
                    took.append((max(committee.decided[known + 1].values()) - began) * 1e3)
    return took


def measure(bench: Bench) -> None:
    """All figures."""
    took = asyncio.run(round_trips(300 if bench.quick else 2000))
    bench.record_all("round trip between two nodes, loopback", took, unit="us")
    for n, bound in ((4, "< 25"), (16, ""), (31, "< 150"), (64, ""), (100, "")):
        rounds = max(5, min(100, 1200 // n)) // (4 if bench.quick else 1)
        values = uvloop.run(certificates(n, rounds, all_state=False))
        name = f"statement to certificate everywhere, {n} monitors"
        bench.record_all(name, values, unit="ms", requirement="R2.9", bound=bound)
        bench.record(f"{name}, p99", percentile(values, 99), unit="ms", runs=len(values))


if __name__ == "__main__":
    raise SystemExit(main("consensus_sockets", measure))
