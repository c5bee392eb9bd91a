"""What this machine takes for the things that the latency model adds up."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from itertools import count

from benchmarks._committee import statement
from tocsin.model.evidence import EvidenceBatch
from tocsin.runtime.tcp_bus import Node, TcpBus
from tocsin.sim.latency import Costs
from tocsin.trust import bls
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of
from tocsin.trust.merkle import root
from tocsin.trust.signing import VOTE, verify
from tocsin.wire.evidence import GENESIS, encode_batch, open_batch


class Pair:
    """Two linked nodes; an async context manager."""

    def __init__(self, on_message: Callable[[int, bytes], None] = lambda _, __: None) -> None:
        signers = deterministic_signers(b"benchmark", 2)
        nodes = [Node("127.0.0.1", 0, signer.public_key) for signer in signers]
        self._up = asyncio.Event()
        self.a, self.b = (
            TcpBus(i, signer, nodes, bytes(32), on_message, on_change=lambda _, __: self._up.set())
            for i, signer in enumerate(signers)
        )

    async def __aenter__(self) -> Pair:
        await self.a.start()
        self.b.move(0, "127.0.0.1", self.a.port)
        await self.b.start()
        await self._up.wait()
        await self.a.ping(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.a.close()
        await self.b.close()


async def round_trips(pings: int) -> list[float]:
    """Microseconds, between two nodes on one event loop."""
    async with Pair() as pair:
        for _ in range(50):
            await pair.a.ping(1)
        return [await pair.a.ping(1) / 1e3 for _ in range(pings)]


async def carrying(messages: int) -> tuple[int, float]:
    """Processor nanoseconds for sending and receiving one small message, and for each further byte of it."""
    small, large = 200, 60_000
    per_small = await _flood(messages, small)
    per_large = await _flood(messages // 20, large)
    return int(per_small), max(0.0, (per_large - per_small) / (large - small))


async def _flood(messages: int, size: int) -> float:
    heard, over = count(1), asyncio.Event()

    def hear(_: int, __: bytes) -> None:
        if next(heard) == messages:
            over.set()

    async with Pair(hear) as pair:
        body = bytes(size)
        began = time.process_time_ns()
        for k in range(messages):
            pair.a.send(1, body)
            if k % 20 == 0:
                await asyncio.sleep(0)  # the queue is bounded
        await over.wait()
        return (time.process_time_ns() - began) / messages


def measure_costs(message_ns: int, byte_ns: float, commit_ns: int, stretch: float = 1.0) -> Costs:
    """The rest is measured here."""
    (signer,) = deterministic_signers(b"costs", 1)
    roster = roster_of("costs", [signer])
    signed = [(str(k).encode(), signer.sign(VOTE, str(k).encode())) for k in range(300)]
    batches = [
        encode_batch(
            EvidenceBatch(
                net="costs",
                config_hash=roster_hash(roster),
                monitor=0,
                seq=k,
                prev_hash=GENESIS,
                through_offset=k,
                items=(statement(0, k),),
            ),
            signer,
        )
        for k in range(100)
    ]
    total_ns, key_ns, hash_ns = _sums()
    return Costs(
        verify_ns=_median_ns([lambda m=m, s=s: verify(signer.public_key, VOTE, m, s) for m, s in signed]),
        open_ns=_median_ns([lambda raw=raw: open_batch(raw, roster) for raw in batches]),
        tip_ns=_median_ns([lambda k=k: root(str(k + i).encode() for i in range(500)) for k in range(9)]) // 500,
        sum_ns=total_ns,
        key_ns=key_ns,
        hash_ns=hash_ns,
        send_ns=message_ns // 2,
        receive_ns=message_ns // 2,
        byte_ns=byte_ns,
        commit_ns=commit_ns,
        stretch=stretch,
    )


def _sums() -> tuple[int, int, int]:
    """Checking a BLS sum of no signers, what each signer adds to it, and hashing a statement to the curve."""
    signers = [bls.BlsSigner(k + 1) for k in range(200)]
    keys = [signer.public_key for signer in signers]
    messages = [str(k).encode() for k in range(15)]
    hashing = _median_ns([lambda m=m: bls._hashed(m, bls.SIGN) for m in messages])  # pyright: ignore[reportPrivateUsage]
    took: list[int] = []
    for size in (1, len(keys)):
        sums = [bls.add_up(signer.share(m) for signer in signers[:size]) or b"" for m in messages]
        pairs = list(zip(messages, sums, strict=True))
        took.append(_median_ns([lambda m=m, s=s, c=size: bls.holds(keys[:c], m, s) for m, s in pairs]))
    each = (took[1] - took[0]) // (len(keys) - 1)
    return took[0], max(0, each), hashing


def _median_ns(calls: list[Callable[[], object]]) -> int:
    """Thread time of calls that are each made for the first time."""
    took: list[int] = []
    for call in calls:
        began = time.thread_time_ns()
        call()
        took.append(time.thread_time_ns() - began)
    return int(statistics.median(took))
