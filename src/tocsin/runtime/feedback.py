"""What an operator says about an alarm: it was right (`confirmed`), or it was not (`benign`).

Feedback is a label. It is stored durably, shown beside what it is about, and counted (`tocsin.runtime.quality`); it
moves no belief, no baseline and no certified verdict: one person, or one stolen token, cannot silence an agent.
"""

from __future__ import annotations

from typing import Any

from tocsin.consensus.certificate import COMPROMISED
from tocsin.errors import InputError, UnknownAgent
from tocsin.runtime.engine import Engine
from tocsin.runtime.store import Store

BENIGN, CONFIRMED = "benign", "confirmed"
OUTCOMES = (BENIGN, CONFIRMED)
MAX_NOTE = 1000  # characters


def take_feedback(engine: Engine, store: Store, agent_id: str, outcome: str, note: str = "") -> dict[str, Any]:
    """Store feedback about an agent's latest alarm; returns what was stored.

    `confirmed` of an agent that never raised one is a compromise that was missed.

    Raises:
        InputError: the outcome is none, the note too long or not Unicode, or there is no alarm to be benign.
        UnknownAgent: no such agent was observed.
    """
    if outcome not in OUTCOMES:
        raise InputError(f"{outcome!r:.80} is no outcome", remedy=f"say {BENIGN} or {CONFIRMED}")
    if len(note) > MAX_NOTE or not _is_text(note):
        raise InputError(
            f"the note is not text of at most {MAX_NOTE} characters", remedy="shorten it, or link to the case"
        )
    if agent_id not in engine.witness.index:
        raise UnknownAgent(f"agent {agent_id!r:.80} has never been observed", remedy="`tocsin agents` lists them")
    alarms = [verdict for verdict in store.verdicts(agent_id) if verdict["decision"] == COMPROMISED]
    if not alarms and outcome == BENIGN:
        raise InputError(
            f"agent {agent_id!r:.80} was never certified as compromised: there is no alarm to call {BENIGN}",
            remedy="`tocsin agents` shows certified verdicts",
        )
    verdict_id = str(alarms[0]["verdict_id"]) if alarms else ""
    told_ms = engine.clock.now_ns() // 1_000_000
    store.add_feedback(agent_id, verdict_id, outcome, note, told_ms)
    return {"agent_id": agent_id, "verdict_id": verdict_id, "outcome": outcome, "note": note, "told_ms": told_ms}


def _is_text(note: str) -> bool:
    try:
        note.encode()
    except UnicodeEncodeError:
        return False
    return True
