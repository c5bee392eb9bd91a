"""How right the verdicts are: the first certified verdict on an agent decides, relative to when it was taken over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tocsin.model.verdict import Verdict
from tocsin.sim.fleet import AgentLabel
from tocsin.stats.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `total`, with a 95 % Wilson interval. `value` is None where there is nothing to divide by."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.hits, self.total)

    def __str__(self) -> str:
        if self.value is None:
            return "none yet"
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.hits}/{self.total}, 95 % interval {100 * low:.0f}-{100 * high:.0f} %)"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the first certified verdict on an agent amounts to. `delay_events` counts from its first malicious event."""

    agent_id: str
    correct: bool
    attack: str
    delay_events: int


class Score:
    """Verdicts against labels. A verdict on an honest agent, or before an agent's onset, is a false alarm.

    Provisional verdicts and `cleared` ones do not count, nor do later verdicts on the same agent.
    """

    def __init__(self, labels: Iterable[AgentLabel]) -> None:
        self._labels = {label.agent_id: label for label in labels}
        self._judged: dict[str, Judged] = {}

    def add(self, verdict: Verdict) -> Judged | None:
        """Take in a verdict; what it amounts to, or None where it decides nothing."""
        if verdict.provisional or verdict.decision != "compromised" or verdict.agent_id in self._judged:
            return None
        label = self._labels.get(verdict.agent_id)
        seq = verdict.entry.last_seq
        correct = label is not None and label.compromised and seq >= label.onset_seq
        attack = label.attack if label is not None and correct else ""
        delay = max(0, seq - label.first_malicious_seq) if label is not None and correct else 0
        judged = Judged(verdict.agent_id, correct, attack, delay)
        self._judged[verdict.agent_id] = judged
        return judged

    @property
    def judged(self) -> tuple[Judged, ...]:
        """In the order in which the verdicts came."""
        return tuple(self._judged.values())

    @property
    def precision(self) -> Proportion:
        """Right alarms among alarms."""
        return Proportion(sum(j.correct for j in self._judged.values()), len(self._judged))

    @property
    def recall(self) -> Proportion:
        """Compromised agents found among compromised agents."""
        return Proportion(
            sum(j.correct for j in self._judged.values()), sum(label.compromised for label in self._labels.values())
        )

    @property
    def missed(self) -> tuple[str, ...]:
        """Compromised agents without a right verdict, in order of name."""
        found = {j.agent_id for j in self._judged.values() if j.correct}
        return tuple(sorted(a for a, label in self._labels.items() if label.compromised and a not in found))

    def recall_by_attack(self) -> dict[str, Proportion]:
        """Recall per kind of attack."""
        kinds = sorted({label.attack for label in self._labels.values() if label.compromised})
        return {
            kind: Proportion(
                sum(j.correct and j.attack == kind for j in self._judged.values()),
                sum(label.compromised and label.attack == kind for label in self._labels.values()),
            )
            for kind in kinds
        }

    def median_delay_events(self) -> float | None:
        """Median number of events between the first malicious one and the verdict's evidence; None without any."""
        delays = sorted(j.delay_events for j in self._judged.values() if j.correct)
        if not delays:
            return None
        middle = len(delays) // 2
        return float(delays[middle]) if len(delays) % 2 else (delays[middle - 1] + delays[middle]) / 2
