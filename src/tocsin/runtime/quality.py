"""How good the alarms are: the share of false ones, as far as people said, against the target; power where measured.

The target is what closed e-BH promises on average, under the assumptions in docs/detection.md. What was realised is
known only of labelled alarms: the Wilson interval takes them for a random sample of all; the shares "if the rest is
right" and "if the rest is false" need no such assumption.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import msgspec

from tocsin.consensus.certificate import COMPROMISED
from tocsin.model.verdict import Roster
from tocsin.runtime.feedback import BENIGN, CONFIRMED
from tocsin.runtime.store import Store
from tocsin.stats.intervals import spotless_trials, wilson_interval


def false_share(alarms: int, benign: int, confirmed: int, target: float) -> dict[str, Any]:
    """The realised share of false alarms among `alarms`, of which some were labelled. Shares are 0..1."""
    labelled = benign + confirmed
    low, high = wilson_interval(benign, labelled)
    unlabelled = alarms - labelled
    if not labelled:
        judgement = "no alarm has been labelled yet: the realised share is not known"
    elif low > target:
        judgement = "more of the labelled alarms are false than the target explains, at 95 %"
    elif high <= target:
        judgement = "the share of false alarms is within the target, at 95 %"
    else:
        enough = spotless_trials(target)
        judgement = (
            f"too few labels to tell: {enough} labelled alarms without a false one would show the target is kept"
        )
    return {
        "target": target,
        "alarms": alarms,
        "labelled": labelled,
        "false": benign,
        "right": confirmed,
        "realised": benign / labelled if labelled else None,
        "interval": [low, high],
        "if_rest_right": benign / alarms if alarms else None,
        "if_rest_false": (benign + unlabelled) / alarms if alarms else None,
        "judgement": judgement,
    }


def quality(store: Store, roster: Roster) -> dict[str, Any]:
    """What is known about the alarms of one data directory: `false_share`, and how many compromises they `missed`."""
    alarms, about, about_none = store.labels(COMPROMISED)
    shares = false_share(alarms, about.get(BENIGN, 0), about.get(CONFIRMED, 0), roster.alpha_ppm / 1e6)
    missed = about_none.get(CONFIRMED, 0)
    return {"false_share": shares, "missed": missed}


def known_power() -> dict[str, Any]:
    """What was measured beforehand: sources, delays, and rows of fleet, kind, found, total, interval."""
    told: dict[str, Any] = msgspec.json.decode(
        resources.files("tocsin.runtime").joinpath("known_power.json").read_bytes()
    )
    for row in told["rows"]:
        row["interval"] = wilson_interval(row["found"], row["total"])
    return told
