"""Rewrites what `tocsin quality` shows as measured from the stored figures of the benchmarks `detection`, `latency`.

python tools/known_power.py            rewrite src/tocsin/runtime/known_power.json
python tools/known_power.py --check    only say whether it is up to date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "benchmarks"
TARGET = ROOT / "src" / "tocsin" / "runtime" / "known_power.json"
FLEETS = {
    "A_dojo_public": "tool calls of language models under prompt injection",
    "C_orig_1000": "command risk, original",
    "C_nominal_1000": "command risk, nominal",
    "C_hard_1000": "command risk, hard",
}
RECALL = re.compile(r"recall(?: at the shipped threshold|, (?P<kind>\w+)) \((?P<found>\d+) of (?P<total>\d+),")
DELAY = "median delay, events"
LATENCY = "request to certified verdict"


def known_power(report: dict[str, Any], latency: dict[str, Any]) -> dict[str, object]:
    """The document: where it comes from, delays, and a row for every kind of compromise of every fleet."""
    rows: list[dict[str, object]] = []
    delays: dict[str, float] = {}
    for figure in report["figures"]:
        fleet, _, rest = figure["name"].partition(": ")
        if fleet in FLEETS and rest.startswith(DELAY):
            delays[FLEETS[fleet]] = figure["value"]
        elif fleet in FLEETS and (found := RECALL.match(rest)):
            kind = (found["kind"] or "all kinds").replace("_", " ")
            counts = {"found": int(found["found"]), "total": int(found["total"])}
            rows.append({"fleet": FLEETS[fleet], "kind": kind, **counts})
    (verdict_ms,) = (figure["value"] for figure in latency["figures"] if figure["name"] == LATENCY)
    return {
        "source": "python -m benchmarks.detection, labelled fleets, shipped threshold",
        "median_delay_events": delays,
        "latency_source": "python -m benchmarks.latency, one process",
        "median_request_to_verdict_ms": round(verdict_ms),
        "rows": rows,
    }


def main(arguments: list[str]) -> int:
    """Exit code 1 where `--check` finds another content."""
    detection, latency = (
        json.loads((FIGURES / name).read_text("utf-8")) for name in ("detection.json", "latency.json")
    )
    body = json.dumps(known_power(detection, latency), indent=1) + "\n"
    if arguments == ["--check"]:
        return int(TARGET.read_text(encoding="utf-8") != body)
    TARGET.write_text(body, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
