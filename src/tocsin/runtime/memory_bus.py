"""An in-process bus between monitors: lossless and ordered unless told otherwise. Messages cross as bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tocsin.model.steps import EVERYONE, Received

Filter = Callable[[int, int, bytes], bool]  # (source, destination, body) -> deliver?


class MemoryBus:
    """One inbox per monitor. `deliver` lets a test or demo cut links: a message it refuses is lost, and counted."""

    def __init__(self, n: int, deliver: Filter | None = None) -> None:
        self.n = n
        self.deliver = deliver
        self.sent = 0
        self.sent_bytes = 0
        self.lost = 0
        self._inboxes: list[deque[Received]] = [deque() for _ in range(n)]

    def send(self, source: int, to: int, body: bytes) -> None:
        """Queue `body` for monitor `to`, or for every other monitor (`EVERYONE`)."""
        targets = [i for i in range(self.n) if i != source] if to == EVERYONE else [to]
        for target in targets:
            self.sent += 1
            self.sent_bytes += len(body)
            if self.deliver is None or self.deliver(source, target, body):
                self._inboxes[target].append(Received(source, body))
            else:
                self.lost += 1

    def drain(self, monitor: int) -> list[Received]:
        """Everything waiting for `monitor`, oldest first; the inbox is empty afterwards."""
        inbox = self._inboxes[monitor]
        taken = list(inbox)
        inbox.clear()
        return taken
