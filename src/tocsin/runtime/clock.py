"""Two clocks with one face: the machine's, and one that only moves when told to."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """`now_ns()` never goes back."""

    def now_ns(self) -> int: ...


class SystemClock:
    """Unix time, made monotonic: starts at wall-clock time and advances with the monotonic clock."""

    def __init__(self) -> None:
        self._base = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        return self._base + time.monotonic_ns()


class VirtualClock:
    """Time as a number. Replays and simulations jump from timer to timer instead of waiting."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns

    def now_ns(self) -> int:
        return self._now

    def advance_to(self, then_ns: int) -> None:
        """Move forward to `then_ns`; a moment in the past leaves the clock where it is."""
        self._now = max(self._now, then_ns)
