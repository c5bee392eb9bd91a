"""What every benchmark shares: timing that survives a noisy machine, figures with their bounds, one report format.

A topic is a module with a function that fills a `Bench`:

    def measure(bench: Bench) -> None:
        bench.time("merge of two summaries", lambda: left + right, unit="us", runs=20, number=1000,
                   requirement="R1.6", bound="<= 20")
        bench.record("bytes of an update, p99", 612, unit="B", requirement="R1.8", bound="< 1024")
        bench.ratio("against the naive sum", ours=exact, theirs=naive, unit="x", bound=">= 0.5")

    if __name__ == "__main__":
        raise SystemExit(main("stats", measure))

Bounds are strings, `"<= 150"`, `"< 1024"`, `">= 0.95"`, `"> 0"`, `"== 0"`; `holds` is derived from them. A figure
without a bound is information. `bench.quick` asks for a small run; figures of a quick run say so.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
VERSIONED = ("tocsin", "numpy", "numba", "msgspec", "protobuf", "PyNaCl", "pyarrow")


@dataclass(frozen=True)
class Figure:
    """One measured number. `spread` is (min, max) over `runs`; `holds` is None where there is no bound."""

    name: str
    requirement: str
    value: float
    unit: str
    bound: str
    holds: bool | None
    runs: int
    spread: tuple[float, float]


@dataclass
class Bench:
    """Collects the figures of one topic. `quick` is a request to measure less, not differently."""

    topic: str
    quick: bool = False
    figures: list[Figure] = field(default_factory=list[Figure])
    counts: dict[str, float | str] = field(default_factory=dict[str, float | str])

    def count(self, **sizes: float | str) -> None:
        """State what was measured over: agents, events, seeds, monitors."""
        for name, size in sizes.items():
            self.counts[name] = size if isinstance(size, str | int) else float(size)

    def record(
        self,
        name: str,
        value: float,
        *,
        unit: str,
        requirement: str = "",
        bound: str = "",
        runs: int = 1,
        spread: tuple[float, float] | None = None,
    ) -> Figure:
        """Add a figure measured elsewhere. `value` is the median where there were several runs."""
        holds = within(value, bound) if bound else None
        low, high = spread if spread is not None else (value, value)
        figure = Figure(name, requirement, float(value), unit, bound, holds, runs, (float(low), float(high)))
        self.figures.append(figure)
        return figure

    def record_all(
        self, name: str, values: Sequence[float], *, unit: str, requirement: str = "", bound: str = ""
    ) -> Figure:
        """Add the median of several runs with their least and greatest."""
        return self.record(
            name,
            statistics.median(values),
            unit=unit,
            requirement=requirement,
            bound=bound,
            runs=len(values),
            spread=(min(values), max(values)),
        )

    def time(
        self,
        name: str,
        call: Callable[[], object],
        *,
        unit: str = "ms",
        runs: int = 10,
        number: int = 1,
        warmup: int = 1,
        requirement: str = "",
        bound: str = "",
    ) -> Figure:
        """Wall time of one call: median over `runs` of `number` calls, after `warmup` calls (compilation, caches)."""
        seconds = time_runs(call, runs=self._runs(runs), number=number, warmup=warmup)
        values = [UNITS_PER_SECOND[unit] * one for one in seconds]
        return self.record_all(name, values, unit=unit, requirement=requirement, bound=bound)

    def rate(
        self,
        name: str,
        call: Callable[[], object],
        *,
        items: int,
        unit: str,
        runs: int = 10,
        warmup: int = 1,
        requirement: str = "",
        bound: str = "",
    ) -> Figure:
        """Items a second, where one call handles `items` of them."""
        seconds = time_runs(call, runs=self._runs(runs), warmup=warmup)
        return self.record_all(name, [items / one for one in seconds], unit=unit, requirement=requirement, bound=bound)

    def ratio(
        self,
        name: str,
        *,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        unit: str = "x as fast",
        runs: int = 10,
        number: int = 1,
        warmup: int = 1,
        requirement: str = "",
        bound: str = "",
    ) -> Figure:
        """How many times as fast `ours` is as `theirs`. Runs alternate, so a busy neighbour slows both alike."""
        for _ in range(warmup):
            ours()
            theirs()
        values: list[float] = []
        for _ in range(self._runs(runs)):
            ours_seconds = time_runs(ours, runs=1, number=number, warmup=0)[0]
            theirs_seconds = time_runs(theirs, runs=1, number=number, warmup=0)[0]
            values.append(theirs_seconds / ours_seconds)
        return self.record_all(name, values, unit=unit, requirement=requirement, bound=bound)

    def _runs(self, runs: int) -> int:
        return min(runs, 3) if self.quick else runs


def time_runs(call: Callable[[], object], *, runs: int, number: int = 1, warmup: int = 1) -> list[float]:
    """Seconds per call, one value a run of `number` calls."""
    for _ in range(warmup):
        call()
    seconds: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(number):
            call()
        seconds.append((time.perf_counter() - start) / number)
    return seconds


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: always one of the values, never an interpolation. Raises ValueError if there is none."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # ceiling
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def within(value: float, bound: str) -> bool:
    """Whether `value` satisfies a bound such as '<= 150'. Raises ValueError for a bound that does not read."""
    comparison, _, limit = bound.strip().partition(" ")
    if comparison not in COMPARISONS or not limit:
        raise ValueError(f"bound {bound!r} does not read: write it as '<= 150'")
    return COMPARISONS[comparison](float(value), float(limit.replace(",", "").replace("_", "")))


def machine() -> dict[str, str | int]:
    """Where the figures were taken; a figure without its machine is a rumour."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, '' where not installed."""
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(bench: Bench) -> dict[str, object]:
    """The JSON document of a topic."""
    return {
        "topic": bench.topic,
        "quick": bench.quick,
        "machine": machine(),
        "versions": versions(),
        "counts": bench.counts,
        "figures": [asdict(figure) for figure in bench.figures],
    }


def render(bench: Bench) -> str:
    """The same document as text for people."""
    place = machine()
    lines = [
        f"{bench.topic}{' (quick run)' if bench.quick else ''}",
        f"  {place['cpu']}, {place['cores']} cores, {place['os']}, Python {place['python']}",
        "  " + ", ".join(f"{name} {version}" for name, version in versions().items() if version),
    ]
    if bench.counts:
        lines.append("  " + ", ".join(f"{name} {size}" for name, size in bench.counts.items()))
    head = ("figure", "median", "unit", "min..max", "runs", "bound", "holds", "shows")
    rows = [head, *(_cells(figure) for figure in bench.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _cells(figure: Figure) -> tuple[str, ...]:
    low, high = figure.spread
    return (
        figure.name,
        number_text(figure.value),
        figure.unit,
        f"{number_text(low)}..{number_text(high)}" if figure.runs > 1 else "",
        str(figure.runs),
        figure.bound,
        {True: "yes", False: "NO", None: ""}[figure.holds],
        figure.requirement,
    )


def number_text(value: float) -> str:
    """Four significant digits, no exponent where a person would write none."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def main(topic: str, measure: Callable[[Bench], None], argv: Sequence[str] | None = None) -> int:
    """Command line of a topic: run `measure`, print the table, write `--json OUT`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{topic}")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer runs and smaller sizes; not for publication")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    bench = Bench(topic, quick=options.quick)
    measure(bench)
    print(render(bench))
    if options.json is not None:
        options.json.write_text(json.dumps(report(bench), indent=1) + "\n", encoding="utf-8")
    return 0
