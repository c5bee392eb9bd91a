"""Timers of many machines in one heap. Setting a token again moves it; a negative delay cancels it."""

from __future__ import annotations

import heapq


class Timers:
    """Keyed by (monitor, token)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, str]] = []
        self._live: dict[tuple[int, str], int] = {}  # -> serial of the latest setting
        self._serial = 0

    def set(self, monitor: int, token: str, at_ns: int) -> None:
        self._serial += 1
        self._live[monitor, token] = self._serial
        heapq.heappush(self._heap, (at_ns, self._serial, monitor, token))

    def cancel(self, monitor: int, token: str) -> None:
        self._live.pop((monitor, token), None)

    def _settle(self) -> None:
        while self._heap and self._live.get((self._heap[0][2], self._heap[0][3])) != self._heap[0][1]:
            heapq.heappop(self._heap)

    def next_ns(self) -> int | None:
        """When the earliest live timer fires; None when there is none."""
        self._settle()
        return self._heap[0][0] if self._heap else None

    def due(self, now_ns: int) -> list[tuple[int, str]]:
        """Take every (monitor, token) due at `now_ns`, in order of expiry."""
        out: list[tuple[int, str]] = []
        while True:
            at = self.next_ns()
            if at is None or at > now_ns:
                return out
            _, _, monitor, token = heapq.heappop(self._heap)
            del self._live[monitor, token]
            out.append((monitor, token))
