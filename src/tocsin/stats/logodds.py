"""Log-odds and log e-values as integers: made once at the source, then only added."""

from __future__ import annotations

import math

from tocsin.errors import InputError
from tocsin.model.evidence import CLIP_NATS, CLIP_Q32, Q32
from tocsin.stats.fixedpoint import ln_q32

MILLION = 1_000_000


def clip_q32(value: int) -> int:
    """Clip to +-64 nats in units of 2**-32."""
    return max(-CLIP_Q32, min(CLIP_Q32, value))


def to_q32(nats: float) -> int:
    """`nats` in units of 2**-32, rounded to even, clipped to +-64 nats (infinities too). Raises InputError for NaN."""
    if math.isnan(nats):
        raise InputError("a log-likelihood ratio is not a number", remedy="drop the sample it came from")
    return round(max(-CLIP_NATS, min(CLIP_NATS, nats)) * Q32)


def log_odds_of_ppm(ppm: int) -> int:
    """Log-odds of a probability in parts per million, in units of 2**-32. Raises ValueError at 0 and at one million."""
    return ln_q32(ppm, MILLION - ppm)


def logistic(log_odds_q32: int) -> float:
    """The probability with these log-odds. For people: a float, never signed."""
    nats = log_odds_q32 / Q32
    if nats >= 0:
        return 1.0 / (1.0 + math.exp(-nats))
    odds = math.exp(max(nats, -745.0))
    return odds / (1.0 + odds)
