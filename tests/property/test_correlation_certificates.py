"""Certificates hold for whatever series; the order of arrival changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.aggregation.coordination import Pair, Screening, coordinated
from tocsin.aggregation.correlation import CorrelationMap, Region, global_basis, zone_rows
from tocsin.stats.dither import dither_codes, largest_code, level_size, levels
from tocsin.stats.factors import unit_rows

KINDS = ("normal", "cauchy", "spike", "lattice", "alike", "walk", "constant")


def series(kind: str, n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "cauchy":
        return rng.standard_cauchy(size=(n, length))
    if kind == "spike":
        return 1.0 * (rng.random((n, length)) < 1.5 / length)
    if kind == "lattice":
        return rng.integers(-1, 2, (n, length)).astype(float)
    if kind == "alike":
        return np.tile(rng.normal(size=length), (n, 1)) + 1e-3 * rng.normal(size=(n, length))
    if kind == "walk":
        return np.cumsum(rng.normal(size=(n, length)), axis=1)
    if kind == "constant":
        return np.full((n, length), 7.0)
    return rng.normal(size=(n, length))


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=4), st.integers(16, 300), st.integers(2, 8),
    st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_every_certificate_holds(kinds: list[str], length: int, bits: int, heavy_tails: bool, seed: int):
    rng, size = np.random.default_rng(seed), 8
    parts = [series(kind, size, length, rng) for kind in kinds]
    regions = [
        Region(f"r{k}", [f"{k}-{m}" for m in range(size)], part, heavy_tails=heavy_tails)
        for k, part in enumerate(parts)
    ]
    basis = global_basis([zone_rows([one.rows for one in regions])])
    announced = rng.bytes(32)
    known = CorrelationMap(basis, [(r.statements(basis, 1, announced, bits), r.exact) for r in regions], announced)
    z = np.concatenate([unit_rows(part, heavy_tails=heavy_tails) for part in parts])
    for residuals in (True, False):
        block = known.block(slice(0, len(z)), slice(0, len(z)), residuals=residuals)
        assert (np.abs(block.estimate - z @ z.T) <= block.half_width).all()


@given(st.integers(0, 2**32), st.integers(2, 8), st.floats(1e-9, 1.0))
def test_dither_errors_stay_within_half_a_step(seed: int, bits: int, scale: float):
    rng = np.random.default_rng(seed)
    x = scale * (2 * rng.random((3, 50)) - 1)
    keys = rng.integers(0, 2**64, 3, np.uint64)
    codes, step = dither_codes(x, bits, keys)
    assert np.abs(codes).max() <= largest_code(bits)
    error = levels(codes, step, keys) * level_size(step)[:, None] - x
    assert (np.abs(error) <= (0.5 + 1e-6) * step[:, None] / 2**24).all()


@given(st.integers(0, 2**32), st.floats(-1.0, 1.0))
@settings(max_examples=30)
def test_dither_errors_have_no_mean_and_the_variance_of_a_step_whatever_the_value(seed: int, value: float):
    rng = np.random.default_rng(seed)
    x = np.full((1, 20_000), value)
    x[0, 0] = 1.0
    keys = rng.integers(0, 2**64, 1, np.uint64)
    codes, step = dither_codes(x, 3, keys)
    error = (levels(codes, step, keys)[0] * level_size(step)[0] - x[0]) * 2**24 / step[0]
    assert abs(error.mean()) < 5 / (12 * 20_000) ** 0.5
    assert abs(error.var() - 1 / 12) < 0.003


PAIRS = st.builds(
    lambda a, gap, lag, log_p: Pair(a, a + gap, 0.7, lag, log_p),
    st.integers(0, 12), st.integers(1, 6), st.integers(-3, 3), st.floats(-400, -30),
)  # fmt: skip


@given(st.lists(PAIRS, max_size=12, unique_by=lambda p: (p.left, p.right)), st.randoms(use_true_random=False))
def test_groups_are_the_connected_parts_in_whatever_order_pairs_come(pairs: list[Pair], random):
    members = coordinated(pairs, 100, Screening())
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert coordinated(shuffled, 100, Screening()) == members
    group = {k: k for p in pairs for k in (p.left, p.right)}
    for _ in group:  # slow and plain: the least number spreads
        for p in pairs:
            group[p.left] = group[p.right] = min(group[p.left], group[p.right])
    assert {m.member: m.group for m in members} == group
    for least in set(group.values()):
        assert min(m.lag for m in members if m.group == least) == 0
    follows = {
        k: min((p.log_p for p in pairs if (k == p.right and p.lag >= 0) or (k == p.left and p.lag <= 0)), default=None)
        for k in group
    }
    assert all(m.log_e == 0.0 for m in members if follows[m.member] is None)  # who is followed by all is not charged
    charged = sorted((m for m in members if follows[m.member] is not None), key=lambda m: follows[m.member] or 0.0)
    assert [m.log_e for m in charged] == sorted((m.log_e for m in charged), reverse=True)
