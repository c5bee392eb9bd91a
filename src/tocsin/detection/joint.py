"""Many features of one machine together: how badly a row fits the few directions in which its baseline moves.

Residual of a principal-component model, as in process monitoring (Jackson & Mudholkar 1979, the Q statistic), each
feature scaled by its own baseline residual. Rows are judged one by one, so the belief falls again when a fault has
passed. It feeds the belief only: neighbouring rows of a machine are too alike for an e-process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.detection.calibration import Calibration
from tocsin.stats.eprocess import mixture_calibrator

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

MIN_FEATURES = 4
MIN_ROWS = 1000  # baseline rows of an agent
EXPLAINED = 0.9  # share of variance that the kept directions explain
FLOOR = 0.05  # of a standard deviation: residuals below it are rounding
CLIP = 10.0
LOG_P_FLOOR = -60.0


@dataclass(slots=True)
class Machine:
    """One agent's model: centre and scale `(d,)`, directions `(d, r)`, residual scale `(d,)`, calibration of scores."""

    centre: F64
    scale: F64
    directions: F64
    residual: F64
    calibration: Calibration

    def scores(self, values: F64) -> F64:
        """Root mean square scaled residual of rows `(n, d)`; missing values count as normal."""
        return np.sqrt(np.mean((self._residuals(values) / self.residual) ** 2, axis=1))

    def _residuals(self, values: F64) -> F64:
        standard = np.clip(np.nan_to_num((values - self.centre) / self.scale, nan=0.0), -CLIP, CLIP)
        return standard - standard @ self.directions @ self.directions.T


def fit_machine(values: F64) -> Machine:
    """Model of baseline rows `(n, d)`."""
    centre = np.nan_to_num(np.nanmedian(values, axis=0))
    scale = np.nan_to_num(np.nanstd(values, axis=0)) + 1e-3
    standard = np.clip(np.nan_to_num((values - centre) / scale, nan=0.0), -CLIP, CLIP)
    variance, basis = np.linalg.eigh(np.cov(standard.T))
    directions = np.asarray(basis, np.float64)
    share = np.cumsum(variance[::-1]) / max(float(variance.sum()), 1e-300)
    kept = int(np.sum(share < EXPLAINED)) + 1
    chosen: F64 = np.ascontiguousarray(directions[:, ::-1][:, :kept])
    machine = Machine(centre, scale, chosen, np.ones_like(centre), Calibration(np.zeros(2)))
    machine.residual = machine._residuals(values).std(axis=0) + FLOOR  # pyright: ignore[reportPrivateUsage]
    machine.calibration = Calibration(machine.scores(values))
    return machine


def fit_machines(agent: I32, values: F64) -> dict[int, Machine]:
    """A model for every agent with at least MIN_ROWS baseline rows, where there are MIN_FEATURES features."""
    if values.shape[1] < MIN_FEATURES:
        return {}
    rich = np.flatnonzero(np.bincount(agent) >= MIN_ROWS)
    return {int(a): fit_machine(values[agent == a]) for a in rich}


def beliefs(machine: Machine, values: F64) -> F64:
    """Nats of belief of each row `(n,)`: a calibrated Bayes factor of its score's tail probability."""
    log_p = np.maximum(machine.calibration.log_p(machine.scores(values)), LOG_P_FLOOR)
    return np.array([mixture_calibrator(float(value)) for value in log_p])
