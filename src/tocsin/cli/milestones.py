"""What happens between the start of `tocsin up` and its first verdict, told once each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from tocsin.cli.out import note

PERIOD_SECONDS = 1.0
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the agents, that have learned


class Milestones:
    """Turns one status after another into lines that are news. `warmup_events`: what is learned of each agent first."""

    def __init__(self, warmup_events: int) -> None:
        self._warmup_events = warmup_events
        self._told: set[str] = set()
        self._share = 0.0
        self._idle = False  # at the look before

    def news(self, status: Mapping[str, Any]) -> list[str]:
        """Lines that this status adds, often none."""
        agents, learning = status["agents"], status["agents_learning"]
        received = status.get("received", {})
        spans = received.get("spans", 0)
        # What arrived a moment ago is still on its way: only twice the same look means that nothing of it counts.
        idle = not received.get("waiting", 0) and not status.get("backlog_events", 0)
        settled, self._idle = idle and self._idle, idle and spans > 0
        lines: list[str] = []
        if not agents:
            if spans and settled and self._first("spans"):
                lines.append(
                    f"{spans:,} spans arrived, none of an agent so far: tocsin looks for gen_ai.operation.name "
                    "and gen_ai.agent.id or gen_ai.agent.name"
                )
            return lines
        if self._first("agents"):
            lines.append(f"first events, of {_agents(agents)}: each is judged after {self._warmup_events:,} events")
        judged = max(0, agents - learning)
        reached = max((share for share in SHARES if judged >= share * agents), default=0.0)
        if reached > self._share:
            rest = f", {learning:,} still learning" if learning else ""
            lines.append(f"{judged:,} of {_agents(agents)} judged now{rest}")
        self._share = reached  # newcomers bring it down, and it is news when they have learned
        return lines

    def _first(self, name: str) -> bool:
        new = name not in self._told
        self._told.add(name)
        return new


def _agents(number: int) -> str:
    return f"{number:,} agent{'' if number == 1 else 's'}"


def announce(milestones: Milestones, status: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """Print news as they come, on a thread of its own; returns what ends it. `status` is asked from that thread."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(PERIOD_SECONDS):
            for line in milestones.news(status()):
                note(line)

    threading.Thread(target=watch, name="tocsin-milestones", daemon=True).start()
    return stop.set
