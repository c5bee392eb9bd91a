"""What enters the log: positions, phases, retransmissions, clocks, numbers of agents; a restart forgets nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import ConfigError
from tocsin.ingest.admission import AGENTS, CLOCK_AHEAD, DUPLICATE, LATE, Admission, AdmissionConfig
from tocsin.model.events import EventBatch
from tocsin.monitor.inputs import Observed, Sealed
from tocsin.wire.events import decode_batch, encode_batch

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
Event = tuple[str, int, int]  # agent, seconds from NOW, event id


def batch(events: Sequence[Event]) -> EventBatch:
    agents = tuple(dict.fromkeys(agent for agent, _, _ in events))
    n = len(events)
    return EventBatch(
        offset=0,
        agents=agents,
        agent=np.array([agents.index(agent) for agent, _, _ in events], np.int32),
        t_ns=np.array([NOW + seconds * SECOND for _, seconds, _ in events], np.int64),
        session=np.zeros(n, np.int64),
        phase=np.ones(n, np.int8),  # what a sender claims: ignored
        kind=np.zeros(n, np.int8),
        actions=(),
        action=np.full(n, -1, np.int32),
        effect=np.zeros(n, np.int8),
        event_id=np.array([event_id for _, _, event_id in events], np.int64),
    )


def told(rows: EventBatch) -> list[tuple[str, int, int]]:
    return [
        (rows.agents[a], int(t - NOW) // SECOND, int(p))
        for a, t, p in zip(rows.agent, rows.t_ns, rows.phase, strict=True)
    ]


class Twin:
    """The rules again, one event at a time, with a list for memory."""

    def __init__(self, config: AdmissionConfig) -> None:
        self.config = config
        self.log: list[tuple[str, int, int]] = []
        self.ids: list[int] = []
        self.sealed: set[str] = set()
        self.refused: dict[str, int] = {}

    def admit(self, events: Sequence[Event]) -> list[tuple[str, int, int]]:
        newest = {agent: max(t for a, t, _ in self.log if a == agent) for agent, _, _ in self.log}
        out: list[tuple[str, int, int]] = []
        for agent, seconds, event_id in events:
            t = 0 if seconds > self.config.max_ahead_seconds else seconds
            reason = ""
            known = {a for a, _, _ in self.log + out}
            if agent not in known and len(known) >= self.config.max_agents:
                reason = AGENTS
            elif agent in newest and t < newest[agent] - self.config.late_seconds:
                reason = LATE
            elif event_id and event_id in self.ids:
                reason = DUPLICATE
            if reason:
                self.refused[reason] = self.refused.get(reason, 0) + 1
                continue
            self.ids.append(event_id)
            count = sum(a == agent for a, _, _ in self.log + out)
            out.append((agent, t, int(agent in self.sealed or count >= self.config.warmup_events)))
        self.log += out
        return out


CONFIG = AdmissionConfig(warmup_events=2, max_agents=3, late_seconds=5, max_ahead_seconds=3)
EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-9, 9), st.integers(0, 12)), max_size=6)


@given(st.lists(EVENTS, max_size=5), st.integers(0, 5))
def test_admission_agrees_with_the_rules_one_event_at_a_time(batches: list[list[Event]], seal_before: int) -> None:
    twin, admission = Twin(CONFIG), Admission(CONFIG, lambda: NOW)
    logged = 0
    for i, events in enumerate(batches):
        if i == seal_before:
            admission.seal(None)
            twin.sealed |= {agent for agent, _, _ in twin.log}
        rows, account = admission.admit(batch(events))
        assert told(rows) == twin.admit(events)
        assert rows.offset == logged
        logged += len(rows)
        assert account.accepted == len(rows)
        assert account.accepted + sum(account.refused.values()) == len(events)
    assert admission.refused() == twin.refused
    assert admission.next_offset == logged


@given(st.lists(EVENTS, min_size=1, max_size=5), EVENTS)
def test_a_restart_forgets_nothing(batches: list[list[Event]], after: list[Event]) -> None:
    running, restarted = Admission(CONFIG, lambda: NOW), Admission(CONFIG, lambda: NOW)
    for i, events in enumerate(batches):
        rows, _ = running.admit(batch(events))
        restarted.restore(Observed(decode_batch(encode_batch(rows))))
        if i == 1:
            running.seal(["a"])
            restarted.restore(Sealed(("a",), running.next_offset))
    one, two = running.admit(batch(after)), restarted.admit(batch(after))
    assert told(one[0]) == told(two[0])
    assert one[0].offset == two[0].offset
    assert one[1] == two[1]


def test_an_event_from_the_future_gets_the_receivers_time_and_ages_nobody() -> None:
    admission = Admission(CONFIG, lambda: NOW)
    rows, account = admission.admit(batch([("a", 1000, 1)]))
    assert told(rows) == [("a", 0, 0)]
    assert account.detail == {CLOCK_AHEAD: 1}
    assert admission.clock_ahead == 1
    assert len(admission.admit(batch([("a", 0, 2)]))[0]) == 1


def test_without_a_clock_times_are_taken_as_they_come() -> None:
    assert told(Admission(CONFIG).admit(batch([("a", 1000, 0)]))[0]) == [("a", 1000, 0)]


def test_the_duplicate_window_is_bounded_and_never_shorter_than_half() -> None:
    admission = Admission(AdmissionConfig(duplicate_window=20), lambda: NOW)
    for event_id in range(1, 101):
        admission.admit(batch([("a", 0, event_id)]))
    accepted = [len(admission.admit(batch([("a", 0, event_id)]))[0]) for event_id in (100, 92, 91, 1)]
    assert accepted == [0, 0, 0, 1]


def test_joined_batches_keep_their_positions() -> None:
    admission = Admission(CONFIG, lambda: NOW)
    parts = [admission.admit(batch([("a", 0, i)]))[0] for i in range(1, 4)]
    assert admission.join(parts[1:]).offset == 1
    assert told(admission.join(parts)) == [("a", 0, 0), ("a", 0, 0), ("a", 0, 1)]


@pytest.mark.parametrize("setting", ["max_agents", "duplicate_window", "late_seconds", "warmup_events"])
def test_senseless_bounds_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        AdmissionConfig(**{setting: -1})
