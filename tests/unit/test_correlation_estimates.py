"""Correlations across regions: against numpy, inside their certificates, the same integers for everyone."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.correlation import Basis, CorrelationMap, Region, global_basis, zone_basis, zone_rows
from tocsin.errors import InputError
from tocsin.stats.dither import dither_key, stream
from tocsin.stats.factors import leading_rows, marchenko_pastur_median, noise_edge, orthonormal_rows, unit_rows

T, PER_REGION = 128, 20


def fleet(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(3, T))
    return rng.normal(size=(n, 3)) @ common + rng.normal(size=(n, T))


def worked_out(x: np.ndarray, bits: int = 5, seed: bytes = b"s", heard: bytes = b"s", heavy_tails: bool = False):
    regions = [
        Region(f"r{a}", [f"a{k:04}" for k in range(a, a + PER_REGION)], x[a : a + PER_REGION], heavy_tails=heavy_tails)
        for a in range(0, len(x), PER_REGION)
    ]
    basis = global_basis([zone_rows([one.rows for one in part]) for part in (regions[::2], regions[1::2])])
    said = [(one.statements(basis, 7, seed, bits), one.exact) for one in regions]
    return CorrelationMap(basis, said, heard), said, basis


def everything(known: CorrelationMap, **how: bool):
    n = len(known.agents)
    block = known.block(slice(0, n), slice(0, n), **how)
    return block.estimate.astype(float), block.half_width.astype(float)


@pytest.mark.parametrize("heavy_tails", [False, True])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_every_certificate_holds_against_numpy(bits: int, heavy_tails: bool):
    x = fleet(120)
    known, _, _ = worked_out(x, bits, heavy_tails=heavy_tails)
    truth = np.corrcoef(unit_rows(x, heavy_tails=heavy_tails))
    for residuals in (True, False):
        estimate, width = everything(known, residuals=residuals)
        assert (np.abs(estimate - truth) <= width).all()
    estimate, width = everything(known)
    own = np.kron(np.eye(6), np.ones((PER_REGION, PER_REGION))) > 0
    assert np.abs(estimate - truth)[own].max() < 1e-6 > 0.5 * width[own].max()


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_certificates_hold_within_regions_that_nobody_asked(bits: int):
    x = fleet(120)
    _, said, basis = worked_out(x, bits)
    known = CorrelationMap(basis, [(members, None) for members, _ in said], b"s")
    estimate, width = everything(known)
    off = np.abs(estimate - np.corrcoef(x))
    assert (off <= width).all()
    assert off[0, 1] > 1e-6 > off[1, 1]  # of its own correlations everyone is certain
    assert known.agreed_q32(1, 1) == 1 << 32
    assert abs(known.agreed_q32(0, 1) / 2**32 - estimate[0, 1]) < 1e-6


def test_more_bits_are_closer_and_certified_closer():
    x, found = fleet(120), []
    for bits in (3, 5, 7):
        estimate, width = everything(worked_out(x, bits)[0])
        found.append((np.abs(estimate - np.corrcoef(x)).max(), width.max()))
    assert found[0] > found[1] > found[2]
    assert all(a > 2 * c for a, c in zip(found[0], found[2], strict=True))


def test_codes_of_another_series_break_certificates():
    x = fleet(120)
    x[100] = x[2] + 0.5 * x[100]
    _, said, basis = worked_out(x)
    members, exact = said[5]
    swapped = [msgspec.structs.replace(members[0], codes=-members[0].codes), *members[1:]]
    truth = np.corrcoef(x)
    for last, holds in ((members, True), (swapped, False)):
        estimate, width = everything(CorrelationMap(basis, [*said[:5], (last, exact)], b"s"))
        assert bool((np.abs(estimate - truth) <= width).all()) is holds


def test_a_series_made_to_fit_the_dither_breaks_certificates():
    """Why the seed must be unknown before: whoever knows it makes all errors point the same way."""
    rng = np.random.default_rng(4)
    x, names = rng.normal(size=(40, T)), [f"a{k:04}" for k in range(40)]
    x[0] = rng.permutation(np.repeat([-1.0, 1.0], T // 2))
    noise = stream(np.uint64(dither_key(b"s", names[20], 7)), T) / 65536
    whole = rng.integers(-1, 2, T)
    while abs(off := 3 + (whole - noise)[1:].sum()) > 0.6:
        whole[1 + rng.integers(T - 1)] -= int(np.sign(off))
    x[20] = whole - noise + 0.05 * x[0]  # a little above or below where rounding jumps by a step
    x[20, 0] = 3  # the largest, which fixes the step at 1
    basis = Basis.of(np.zeros((0, T)))
    regions = [Region("r0", names[:20], x[:20]), Region("r1", names[20:], x[20:])]
    how_wrong: dict[bytes, float] = {}
    for seed in (b"s", b"announced later"):
        known = CorrelationMap(basis, [(one.statements(basis, 7, seed, 3), one.exact) for one in regions], seed)
        estimate, width = known.pair(0, 20)
        how_wrong[seed] = abs(estimate - float(regions[0].z[0] @ regions[1].z[0])) / width
    assert how_wrong[b"s"] > 1 > how_wrong[b"announced later"]


def test_half_the_width_would_not_be_enough_without_luck():
    """The bound is not idle: errors reach a good part of it."""
    estimate, width = everything(worked_out(fleet(300), 3)[0])
    share = np.abs(estimate - np.corrcoef(fleet(300))) / width
    assert 0.3 < share.max() <= 1


def test_agreed_integers_are_the_dumb_sum_of_fractions():
    x = fleet(60)
    known, said, basis = worked_out(x)
    flat = [one for members, _ in said for one in members]

    def heard(one) -> list[Fraction]:
        noise = stream(np.uint64(dither_key(b"s", one.agent, 7)), T)
        step = Fraction(one.step, 1 << 24)
        rest = [
            step * (int(c) - Fraction(int(k), 1 << 16) + Fraction(1, 2)) for c, k in zip(one.codes, noise, strict=True)
        ]
        return rest if one.step else [Fraction(0)] * T

    def common(one) -> list[Fraction]:
        columns = [[Fraction(int(v), 1 << 15) for v in column] for column in basis.q.T]
        f = [Fraction(int(one), 1 << 14) for one in one.loadings]
        return [sum((a * b for a, b in zip(f, column, strict=True)), Fraction(0)) for column in columns]

    for i, j in ((0, 59), (3, 41), (22, 57)):
        a, b = flat[i], flat[j]
        total = sum(p * q for p, q in zip(common(a), common(b), strict=True))
        total += sum(p * q for p, q in zip(heard(a), heard(b), strict=True))
        assert abs(total * 2**32 - known.agreed_q32(i, j)) <= Fraction(1, 2)
        assert known.agreed_q32(i, j) == known.agreed_q32(j, i)
        estimate, width = known.pair(i, j)
        assert abs(estimate - known.agreed_q32(i, j) / 2**32) < 1e-5 < width
    assert known.agreed_q32(4, 4) / 2**32 == pytest.approx(1)
    assert known.agreed_q32(4, 5) / 2**32 == pytest.approx(np.corrcoef(x)[4, 5], abs=1e-9)


def test_the_order_of_members_does_not_matter():
    x, names = fleet(20), [f"n{k}" for k in range(20)]
    order = np.random.default_rng(1).permutation(20)
    straight, mixed = Region("r", names, x), Region("r", [names[k] for k in order], x[order])
    assert straight.agents == mixed.agents
    basis = global_basis([straight.rows])
    for a, b in zip(straight.statements(basis, 1, b"s", 5), mixed.statements(basis, 1, b"s", 5), strict=True):
        assert (a.agent, a.step, a.codes.tobytes()) == (b.agent, b.step, b.codes.tobytes())


def test_constant_and_huge_and_tiny_series():
    x = fleet(120)
    x[3], x[50] = 5.0, 0.0
    x[60], x[100] = 1e300 * x[60], 1e-300 * x[100]
    known, _, _ = worked_out(x)
    x[3], x[50], x[60], x[100] = 0.0, 0.0, x[60] / 1e300, x[100] / 1e-300
    with np.errstate(invalid="ignore", divide="ignore"):
        truth = np.nan_to_num(np.corrcoef(x))
    estimate, width = everything(known)
    assert (np.abs(estimate - truth) <= width).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float):
    x = fleet(20)
    x[3, 4] = bad
    with pytest.raises(InputError, match="not finite"):
        Region("r", [str(k) for k in range(20)], x)


def test_what_does_not_belong_together_is_refused():
    x = fleet(40)
    known, said, basis = worked_out(x)
    with pytest.raises(InputError, match="distinct"):
        Region("r", ["a", "a"], x[:2])
    with pytest.raises(InputError, match="16 to"):
        unit_rows(x[:, :8])
    with pytest.raises(InputError, match="at least one"):
        CorrelationMap(basis, [], b"s")
    with pytest.raises(InputError, match="orthonormal"):
        Basis(basis.q // 2)
    members, exact = said[0]
    other = msgspec.structs.replace(members[0], window=8)
    with pytest.raises(InputError, match="different windows"):
        CorrelationMap(basis, [([other, *members[1:]], exact), said[1]], b"s")
    liar = msgspec.structs.replace(members[0], loadings=np.full_like(members[0].loadings, 16384))
    with pytest.raises(InputError, match="no unit series"):
        CorrelationMap(basis, [([liar, *members[1:]], exact), said[1]], b"s")
    assert len(known.agents) == 40


@pytest.mark.parametrize(("p", "length"), [(20, 200), (50, 256), (50, 50), (60, 30)])
def test_noise_edge_separates_noise_from_factors(p: int, length: int):
    rng = np.random.default_rng(p)
    noise = rng.normal(size=(p, length)) * 3
    assert len(leading_rows(noise, 6, above_noise=True)) <= 1
    loaded = noise + 12 * rng.normal(size=(p, 2)) @ rng.normal(size=(2, length))
    assert len(leading_rows(loaded, 6, above_noise=True)) in (2, 3)
    values = np.linalg.svd(noise, compute_uv=False) ** 2
    assert values[0] == pytest.approx(noise_edge(values, p, length), rel=0.35)


def test_median_of_marchenko_pastur_against_eigenvalues():
    rng = np.random.default_rng(0)
    for p, length in ((100, 1000), (300, 600), (400, 400)):
        sample = rng.normal(size=(p, length))
        values = np.linalg.eigvalsh(sample @ sample.T / length)
        assert np.median(values) == pytest.approx(marchenko_pastur_median(p / length), rel=0.03)


def test_leading_rows_are_the_singular_vectors():
    x = np.random.default_rng(2).normal(size=(12, 40))
    for rows in (x, x.T):
        _, s, v = np.linalg.svd(rows, full_matrices=False)
        lead = leading_rows(rows, 5)
        assert np.abs(lead) == pytest.approx(np.abs(s[:5, None] * v[:5]), abs=1e-9)
    basis = orthonormal_rows(x, 5)
    assert basis @ basis.T == pytest.approx(np.eye(5), abs=1e-12)
    inner = zone_basis(x, Basis.of(basis))
    assert np.abs(inner @ basis.T).max() < 1e-3
    assert leading_rows(np.zeros((0, 40)), 5).shape == (0, 40) == leading_rows(np.zeros((4, 40)), 5).shape
