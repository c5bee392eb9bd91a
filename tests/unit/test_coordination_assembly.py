"""What does not belong to a round of correlation is refused and counted; who lies harms only its own correlations."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.assembly import COMMITMENT_BYTES, Assembly, FactorInbox, commitment
from tocsin.aggregation.correlation import BASIS_BITS, Basis, Region, global_basis, zone_rows
from tocsin.errors import InputError
from tocsin.stats.dither import MAX_STEP
from tocsin.wire import correlation as wire

T, WINDOW, SECRET = 100, 7, b"nobody knows"
REGIONS = {"r1": ("a", "b", "c"), "r2": ("d", "e", "f")}


def regions() -> dict[str, Region]:
    rng = np.random.default_rng(1)
    common = rng.normal(size=T)
    return {name: Region(name, agents, rng.normal(size=(3, T)) + common) for name, agents in REGIONS.items()}


HELD = regions()
BASIS = global_basis([zone_rows([one.rows for one in HELD.values()])])


def begun() -> tuple[Assembly, bytes]:
    assembly = Assembly(WINDOW, T, REGIONS)
    for name, one in HELD.items():
        assert assembly.commit(name, commitment(SECRET, name, WINDOW, one.z))
    return assembly, assembly.announce(SECRET, BASIS)


def said(name: str, seed: bytes, window: int = WINDOW, basis: Basis = BASIS) -> list[wire.Statement]:
    return HELD[name].statements(basis, window, seed, 5)


def everyone(assembly: Assembly, seed: bytes, instead: dict[str, wire.Statement] | None = None):
    for name in REGIONS:
        for one in said(name, seed):
            assembly.statement(name, wire.encode((instead or {}).get(one.agent, one)))
    return assembly.map({name: one.exact for name, one in HELD.items()})


def truth() -> np.ndarray:
    z = np.concatenate([one.z for one in HELD.values()])
    return z @ z.T


def test_honest_statements_give_certified_correlations():
    assembly, seed = begun()
    known = everyone(assembly, seed)
    block = known.block(slice(0, 6), slice(0, 6))
    assert known.agents == ("a", "b", "c", "d", "e", "f")
    assert (np.abs(block.estimate - truth()) <= block.half_width).all()
    assert not assembly.refused


def test_the_seed_waits_for_every_commitment_and_depends_on_each():
    assembly = Assembly(WINDOW, T, REGIONS)
    assembly.commit("r1", bytes(COMMITMENT_BYTES))
    with pytest.raises(InputError, match="not committed"):
        assembly.announce(SECRET, BASIS)
    with pytest.raises(InputError, match="no seed"):
        assembly.map({})
    seeds = set()
    for last in (b"\0", b"\1"):
        other = Assembly(WINDOW, T, REGIONS)
        other.commit("r1", bytes(COMMITMENT_BYTES))
        other.commit("r2", last * COMMITMENT_BYTES)
        seeds |= {other.announce(SECRET, BASIS), other.announce(b"another", BASIS)}
    assert len(seeds) == 4


def test_a_commitment_counts_once_and_binds():
    assembly, _ = begun()
    assert not assembly.commit("r1", bytes(COMMITMENT_BYTES))
    assert not assembly.commit("elsewhere", bytes(COMMITMENT_BYTES))
    assert not assembly.commit("r2", b"short")
    assert assembly.refused == {"repeated or late commitment": 1, "malformed commitment": 2}
    z = HELD["r1"].z
    promises = {
        commitment(SECRET, "r1", WINDOW, z), commitment(SECRET, "r1", WINDOW, z + 1e-12),
        commitment(SECRET, "r2", WINDOW, z), commitment(SECRET, "r1", WINDOW + 1, z), commitment(b"x", "r1", WINDOW, z),
    }  # fmt: skip
    assert len(promises) == 5


def test_statements_that_do_not_belong_are_refused_by_reason():
    assembly, seed = begun()
    good = wire.encode(said("r1", seed)[0])
    early = Assembly(WINDOW, T, REGIONS)
    assert not early.statement("r1", good)
    assert early.refused == {"statement before the seed": 1}
    other = Basis(BASIS.q[:, ::-1].copy())
    fewer = msgspec.structs.replace(said("r1", seed)[0], loadings=BASIS.loadings(HELD["r1"].z)[0][:0])
    shorter = msgspec.structs.replace(said("r1", seed)[0], codes=said("r1", seed)[0].codes[:-4])
    offered = [
        (good, "r1", ""),
        (good, "r1", "repeated statement"),
        (good, "r2", "statement about a stranger"),
        (good[:-1], "r1", "malformed statement"),
        (b"", "r1", "malformed statement"),
        (wire.encode(said("r1", seed, window=WINDOW - 1)[1]), "r1", "statement of another window"),
        (wire.encode(said("r1", seed, basis=other)[1]), "r1", "statement of another dimension or basis"),
        (wire.encode(fewer), "r1", "statement of another dimension or basis"),
        (wire.encode(shorter), "r1", "statement of another dimension or basis"),
        (good, "nowhere", "statement about a stranger"),
    ]  # fmt: skip
    for raw, region, why in offered:
        before = assembly.refused[why]
        assert assembly.statement(region, raw) == (not why)
        assert assembly.refused[why] == before + bool(why)
    assert everyone(assembly, seed).agents == ("a", "b", "c", "d", "e", "f")


def others_are_right(assembly: Assembly, lie: wire.Statement, seed: bytes) -> None:
    known = everyone(assembly, seed, {"b": lie})
    at = ["a", "b", "c", "d", "e", "f"]
    keep = [at.index(agent) for agent in known.agents]
    block = known.block(slice(0, len(keep)), slice(0, len(keep)))
    off = np.abs(block.estimate - truth()[np.ix_(keep, keep)]) > block.half_width
    if "b" in known.agents:
        off[known.agents.index("b")] = off[:, known.agents.index("b")] = False
        assert np.abs(block.estimate).max() <= 1.3
    assert not off.any()


def test_one_made_with_another_seed_is_wrong_about_its_own_agent_only():
    assembly, seed = begun()
    others_are_right(assembly, HELD["r1"].statements(BASIS, WINDOW, b"another seed", 5)[1], seed)


def test_one_that_copies_a_series_is_wrong_about_its_own_agent_only():
    assembly, seed = begun()
    copied = HELD["r2"].statements(BASIS, WINDOW, seed, 5)[0]
    others_are_right(assembly, msgspec.structs.replace(copied, agent="b"), seed)


@pytest.mark.parametrize("kind", ["loadings", "step", "codes"])
def test_what_no_series_could_state_is_left_out(kind: str):
    assembly, seed = begun()
    one = said("r1", seed)[1]
    lies = {
        "loadings": {"loadings": np.full_like(one.loadings, 32767)},
        "step": {"step": MAX_STEP, "codes": np.ones_like(one.codes) * 15},
        "codes": {"codes": np.full_like(one.codes, 15)},
    }
    others_are_right(assembly, msgspec.structs.replace(one, **lies[kind]), seed)
    assert assembly.refused == {"impossible statement": 1}


def test_factors_are_taken_once_from_whom_they_are_expected():
    rows = HELD["r1"].rows[:2]
    packets = wire.encode_rows(wire.rounded_rows(wire.REGION_FACTORS, "r1", WINDOW, np.repeat(rows, 8, axis=0)))
    assert len(packets) > 1
    inbox = FactorInbox(wire.REGION_FACTORS, WINDOW, T, REGIONS)
    for raw in reversed(packets):  # out of order
        assert inbox.of("r1") is None
        assert inbox.take(raw)
    assert np.allclose(inbox.rows()[0][0], rows[0], atol=1e-4)
    assert not inbox.take(packets[0])
    assert not inbox.take(packets[0][:-1])
    for kind, source, window, width in (
        (wire.ZONE_FACTORS, "r1", WINDOW, T), (wire.REGION_FACTORS, "r1", WINDOW - 1, T),
        (wire.REGION_FACTORS, "r1", WINDOW, T - 1), (wire.REGION_FACTORS, "nobody", WINDOW, T),
    ):  # fmt: skip
        assert not inbox.take(wire.encode_rows(wire.rounded_rows(kind, source, window, rows[:1, :width]))[0])
    assert inbox.refused == {
        "repeated factors": 1, "malformed factors": 1, "factors of another round": 3, "factors of a stranger": 1,
    }  # fmt: skip


def test_a_basis_survives_its_packets():
    rows = wire.Rows(kind=wire.GLOBAL_BASIS, source="fleet", window=WINDOW, exponent=-BASIS_BITS, values=BASIS.q)
    inbox = FactorInbox(wire.GLOBAL_BASIS, WINDOW, T, ["fleet"])
    for raw in wire.encode_rows(rows):
        inbox.take(raw)
    assert Basis(inbox.of("fleet").values).digest == BASIS.digest
