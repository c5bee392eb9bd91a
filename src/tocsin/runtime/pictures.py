"""The fleet as people see it: one JSON-able picture, for the interface, the store and `tocsin agents`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.consensus.certificate import CLEARED, COMPROMISED
from tocsin.model.baseline import DistributedBaseline, Level
from tocsin.model.evidence import Q32
from tocsin.runtime.engine import RETIRED, Engine
from tocsin.runtime.quality import quality
from tocsin.runtime.store import Store
from tocsin.stats.logodds import logistic

ACTIONS_SHOWN = 20
NO_REGION: dict[str, Any] = {
    "region": RETIRED, "agents": 0, "samples": 0, "staleness_seconds": 0.0, "features": [], "actions": {}
}  # fmt: skip
STANDINGS = 20_000  # latest verdicts, and words about them, that a list of agents looks back on
EXPLAINED = 200  # agents whose explanation is kept in a stored picture


def agent_rows(engine: Engine, store: Store | None = None) -> list[dict[str, Any]]:
    """Every observed agent: those flagged first, then by the evidence that decides alarms, then by belief.

    Beliefs are the agreed ones; nothing agreed yet: the prior. `store` adds whether an alarm was withdrawn (`cleared`)
    and the last word of people on the latest one (`feedback`, '' for none).
    """
    cleared, said = _stored_standing(store) if store else (set[str](), dict[str, str]())
    monitor = engine.witness
    prior = engine.prior_log_odds_q32
    entries = engine.entries
    events = monitor.events
    tree = engine.tree.tree
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(monitor.names):
        entry = entries.get(name)
        log_odds = entry.log_odds_q32 if entry else prior
        rows.append(
            {
                "agent_id": name,
                "region": tree.region_of(name) if name in tree else RETIRED,
                "events": int(events[index]),
                "confidence": logistic(log_odds),
                "log_odds_nats": log_odds / Q32,
                "log_e_nats": entry.log_e_q32 / Q32 if entry else 0.0,
                "flagged": bool(entry and entry.flagged),
                "cleared": name in cleared,
                "feedback": said.get(name, ""),
            }
        )
    rows.sort(key=lambda row: (not row["flagged"], -row["log_e_nats"], -row["log_odds_nats"], row["agent_id"]))
    return rows


def _stored_standing(store: Store) -> tuple[set[str], dict[str, str]]:
    """Agents whose latest verdict is a clearing; the last word on each agent's latest alarm, or on none it raised."""
    latest: dict[str, str] = {}
    alarm: dict[str, str] = {}
    for verdict in store.verdicts(limit=STANDINGS):
        latest.setdefault(verdict["agent_id"], verdict["decision"])
        if verdict["decision"] == COMPROMISED:
            alarm.setdefault(verdict["agent_id"], verdict["verdict_id"])
    said: dict[str, str] = {}
    for word in store.feedback(limit=STANDINGS):
        if word["verdict_id"] == alarm.get(word["agent_id"], ""):
            said.setdefault(word["agent_id"], word["outcome"])
    return {name for name, decision in latest.items() if decision == CLEARED}, said


def region_baseline(engine: Engine, region: str) -> dict[str, Any]:
    """What an agent's region normally does: the baseline at its node of the tree, in plain numbers."""
    found = engine.tree.baseline(Level.REGION, region)
    return {
        "region": region,
        "agents": found.agents,
        "samples": found.samples,
        "staleness_seconds": found.staleness_seconds,
        "features": [
            {"name": f.name, "count": f.count, "mean": f.mean, "std": f.std, "p05": f.p05, "p95": f.p95}
            | ({} if f.typical is None else {"typical": msgspec.to_builtins(f.typical)})
            for f in found.features
            if f.count > 1
        ],
        "actions": dict(sorted(found.actions.items(), key=lambda item: -item[1])[:ACTIONS_SHOWN]),
    }


def own_baseline(found: DistributedBaseline) -> dict[str, Any] | None:
    """What little an agent has shown itself, and what its peers let one expect beside it; None once it is known."""
    if not found.expected_from:
        return None
    return {
        "samples": found.samples,
        "peers": found.expected_peers,
        "scope": found.expected_from,
        "features": [
            {
                "name": f.name,
                "own": {"count": f.count, "mean": f.mean, "std": f.std},
                "expected": msgspec.to_builtins(f.expected),
            }
            for f in found.features
            if f.expected is not None
        ],
    }


def explanation(
    engine: Engine,
    store: Store,
    agent_id: str,
    baselines: dict[str, dict[str, Any]] | None = None,
    own: DistributedBaseline | None = None,
) -> dict[str, Any]:
    """Why the fleet believes what it believes about one agent. Raises UnknownAgent.

    `baselines` remembers what regions do between calls at one moment: many agents share one. `own` is the agent's own,
    where that is at hand.
    """
    explained = engine.witness.explain(agent_id)
    told = msgspec.to_builtins(explained)
    told["reasons"] = [
        {"feature": r.feature, "nats": r.log_bf_q32 / Q32, "detail": r.detail} for r in explained.reasons
    ]
    entry = engine.entries.get(agent_id)
    here = agent_id in engine.tree.tree
    region = engine.tree.region_of(agent_id) if here else RETIRED
    known = {RETIRED: NO_REGION} if baselines is None else baselines
    if region not in known:
        known[region] = region_baseline(engine, region)
    told["region"], told["region_baseline"] = region, known[region]
    told["newcomer"] = own_baseline(own or engine.tree.of_each([agent_id])[0]) if here else None
    told["agreed"] = None if entry is None else msgspec.to_builtins(entry)
    told["agreed_confidence"] = logistic(entry.log_odds_q32 if entry else engine.prior_log_odds_q32)
    told["evidence"] = engine.stated_about(agent_id)
    told["verdicts"] = store.verdicts(agent_id)
    told["feedback"] = store.feedback(agent_id)
    return told


def fleet_picture(engine: Engine, store: Store, learning: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Status, all agents, the explanations of the most suspicious ones, and the quality of the alarms.

    `learning`: events still to be learned, by agent.
    """
    left = learning or {}
    agents = agent_rows(engine, store)
    for row in agents:
        row["learning_events_left"] = left.get(row["agent_id"], 0)
    explanations: dict[str, Any] = {}
    baselines = {RETIRED: NO_REGION}
    names = [row["agent_id"] for row in agents[:EXPLAINED]]
    here = [name for name in names if name in engine.tree.tree]
    own = dict(zip(here, engine.tree.of_each(here), strict=True))
    for name in names:
        explanations[name] = explanation(engine, store, name, baselines, own.get(name))
    return {
        "status": engine.status(),
        "agents": agents,
        "explanations": explanations,
        "quality": quality(store, engine.roster),
    }
