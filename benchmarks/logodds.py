"""Sums of log-odds: exact in any order and grouping, against the usual ways to add; lost precision noticed (R2.3).

The reference is rational arithmetic on Python's unbounded integers. Three sets of numbers: log-odds as monitors make
them, signed numbers over 32 decades, and pairs up to 1e12 that cancel and leave 0.001. For the detector of lost
precision, huge pairs are put into log-odds. "Kahan in Python" is the textbook's loop in plain Python.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import Bench, main
from tocsin.errors import InputError
from tocsin.model.evidence import Q32
from tocsin.stats.exactsum import (
    DEGRADED,
    ExactSum,
    double_double_sum,
    guarded_sum,
    kahan_sum,
    naive_sum,
    neumaier_sum,
)

F64 = NDArray[np.float64]
POINTS, QUICK_POINTS = 10_000_000, 100_000
ORDERS = 3  # random orders beside the original and the sorted ones
INJECTED_SETS, INJECTED_POINTS = 400, 20_000
ABSOLUTE = ("log-odds", "cancellation")  # sets whose sum is small enough for a double within 1e-9 of it to exist
UNIT = 1074  # every double is a multiple of 2**-1074


def rational_sum(x: F64) -> Fraction:
    """The sum in exact rational arithmetic."""
    total = 0
    for value in x.tolist():
        numerator, denominator = value.as_integer_ratio()
        total += numerator << (UNIT + 1 - denominator.bit_length())
    return Fraction(total, 1 << UNIT)


def kahan_in_python(values: list[float]) -> float:
    """Kahan (1965) as a textbook has it."""
    total = lost = 0.0
    for v in values:
        y = v - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return total


def exact_sum(x: F64) -> float:
    """The superaccumulator, rounded once at the end."""
    total = ExactSum()
    total.add(x)
    return total.value()


METHODS: dict[str, Callable[[F64], float]] = {
    "plain": lambda x: naive_sum(x)[0],
    "numpy pairwise": lambda x: float(np.sum(x)),
    "Kahan": kahan_sum,
    "Neumaier": neumaier_sum,
    "double-double": double_double_sum,
    "math.fsum": math.fsum,
    "exact": exact_sum,
}


def sets(n: int) -> dict[str, F64]:
    """Name -> (n,) numbers, seed 1."""
    rng = np.random.default_rng(1)
    log_odds = np.clip(rng.normal(0.0, 3.0, n), -64.0, 64.0)
    wide = np.exp(rng.uniform(math.log(1e-16), math.log(1e16), n)) * rng.choice([-1.0, 1.0], n)
    large = 10.0 ** rng.uniform(0.0, 12.0, n // 2 - 500)
    cancelling = np.concatenate([large, -large, np.full(1000, 1e-6)])
    return {"log-odds": log_odds, "32 decades": wide, "cancellation": cancelling[rng.permutation(n)]}


def orders(x: F64) -> list[F64]:
    """The same numbers as they came, sorted, and in random orders."""
    rng = np.random.default_rng(2)
    return [x, np.sort(x), *(x[rng.permutation(x.size)] for _ in range(ORDERS))]


def accuracy(bench: Bench, name: str, x: F64) -> None:
    """Largest error of every method over orders, and how many different answers the orders give."""
    reference = rational_sum(x)
    arranged = orders(x)
    for method, call in METHODS.items():
        answers = {call(one) for one in arranged}
        error = float(max(abs(Fraction(answer) - reference) for answer in answers))
        ours = method == "exact"
        bound = "< 1e-9" if ours and name in ABSOLUTE else ""
        what = f"{name}: error of {method} against rational arithmetic"
        bench.record(what, error, unit="nats", requirement="R2.3", bound=bound)
        if ours:
            last_place = math.ulp(float(reference))
            what = f"{name}: the same error in units in the last place"
            bench.record(what, error / last_place, unit="ulp", requirement="R2.3", bound="<= 0.5")
        what = f"{name}: different answers of {method} over {len(arranged)} orders"
        bench.record(what, len(answers), unit="", requirement="R2.3", bound="== 1" if ours else "")


def grouped(x: F64, groups: int, seed: int) -> bytes:
    """State after adding `groups` random stretches apart and merging them in random order."""
    rng = np.random.default_rng(seed)
    cuts = [0, *np.sort(rng.integers(0, x.size, groups - 1)).tolist(), x.size]
    parts: list[ExactSum] = []
    for low, high in pairwise(cuts):
        part = ExactSum()
        part.add(x[low:high])
        parts.append(part)
    total = ExactSum()
    for index in rng.permutation(groups):
        total.merge(parts[int(index)])
    return total.canonical()


def identity(bench: Bench, name: str, x: F64) -> None:
    """Distinct states over orders and groupings; and over the integers that monitors sign."""
    states = {grouped(one, 1, 0) for one in orders(x)}
    states |= {grouped(x, groups, seed) for groups in (2, 10, 50, 1000) for seed in (1, 2)}
    what = f"{name}: different states of the exact sum over {ORDERS + 2} orders and 8 groupings"
    bench.record(what, len(states), unit="", requirement="R2.3", bound="== 1")


def integers(bench: Bench, x: F64) -> None:
    """The agreed path: rounded to 2**-32 once at the source, then only integers are added."""
    stated = np.rint(x * Q32).astype(np.int64)
    rng = np.random.default_rng(4)
    arranged = [stated[rng.permutation(stated.size)] for _ in range(ORDERS)]
    totals = {(int(np.sum(one >> 32)) << 32) + int(np.sum(one & 0xFFFFFFFF)) for one in arranged}
    totals.add(sum(stated.tolist()))
    bench.record(
        "integers of 2^-32: different sums over 4 orders", len(totals), unit="", requirement="R2.3", bound="== 1"
    )
    rounding = abs(float(Fraction(totals.pop(), Q32) - rational_sum(x)))
    bench.record("integers of 2^-32: what rounding at the source costs over all points", rounding, unit="nats")


def speed(bench: Bench, x: F64) -> None:
    """Ours against Kahan's, in plain Python and compiled; nanoseconds of every method."""
    listed = x.tolist()
    python, compiled = (lambda: kahan_in_python(listed)), (lambda: kahan_sum(x))
    bench.ratio(
        "exact sum against Kahan in Python",
        ours=lambda: exact_sum(x),
        theirs=python,
        runs=5,
        requirement="R2.3",
        bound=">= 5",
    )
    bench.ratio("exact sum against compiled Kahan", ours=lambda: exact_sum(x), theirs=compiled, runs=5)
    for method, call in METHODS.items():
        seconds = [_cpu_seconds(call, x) for _ in range(5)]
        bench.record_all(f"one number, {method}", [1e9 * one / x.size for one in seconds], unit="ns")


def _cpu_seconds(call: Callable[[F64], float], x: F64) -> float:
    start = time.process_time()
    call(x)
    return time.process_time() - start


def injection(bench: Bench) -> None:
    """Huge cancelling pairs put into log-odds: is every sum that lost more than 0.1 % noticed and redone exactly?"""
    rng = np.random.default_rng(3)
    lost = missed = wrong = replayed = needless = 0
    trials = INJECTED_SETS // 10 if bench.quick else INJECTED_SETS
    for trial in range(trials):
        x = np.clip(rng.normal(0.1, 3.0, INJECTED_POINTS), -64.0, 64.0)
        if trial % 2:
            huge = 10.0 ** rng.uniform(8.0, 20.0, int(rng.integers(1, 50)))
            x[: 2 * huge.size] = np.concatenate([huge, -huge])
            x = x[rng.permutation(x.size)]
        reference = rational_sum(x)
        plain_error = abs(Fraction(naive_sum(x)[0]) - reference)
        told = guarded_sum(x)
        is_lost = plain_error > Fraction(DEGRADED) * abs(reference)
        lost += is_lost
        missed += is_lost and not told.replayed
        wrong += told.replayed and told.value != float(reference)
        replayed += told.replayed
        needless += told.replayed and not trial % 2
    bench.count(injected_sets=trials, sums_that_lost_more_than_a_thousandth=lost, sums_replayed=replayed)
    bench.record("lost precision not noticed", missed, unit="sums", requirement="R2.3", bound="== 0")
    bench.record("replays that were not exact", wrong, unit="sums", requirement="R2.3", bound="== 0")
    bench.record("replays where nothing was injected", needless, unit="sums", requirement="R2.3", bound="== 0")


def not_numbers(bench: Bench) -> None:
    """Infinities are counted apart and can leave again; NaN is refused and changes nothing."""
    total = ExactSum()
    total.add(np.array([1.0, math.inf, -math.inf, -math.inf, 2.0]))
    apart = total.infinities == (1, 2) and math.isnan(total.value())
    total.remove(np.array([math.inf, -math.inf, -math.inf]))
    before = total.canonical()
    try:
        total.add(np.array([4.0, math.nan]))
        refused = False
    except InputError:
        refused = total.canonical() == before
    bench.record(
        "infinities counted apart and removed",
        apart and total.value() == 3.0,
        unit="",
        requirement="R2.3",
        bound="== 1",
    )
    bench.record("NaN refused, sum unchanged", refused, unit="", requirement="R2.3", bound="== 1")


def measure(bench: Bench) -> None:
    """Everything about sums."""
    n = QUICK_POINTS if bench.quick else POINTS
    bench.count(points=n)
    for call in METHODS.values():
        call(np.ones(8))
    drawn = sets(n)
    for name, x in drawn.items():
        accuracy(bench, name, x)
        identity(bench, name, x)
    integers(bench, drawn["log-odds"])
    speed(bench, drawn["log-odds"])
    injection(bench)
    not_numbers(bench)


if __name__ == "__main__":
    raise SystemExit(main("logodds", measure))
