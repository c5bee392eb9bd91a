"""Run every benchmark, each in its own process, and rewrite docs/benchmarks.md from what they measured.

    python -m benchmarks.run_all               every topic
    python -m benchmarks.run_all startup       some; the document keeps the stored figures of the others
    python -m benchmarks.run_all --render      none; only rewrite the document
    python -m benchmarks.run_all --quick       every topic, small; prints, and leaves the document alone

Figures are stored as docs/benchmarks/TOPIC.json. The document is a function of those files: rendering twice gives the
same bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._harness import number_text

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "docs" / "benchmarks"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PREFACE = """# Measured figures

Written by `make bench` (`python -m benchmarks.run_all`); do not edit. Each section says which command gives its
figures, on which machine and with which versions they were taken. The value is the median; min..max is over the
runs. A bound is the one the requirement states ([requirements.md](requirements.md)); a figure without a bound
is information.
"""


def topics() -> list[str]:
    """Names of the benchmark modules."""
    here = Path(__file__)
    return sorted(one.stem for one in here.parent.glob("*.py") if not one.stem.startswith("_") and one != here)


def run_topic(topic: str, store: Path, *, quick: bool) -> bool:
    """Run one topic; its figures replace those in `store` only if it finishes. Returns whether it did."""
    with TemporaryDirectory() as directory:
        out = Path(directory) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{topic}", "--json", str(out), *(["--quick"] if quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            return False
        if not quick:
            store.mkdir(parents=True, exist_ok=True)
            (store / f"{topic}.json").write_text(out.read_text(encoding="utf-8"), encoding="utf-8")
    return True


def render(reports: Sequence[Mapping[str, Any]]) -> str:
    """The document."""
    return "\n".join([PREFACE, *(_section(one) for one in sorted(reports, key=lambda report: report["topic"]))])


def _section(report: Mapping[str, Any]) -> str:
    place = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    counts = ", ".join(f"{name} {size}" for name, size in report["counts"].items())
    lines = [
        f"## {report['topic']}",
        "",
        f"`python -m benchmarks.{report['topic']}`{', over ' + counts if counts else ''}",
        "",
        f"{place['cpu']}, {place['cores']} cores, {place['os']}, Python {place['python']}; {versions}",
        "",
        "| figure | median | unit | min..max | runs | bound | holds | shows |",
        "|---|---:|---|---|---:|---|---|---|",
        *(_row(figure) for figure in report["figures"]),
        "",
    ]
    return "\n".join(lines)


def _row(figure: Mapping[str, Any]) -> str:
    low, high = figure["spread"]
    cells = (
        figure["name"],
        number_text(figure["value"]),
        figure["unit"],
        f"{number_text(low)}..{number_text(high)}" if figure["runs"] > 1 else "",
        str(figure["runs"]),
        figure["bound"],
        {True: "yes", False: "**no**", None: ""}[figure["holds"]],
        figure["requirement"],
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 where a topic did not finish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_all")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {', '.join(topics())}; all where none is named")
    parser.add_argument("--quick", action="store_true", help="small runs; the document is left alone")
    parser.add_argument("--render", action="store_true", help="run nothing, rewrite the document from stored figures")
    options = parser.parse_args(argv)
    unknown = set(options.topics) - set(topics())
    if unknown:
        parser.error(f"no such topic: {', '.join(sorted(unknown))}; there are {', '.join(topics())}")
    chosen = [] if options.render else options.topics or topics()
    failed = [topic for topic in chosen if not run_topic(topic, STORE, quick=options.quick)]
    if not options.quick:
        stored = [json.loads(one.read_text(encoding="utf-8")) for one in sorted(STORE.glob("*.json"))]
        DOCUMENT.write_text(render(stored), encoding="utf-8")
    for topic in failed:
        print(f"benchmark {topic} did not finish; its stored figures, if any, are from an earlier run", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
