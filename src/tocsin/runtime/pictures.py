"""The fleet as people see it: one JSON-able picture, for the interface, the store and `tocsin agents`."""

from __future__ import annotations

from typing import Any

import msgspec

from tocsin.errors import UnknownAgent
from tocsin.model.evidence import Q32
from tocsin.runtime.engine import Engine
from tocsin.stats.logodds import logistic

EXPLAINED = 200  # agents whose explanation is kept in a stored picture


def agent_rows(engine: Engine) -> list[dict[str, Any]]:
    """Every observed agent, the most suspicious first. Beliefs are the agreed ones; nothing agreed yet: the prior."""
    monitor = engine.witness
    prior = engine.prior_log_odds_q32
    entries = engine.entries
    events = monitor.events
    regions = engine.tree.region_of
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(monitor.names):
        entry = entries.get(name)
        log_odds = entry.log_odds_q32 if entry else prior
        rows.append(
            {
                "agent_id": name,
                "region": regions(name),
                "events": int(events[index]),
                "confidence": logistic(log_odds),
                "log_odds_nats": log_odds / Q32,
                "log_e_nats": entry.log_e_q32 / Q32 if entry else 0.0,
                "flagged": bool(entry and entry.flagged),
            }
        )
    rows.sort(key=lambda row: (not row["flagged"], -row["log_odds_nats"], -row["log_e_nats"], row["agent_id"]))
    return rows


def explanation(engine: Engine, agent_id: str) -> dict[str, Any]:
    """Why the fleet believes what it believes about one agent. Raises UnknownAgent."""
    explained = engine.witness.detector.explain(agent_id)
    told = msgspec.to_builtins(explained)
    told["reasons"] = [
        {"feature": r.feature, "nats": r.log_bf_q32 / Q32, "detail": r.detail} for r in explained.reasons
    ]
    entry = engine.entries.get(agent_id)
    told["region"] = engine.tree.region_of(agent_id)
    told["agreed"] = None if entry is None else msgspec.to_builtins(entry)
    told["agreed_confidence"] = logistic(entry.log_odds_q32 if entry else engine.prior_log_odds_q32)
    told["evidence"] = engine.stated_about(agent_id)
    told["verdicts"] = [
        {"verdict_id": v.verdict_id, "epoch": v.epoch, "decision": v.decision, "dissent": list(v.dissent)}
        for v in engine.verdicts.values()
        if v.agent_id == agent_id
    ]
    return told


def fleet_picture(engine: Engine) -> dict[str, Any]:
    """Status, all agents, and the explanations of the most suspicious ones."""
    agents = agent_rows(engine)
    explanations: dict[str, Any] = {}
    for row in agents[:EXPLAINED]:
        try:
            explanations[row["agent_id"]] = explanation(engine, row["agent_id"])
        except UnknownAgent:  # mentioned in evidence only
            continue
    return {"status": engine.status(), "agents": agents, "explanations": explanations}
