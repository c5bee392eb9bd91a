"""Fleets that nobody looked at while the detector was made: other seeds and sizes of the three simulated kinds.

The generator lies beside the labelled data (`gen_C.py`), outside the repository. Everything is as shipped: no threshold
or constant is chosen here, nor may one ever be by these seeds: work on others. Pooled fleets of 25 agents stand for the
size at which the original was judged, single ones of 10,000 for the size that tocsin is made for.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._harness import Bench, main
from benchmarks.detection import by_agent, is_false, is_found, replay, shared_data, wilson

KINDS = ("gradual_drift", "false_positive", "false_negative", "semantic_hijack", "coordination_attack")
FIRST_SEED = 9_000  # the public sets are seed 11
PLANS = {  # variant -> (agents, fleets), each with bounds of recall and precision
    "orig": (((25, 40), (1000, 5), (10_000, 1)), ">= 0.74", ">= 1.0"),
    "nominal": (((1000, 5), (10_000, 1)), ">= 0.99", ">= 0.99"),
    "hard": (((1000, 5), (10_000, 1)), ">= 0.85", ">= 0.99"),
}


def _generator(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("gen_C", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _written(made: dict[str, Any], file: Path) -> list[dict[str, str]]:
    """The events as a table, in the columns of the public ones; returns the rows that say who is compromised."""
    agents, length = made["risk"].shape
    names = np.array([f"c{i:05d}" for i in range(agents)])
    risk = made["risk"].ravel().round(3)
    keep = ~np.isnan(risk)
    columns: dict[str, Any] = {
        "agent_id": pa.DictionaryArray.from_arrays(np.repeat(np.arange(agents, dtype=np.int32), length)[keep], names),
        "seq": np.tile(np.arange(length, dtype=np.int16), agents)[keep],
        "phase": np.tile(np.array(np.arange(length) >= made["T0"], np.int8), agents)[keep],
        "cmd_class": np.tile(made["cls"].astype(np.int8), agents)[keep],
        "env": np.tile(made["env"].astype(np.int8), agents)[keep],
        "ref_risk": np.tile(made["ref"].astype(np.float32), agents)[keep],
        "risk": risk[keep],
    }
    pq.write_table(pa.table(columns), file)
    return [
        {
            "agent_id": str(names[i]),
            "compromised": str(int(kind >= 0)),
            "tier": KINDS[kind] if kind >= 0 else "clean",
            "onset_seq": str(int(made["onset"][i])),
        }
        for i, kind in enumerate(made["kind"].tolist())
    ]


def _counted(generator: Any, variant: str, size: int, seed: int, directory: Path) -> Counter[str]:
    """Agents of one fleet by what they are and what became of them."""
    file = directory / "events.parquet"
    agents = _written(generator.generate(size, seed, variant), file)
    found: Counter[str] = Counter()
    for row, bad, first, _, _ in by_agent(replay(file, size), agents):
        found[row["tier"]] += 1
        found[f"{row['tier']} found"] += is_found(row, bad, first)
        found["bad"] += bad
        found["right"] += is_found(row, bad, first)
        found["false"] += is_false(row, bad, first)
    return found


def measure(bench: Bench) -> None:
    """Each kind at each size, counts pooled over its fleets."""
    file = shared_data() / "gen_C.py"
    if not file.exists():
        bench.count(absent=f"no generator at {file.name}")
        return
    generator = _generator(file)
    with TemporaryDirectory() as directory:
        for variant, (plan, recall, precision) in PLANS.items():
            for size, fleets in plan[:1] if bench.quick else plan:
                found: Counter[str] = Counter()
                for seed in range(FIRST_SEED, FIRST_SEED + (1 if bench.quick else fleets)):
                    found += _counted(generator, variant, size, seed, Path(directory))
                _report(bench, f"{variant}, {size:,} agents", found, recall, precision)


def _report(bench: Bench, title: str, found: Counter[str], recall: str, precision: str) -> None:
    right, raised, bad = found["right"], found["right"] + found["false"], found["bad"]

    def say(what: str, hits: int, total: int, bound: str = "") -> None:
        name = f"{title}: {what} ({wilson(hits, total)})"
        bench.record(name, round(hits / max(total, 1), 4), unit="", requirement="R6.1", bound=bound)

    say("recall", right, bad, recall)
    say("precision", right, raised, precision)
    say("false agents", found["false"], found["clean"])
    for kind in KINDS:
        if found[kind]:
            say(f"recall, {kind}", found[f"{kind} found"], found[kind])


if __name__ == "__main__":
    raise SystemExit(main("detection_held_out", measure))
