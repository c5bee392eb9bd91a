"""Network coordinates from measured round-trip times, and placement by them (R1.1).

Vivaldi (Dabek, Cox, Kaashoek & Morris 2004): every node keeps a point in the plane plus a height (its access link),
and each measured round trip pulls or pushes it, the harder the surer the other side is. Two coordinates predict a
round trip that was never measured, so n nodes are placed with O(n) measurements instead of O(n**2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from tocsin.errors import InputError

GAIN = 0.25  # c_c = c_e of the paper: share of the error corrected, and of the confidence renewed, by one sample
LEAST_HEIGHT_MS = 0.01
MAX_RTT_MS = 10_000.0
SETTLED = 0.3  # expected relative error from which a coordinate is acted upon


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A point in milliseconds. `error` is the expected relative error of its predictions, 1.0 = knows nothing."""

    x: float = 0.0
    y: float = 0.0
    height: float = LEAST_HEIGHT_MS
    error: float = 1.0

    def rtt_ms(self, other: Coordinate) -> float:
        """Predicted round trip: distance in the plane plus both access links."""
        return math.hypot(self.x - other.x, self.y - other.y) + self.height + other.height


def moved(own: Coordinate, other: Coordinate, rtt_ms: float, tie_breaker: str) -> Coordinate:
    """`own` after one measured round trip to `other`. Raises `InputError` for an impossible time.

    Two nodes at one point part in a direction hashed from `tie_breaker`: same measurements, same coordinates.
    """
    if not 0.0 < rtt_ms <= MAX_RTT_MS:
        raise InputError(f"a round trip of {rtt_ms} ms was not measured", remedy=f"give 0 < rtt <= {MAX_RTT_MS:.0f} ms")
    predicted = own.rtt_ms(other)
    weight = own.error / (own.error + other.error) if own.error + other.error > 0 else 0.5
    surprise = min(1.0, abs(predicted - rtt_ms) / rtt_ms)
    error = surprise * GAIN * weight + own.error * (1 - GAIN * weight)
    force = GAIN * weight * (rtt_ms - predicted)
    dx, dy = own.x - other.x, own.y - other.y
    plane = math.hypot(dx, dy)
    if plane < 1e-9:
        angle = 2 * math.pi * int.from_bytes(hashlib.blake2b(tie_breaker.encode(), digest_size=4).digest()) / 2**32
        dx, dy, plane = math.cos(angle), math.sin(angle), 1.0
    length = plane + own.height + other.height
    height = max(LEAST_HEIGHT_MS, own.height + force * (own.height + other.height) / length)
    return Coordinate(own.x + force * dx / length, own.y + force * dy / length, height, error)


class NetworkMap:
    """Coordinates of named nodes, updated from measurements in the order they are given."""

    def __init__(self) -> None:
        self.coordinates: dict[str, Coordinate] = {}
        self.sites: dict[str, None] = {}  # whatever was measured to, in order of appearance

    def measured(self, source: str, target: str, rtt_ms: float) -> None:
        """`source` measured a round trip to `target`; only `source` moves. Raises `InputError`."""
        own, other = self.coordinates.get(source, Coordinate()), self.coordinates.get(target, Coordinate())
        self.coordinates[source] = moved(own, other, rtt_ms, f"{source}>{target}")
        self.coordinates.setdefault(target, other)
        self.sites[target] = None

    def told(self, node: str, coordinate: Coordinate) -> None:
        """`node` says where it takes itself to be. The caller has checked that such a place can exist."""
        self.coordinates[node] = coordinate

    def rtt_ms(self, a: str, b: str) -> float:
        """Predicted round trip. Raises `InputError` for a node that nobody has measured."""
        missing = [n for n in (a, b) if n not in self.coordinates]
        if missing:
            raise InputError(f"nobody has measured a round trip to {missing[0]!r}")
        return self.coordinates[a].rtt_ms(self.coordinates[b])

    def nearest(self, node: str, sites: Iterable[str]) -> str:
        """The site with the least predicted round trip: what `Tree.join` takes as an agent's `group`."""
        return min(sites, key=lambda site: (self.rtt_ms(node, site), site))

    def central(self, sites: Iterable[str], members: Iterable[str]) -> str:
        """The site with the least predicted round trips to all of `members` together: where their node should run."""
        below = list(members)
        return min(sites, key=lambda site: (sum(self.rtt_ms(site, one) for one in below), site))

    def place(self, node: str, *, otherwise: str) -> str:
        """The nearest site once the node's coordinate predicts within `SETTLED`; until then `otherwise`."""
        own = self.coordinates.get(node)
        return self.nearest(node, self.sites) if own is not None and own.error <= SETTLED else otherwise
