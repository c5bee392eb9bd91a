"""Virtual time and chance: the two things that a seed repeats.

Every component draws from a stream of its own, so taking one fault out of a schedule, or adding a draw somewhere,
leaves what all other components draw as it was. Without that, no schedule could be shrunk.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

MILLISECOND_NS = 1_000_000


class Streams:
    """Random numbers by component, all of them functions of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[tuple[object, ...], Random] = {}

    def of(self, *component: object) -> Random:
        """The stream of a component, named by strings and integers; the same object each time."""
        if component not in self._streams:
            self._streams[component] = Random(f"{self._seed}/{component}")  # noqa: S311 - repeatable, not secret
        return self._streams[component]


class Timeline:
    """What will happen, in order of time and then of planning."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.steps = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, when_ns: int, call: Callable[..., None], *args: Any) -> None:
        """Plan `call(*args)`; what lies in the past happens next."""
        self._planned += 1
        heapq.heappush(self._queue, (max(when_ns, self.now_ns), self._planned, call, args))

    def advance(self) -> bool:
        """Let the next thing happen. False where nothing is planned."""
        if not self._queue:
            return False
        self.now_ns, _, call, args = heapq.heappop(self._queue)
        self.steps += 1
        call(*args)
        return True
