"""Kill the process anywhere between two writes: what comes back believes, and says, the same."""

from __future__ import annotations

import pytest

from tocsin.monitor.inputs import Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.ingest_log import IngestLog
from tocsin.runtime.journal import Journal
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.records import batch_from_records

AGENTS, BASELINE_ROUNDS, LIVE_ROUNDS, ROUNDS_PER_BATCH = 12, 90, 40, 10
SIGNERS = deterministic_signers(b"recovery", 4)
ROSTER = roster_of("recovery", SIGNERS)


def _entries():
    entries, offset, rows = [], 0, []
    for i in range(BASELINE_ROUNDS + LIVE_ROUNDS):
        live = i >= BASELINE_ROUNDS
        if i == BASELINE_ROUNDS:
            entries.append(Sealed(None, offset))
        for a in range(AGENTS):
            odd = live and a == 5 and i >= BASELINE_ROUNDS + 10
            action = {"action": "upload", "effect": "egress"} if odd else {"action": ("search", "read", "tell")[i % 3]}
            rows.append((f"agent-{a}", {**action, "session": f"{a} {i // 6}", "t": i}))
        if (i + 1) % ROUNDS_PER_BATCH == 0:
            batch = batch_from_records(rows, offset=offset, phases=[int(live)] * len(rows))
            entries.append(Observed(batch))
            offset, rows = offset + len(batch), []
    return entries


ENTRIES = _entries()


class Life:
    """One process over a directory. `announced` collects verdict ids that this process emitted."""

    def __init__(self, path):
        self.log, self.journal = IngestLog(path / "ingest.db"), Journal(path / "journal.db")
        self.announced = []
        self.engine = Engine(
            ROSTER,
            SIGNERS,
            VirtualClock(),
            records=self.journal,
            on_verdict=lambda verdict: self.announced.append(verdict.verdict_id),
        )
        self.engine.recover(self.journal)
        for entry in self.log.replay():
            self.engine.feed([entry])
        self.engine.start()
        self.engine.cluster.settle()

    def take(self, entry):
        self.log.append([entry])
        self.engine.feed([entry])
        self.engine.cluster.settle()

    def die(self):
        self.log.close()
        self.journal.close()


def _uninterrupted(path):
    path.mkdir()
    life = Life(path)
    for entry in ENTRIES:
        life.take(entry)
    state = dict(life.engine.entries)
    stated = life.engine.chain_lengths()
    life.die()
    assert any(entry.flagged for entry in state.values()), "the scenario must produce a verdict"
    return state, set(life.announced), stated


@pytest.mark.parametrize("crashes", [[], [3], [len(ENTRIES) - 1], [9, 10], [1, 4, 10, 11, 12]])
def test_restarts_change_neither_beliefs_nor_verdicts(tmp_path, crashes):
    expected, verdicts, stated = _uninterrupted(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    life = Life(tmp_path / "broken")
    announced = set()
    for i, entry in enumerate(ENTRIES):
        life.take(entry)
        announced.update(life.announced)
        if i in crashes:
            life.die()
            life = Life(tmp_path / "broken")
            announced.update(life.announced)
    assert life.engine.entries == expected
    assert announced == verdicts
    assert life.engine.chain_lengths() == stated, "evidence must not be stated twice"
    life.die()


def test_a_batch_that_was_acknowledged_but_never_analysed_is_analysed_after_the_restart(tmp_path):
    expected, verdicts, stated = _uninterrupted(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    life = Life(tmp_path / "broken")
    announced = set()
    for i, entry in enumerate(ENTRIES):
        if i % 4 == 3:  # the crash comes between the fsync and the analysis
            life.log.append([entry])
            announced.update(life.announced)
            life.die()
            life = Life(tmp_path / "broken")
        else:
            life.take(entry)
    announced.update(life.announced)
    assert life.engine.entries == expected
    assert announced == verdicts
    assert life.engine.chain_lengths() == stated, "evidence must not be stated twice"
    life.die()
