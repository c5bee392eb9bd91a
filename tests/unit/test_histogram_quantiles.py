"""Bins are found by shifts; the twin finds them by searching the edges."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.stats.histogram import BIN_OF, BINS, MISSING, accumulate_histograms, bin_edges, quantiles

ALL = np.arange(-32767, 32768)


def histogram(q: np.ndarray) -> np.ndarray:
    cells = np.zeros((1, BINS), np.int32)
    accumulate_histograms(q.astype(np.int32)[:, None], np.zeros(q.shape[0], np.int64), cells)
    return cells[0]


def quantile(cells: np.ndarray, probability: float) -> float:
    return float(quantiles(cells[None, :].astype(np.int64), (probability,))[0, 0])


def test_every_coordinate_falls_between_the_edges_of_its_bin() -> None:
    edges = np.array([bin_edges(k)[0] for k in range(BINS)] + [bin_edges(BINS - 1)[1]])
    assert (np.diff(edges) > 0).all()
    assert BIN_OF.tolist() == (np.searchsorted(edges, ALL) - 1).tolist()


def test_counting_all_coordinates_fills_each_bin_with_its_width() -> None:
    widths = [bin_edges(k)[1] - bin_edges(k)[0] for k in range(BINS)]
    assert histogram(ALL).tolist() == widths


def test_missing_is_not_counted() -> None:
    assert histogram(np.array([MISSING, 0, MISSING])).sum() == 1


@pytest.mark.parametrize("scale", [60, 256, 2000])
def test_quantiles_are_within_a_bin_of_the_true_ones(scale: int) -> None:
    q = np.clip(np.rint(np.random.default_rng(scale).normal(size=50_000) * scale), -32767, 32767).astype(np.int64)
    for p in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99):
        truth = float(np.quantile(q, p))
        low, high = bin_edges(int(BIN_OF[round(truth) + 32767]))
        assert abs(quantile(histogram(q), p) - truth) <= high - low


def test_quantile_of_nothing_and_of_one() -> None:
    assert quantile(histogram(np.zeros(0, np.int64)), 0.5) == 0.0
    low, high = bin_edges(int(BIN_OF[32767 - 5000]))
    assert low <= quantile(histogram(np.array([-5000])), 0.0) <= quantile(histogram(np.array([-5000])), 1.0) <= high


def test_several_histograms_at_once_match_the_definition() -> None:
    """The share of counts below the answer, counts spread evenly over their bin, is what was asked for."""
    rng = np.random.default_rng(3)
    cells = rng.poisson(rng.exponential(3, (5, BINS)) * (rng.random((5, BINS)) < 0.2)).astype(np.int64)
    shares = (0.0, 0.05, 0.5, 0.5, 0.95, 1.0)
    for one, answers in zip(cells, quantiles(cells, shares).tolist(), strict=True):
        for share, got in zip(shares, answers, strict=True):
            below = sum(
                count * min(1.0, max(0.0, (got - low) / (high - low)))
                for count, (low, high) in zip(one.tolist(), map(bin_edges, range(BINS)), strict=True)
            )
            assert below == pytest.approx(share * one.sum(), abs=1e-6)
