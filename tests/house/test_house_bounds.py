"""A bound that is missed is missed in the open: each stored figure that does not hold stands here, with its reason."""

from __future__ import annotations

import json
from pathlib import Path

STORE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
# topic -> figure, as far as its counts -> where it is explained
MISSED: dict[str, dict[str, str]] = {
    "consensus_model": {
        "1000 monitors, LAN, a third send garbage votes, first time, p99": "latency.md",
        "1000 monitors, 8 regions, no faults, p99": "latency.md",
        "1000 monitors, 8 regions, silent leader, p99": "latency.md",
        "1000 monitors, 20-80 ms links, a third silent, p99": "latency.md",
    },
    "detection": {
        "A_dojo_public, bar of 1 % from the other pipelines: false agents": "detection.md",
        "A_dojo_public, 10 halves as fleets of their own: recall, single": "detection.md",
        "C_nominal_1000: recall at the shipped threshold": "detection.md",
        "C_hard_1000: precision": "detection.md",
    },
    "detection_held_out": {
        "hard, 1,000 agents: precision": "detection.md",
        "hard, 10,000 agents: precision": "detection.md",
    },
    "propagation": {
        "1000 agents, as the service uses the tree: an event counts at the root, waits for a climb at 200 events/s": (
            "aggregation.md"
        ),
        "1000 agents, as the service uses the tree: an event counts at the root, waits for a climb at 2000 events/s": (
            "aggregation.md"
        ),
        "to root and back over TCP, 20 ms one way on each of the six links, so at least 120": "aggregation.md",
    },
}


def _figures() -> list[tuple[str, str, bool]]:
    """(topic, name without counts, holds) of every stored figure with a bound."""
    found: list[tuple[str, str, bool]] = []
    for file in sorted(STORE.glob("*.json")):
        body = json.loads(file.read_text(encoding="utf-8"))
        bound = (figure for figure in body["figures"] if figure["holds"] is not None)
        found += [(body["topic"], figure["name"].partition(" (")[0], figure["holds"]) for figure in bound]
    return found


def test_every_missed_bound_is_owned_up_to() -> None:
    missed = {(topic, name) for topic, name, holds in _figures() if not holds}
    known = {(topic, name) for topic, names in MISSED.items() for name in names}
    assert missed == known


def test_there_are_bounds_at_all() -> None:
    assert len(_figures()) > 100


def test_where_a_miss_is_explained_there_is_a_document() -> None:
    for names in MISSED.values():
        for document in names.values():
            assert (STORE.parent / document).is_file(), document
