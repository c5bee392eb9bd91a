"""e-BH on integers: false discovery rate control from e-values under any dependence (Wang & Ramdas 2022)."""

from __future__ import annotations

from collections.abc import Iterable

from tocsin.stats.fixedpoint import ln_q32

MILLION = 1_000_000


def e_bh_threshold_q32(log_es_q32: Iterable[int], fleet_size: int, alpha_ppm: int) -> int | None:
    """The log e-value from which on hypotheses are rejected, units of 2**-32; None where none is.

    Rejects the k* largest, k* = max{k : log_e_(k) >= ln(N / (alpha k))}; hypotheses that are not listed, of the
    `fleet_size` N, have e-value one or less. Ties at the threshold are rejected together, which changes nothing in k*.
    Raises ValueError where more are listed than there are.
    """
    values = list(log_es_q32)
    if not values:
        return None
    if len(values) > fleet_size:  # the bar would fall below an e-value of one
        raise ValueError(f"{len(values)} hypotheses in a fleet of {fleet_size}")
    # No k has a lower threshold than k = len(values): whatever is below cannot be rejected.
    lowest = ln_q32(fleet_size * MILLION, alpha_ppm * len(values))
    candidates = sorted((value for value in values if value >= lowest), reverse=True)
    for k in range(len(candidates), 0, -1):
        if candidates[k - 1] >= ln_q32(fleet_size * MILLION, alpha_ppm * k):
            return candidates[k - 1]
    return None
