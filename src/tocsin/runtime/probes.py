"""Round trips measured on a real bus, and what they say about where nodes are.

Every period a node pings one peer, in turn, and tells it its coordinate; what comes back moves its own (see
`aggregation.placement`). Coordinates of others are hints from strangers: they are bounded, and one liar misplaces
whoever measures to it only as far as the round trips to all others allow.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping

from tocsin.aggregation.placement import MAX_RTT_MS, Coordinate, NetworkMap
from tocsin.errors import Unreachable
from tocsin.runtime.tcp_bus import TcpBus

COORDINATE = struct.Struct(">4s4d")  # magic, x, y, height, expected relative error
MAGIC = b"RTT1"
PERIOD_SECONDS = 1.0  # a node with 50 peers hears of each once a minute, at 100 bytes a second

OnMeasured = Callable[[str, float], None]


class Prober:
    """Keeps `network` up to date for the node `name`. `peers`: bus number -> name. Give `received` what it claims."""

    def __init__(
        self,
        name: str,
        peers: Mapping[int, str],
        bus: TcpBus,
        *,
        network: NetworkMap | None = None,
        period_seconds: float = PERIOD_SECONDS,
        on_measured: OnMeasured | None = None,
    ) -> None:
        self.network = network or NetworkMap()
        self.refused: Counter[str] = Counter()
        self.measured = 0
        self.unanswered = 0
        self._name = name
        self._peers = dict(peers)
        self._bus = bus
        self._period = period_seconds
        self._on_measured = on_measured

    async def run(self) -> None:
        """Probe for ever, unless there is nobody to probe; cancel it to stop."""
        while self._peers:
            for number in self._peers:
                await self.probe(number)
                await asyncio.sleep(self._period)

    async def probe(self, number: int) -> None:
        """Measure one round trip, and tell the peer where this node takes itself to be."""
        try:
            rtt_ms = await self._bus.ping(number, max(self._period, 1.0)) / 1e6
        except Unreachable:
            self.unanswered += 1
            return
        if not 0.0 < rtt_ms <= MAX_RTT_MS:
            self.refused["impossible round trip"] += 1
            return
        peer = self._peers[number]
        self.network.measured(self._name, peer, rtt_ms)
        self.measured += 1
        own = self.network.coordinates[self._name]
        self._bus.send(number, COORDINATE.pack(MAGIC, own.x, own.y, own.height, own.error))
        if self._on_measured is not None:
            self._on_measured(peer, rtt_ms)

    def received(self, number: int, body: bytes) -> bool:
        """Whether `body` was a peer's coordinate; if not, it is somebody else's message."""
        if body[:4] != MAGIC:
            return False
        if len(body) != COORDINATE.size or number not in self._peers:
            self.refused["malformed"] += 1
            return True
        _, x, y, height, error = COORDINATE.unpack(body)
        if not all(map(math.isfinite, (x, y))) or not (0.0 < height <= MAX_RTT_MS and 0.0 <= error <= 1.0):
            self.refused["impossible coordinate"] += 1
            return True
        if max(abs(x), abs(y)) > MAX_RTT_MS:
            self.refused["impossible coordinate"] += 1
            return True
        self.network.told(self._peers[number], Coordinate(x, y, height, error))
        return True
