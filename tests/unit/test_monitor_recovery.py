"""A recovered monitor states every event once: neither again what its chain states, nor less than it holds back."""

from __future__ import annotations

from random import Random

import pytest

from tocsin.consensus import journal
from tocsin.consensus.inputs import ConsensusConfig, Start
from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.evidence import Q32
from tocsin.model.steps import Persist
from tocsin.monitor.inputs import Flush, Observed
from tocsin.monitor.monitor import Monitor
from tocsin.sim.scripted import AGENTS, Script, ScriptedDetector, make_batch
from tocsin.sim.world import committee
from tocsin.wire.evidence import open_batch

ROSTER, SIGNERS = committee(4)
BATCHES = [make_batch(3 * i, (0, 1, 2)) for i in range(12)]
Records = list[tuple[str, bytes]]


def life(script: Script, records: Records, upto: int, flush: bool) -> Records:
    """One life of monitor 0: recover, replay what there is, and perhaps flush. All records since the beginning."""
    replica = Replica(ROSTER, 0, SIGNERS[0], FleetPosterior(ROSTER), ConsensusConfig())
    monitor = Monitor(0, replica, ScriptedDetector(script))
    monitor.recover(records)
    effects = [effect for batch in BATCHES[:upto] for effect in monitor.step(1, Observed(batch))]
    effects += monitor.step(1, Start())
    if flush:
        effects += monitor.step(1, Flush(3 * upto))
    return records + [(effect.kind, effect.record) for effect in effects if isinstance(effect, Persist)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("flush_before", [False, True])
def test_every_event_is_stated_once_over_restarts(seed: int, flush_before: bool):
    script = Script(Random(seed), len(BATCHES))
    records: Records = []
    for upto in (3, 3, 7, 12):
        records = life(script, records, upto, flush=flush_before)
    records = life(script, records, len(BATCHES), flush=True)
    items = [item for kind, raw in records if kind == journal.EVIDENCE for item in open_batch(raw, ROSTER).batch.items]
    for agent, name in enumerate(AGENTS):
        about = [item for item in items if item.agent_id == name]
        firsts, lasts = [item.first_seq for item in about], [item.last_seq for item in about]
        assert all(first > last for first, last in zip(firsts[1:], lasts, strict=False))
        assert sum(item.log_bf_q32 for item in about) == script.total(agent, len(BATCHES)) * Q32
