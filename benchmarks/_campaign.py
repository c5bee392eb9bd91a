"""Run the simulator over more seeds than anybody waits for, a part at a time, and keep count.

    python -m benchmarks._campaign 4:95000 7:4000 31:200            until so many seeds were run with so many monitors
    python -m benchmarks._campaign --store /tmp/mine.json 4:1000    kept elsewhere than in docs/campaigns/agreement.json

Every start is a part of its own in the store, with the commit it ran; a violation is stored with the command that
repeats it and does not end the campaign. Stop it with Ctrl-C at any time. `python -m benchmarks.consensus` reports the
store, and docs/consensus.md says what a run is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tocsin.sim.campaign import Failure, Totals, campaign

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "docs" / "campaigns" / "agreement.json"
SAVE_SECONDS = 20.0


class Part(msgspec.Struct):
    """Consecutive seeds, run without a break. Times are of the processor."""

    commit: str
    monitors: int
    first_seed: int
    seconds: float
    totals: Totals


def load(store: Path) -> list[Part]:
    """The parts so far."""
    return msgspec.json.decode(store.read_bytes(), type=list[Part]) if store.exists() else []


def save(store: Path, parts: list[Part]) -> None:
    """Replace the store, whole or not at all."""
    store.parent.mkdir(parents=True, exist_ok=True)
    fresh = store.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode([one for one in parts if one.totals.runs]), indent=1))
    fresh.replace(store)


def commit() -> str:
    """What is checked out, as git names it, and whether the code was changed since."""
    git = ["git", "-C", str(ROOT)]
    described = [*git, "describe", "--always", "--abbrev=12"]
    name = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src"], check=False).returncode
    return f"{name}-dirty" if changed else name


def next_seed(parts: list[Part], monitors: int) -> int:
    """The first that was not run."""
    return max((one.first_seed + one.totals.runs for one in parts if one.monitors == monitors), default=0)


def run(store: Path, monitors: int, until: int) -> list[Failure]:
    """Run the seeds below `until` that were not run; the violations among them."""
    parts = load(store)
    first = next_seed(parts, monitors)
    part = Part(commit(), monitors, first, 0.0, Totals())
    parts.append(part)
    began, saved = time.process_time(), time.monotonic()

    def note(totals: Totals) -> None:
        nonlocal saved
        part.totals, part.seconds = totals, time.process_time() - began
        if time.monotonic() - saved >= SAVE_SECONDS:
            saved = time.monotonic()
            save(store, parts)

    try:
        campaign(range(first, until), monitors, most_failures=1000, progress=note)
    finally:
        save(store, parts)
    return part.totals.failures


def _wanted(text: str) -> tuple[int, int]:
    monitors, _, until = text.partition(":")
    return int(monitors), int(until)


def main() -> int:
    """Exit code 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(description="Simulate until so many seeds were run; see the module.")
    parser.add_argument("wanted", nargs="+", type=_wanted, metavar="MONITORS:SEEDS")
    parser.add_argument("--store", type=Path, default=STORE)
    options = parser.parse_args()
    failures: list[Failure] = []
    try:
        for monitors, until in options.wanted:
            failures += run(options.store, monitors, until)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"{failure.replay}: {failure.detail}")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
