"""What does not belong to a round of correlation is refused and counted; who lies harms only its own correlations."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.assembly import COMMITMENT_BYTES, Assembly, FactorInbox, commitment
from tocsin.aggregation.correlation import BASIS_BITS, Basis, Region, global_basis, zone_rows
from tocsin.errors import InputError, WireError
from tocsin.stats.dither import MAX_STEP
from tocsin.wire import correlation as wire

T, WINDOW, SECRET = 100, 7, b"nobody knows"
REGIONS = {"r1": ("a", "b", "c"), "r2": ("d", "e", "f")}
ENERGY = {"r1": 3.0, "r2": 3.0}


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
    packets = wire.encode_rows(wire.rounded_rows(wire.REGION_FACTORS, "r1", WINDOW, np.repeat(rows, 8, axis=0) / 4))
    assert len(packets) > 1
    inbox = FactorInbox(wire.REGION_FACTORS, WINDOW, T, ENERGY)
    for raw in reversed(packets):  # out of order
        assert inbox.of("r1") is None
        assert inbox.take(raw, "r1")
    assert np.allclose(inbox.rows()[0][0], rows[0] / 4, atol=1e-4)
    assert not inbox.take(packets[0], "r1")
    assert not inbox.take(packets[0][:-1], "r2")
    for kind, source, window, width in (
        (wire.ZONE_FACTORS, "r1", WINDOW, T), (wire.REGION_FACTORS, "r1", WINDOW - 1, T),
        (wire.REGION_FACTORS, "r1", WINDOW, T - 1), (wire.REGION_FACTORS, "nobody", WINDOW, T),
    ):  # fmt: skip
        assert not inbox.take(wire.encode_rows(wire.rounded_rows(kind, source, window, rows[:1, :width]))[0], source)
    assert inbox.refused == {
        "repeated factors": 1, "malformed factors": 1, "factors of another round": 3, "factors of a stranger": 1,
    }  # fmt: skip
    assert inbox.blamed == {"r1": 4, "r2": 1, "nobody": 1}


def packed(source: str, rows: np.ndarray) -> list[bytes]:
    return wire.encode_rows(wire.rounded_rows(wire.REGION_FACTORS, source, WINDOW, rows))


def test_a_forged_first_part_keeps_nobody_out_and_is_held_against_its_sender():
    inbox = FactorInbox(wire.REGION_FACTORS, WINDOW, T, ENERGY)
    honest = packed("r1", np.repeat(HELD["r1"].rows[:1] / 4, 8, axis=0))
    for sender in ("r2", "nobody"):
        assert not inbox.take(packed("r1", np.full((8, T), 0.01))[0], sender)
    assert all(inbox.take(raw, "r1") for raw in honest)
    assert inbox.refused == {"factors under another name": 1, "factors of a stranger": 1}
    assert inbox.blamed == {"r2": 1, "nobody": 1}
    assert len(inbox.rows()) == 1


def test_parts_that_contradict_each_other_are_refused():
    inbox = FactorInbox(wire.REGION_FACTORS, WINDOW, T, ENERGY)
    first, second = packed("r1", np.full((8, T), 0.01))
    assert inbox.take(first, "r1")
    assert not inbox.take(packed("r1", np.full((8, T), 3e9))[1], "r1")
    assert inbox.take(second, "r1")
    assert inbox.refused == {"factors that do not fit together": 1}


@pytest.mark.parametrize("size", [0.2, 1e9])
def test_factors_that_no_members_have_are_refused(size: float):
    inbox = FactorInbox(wire.REGION_FACTORS, WINDOW, T, ENERGY)
    for raw in packed("r2", np.full((1, T), size)):  # three members' factors have an energy of three, at most
        inbox.take(raw, "r2")
    for raw in packed("r1", HELD["r1"].rows):
        assert inbox.take(raw, "r1")
    assert inbox.refused == {"impossible factors": 1}
    assert inbox.blamed == {"r2": 1}
    assert len(inbox.rows()) == 1
    assert np.abs(inbox.rows()[0] - HELD["r1"].rows).max() < 1e-3


def test_many_statements_at_once_are_the_same_as_one_by_one():
    _, seed = begun()
    good = [one for name in REGIONS for one in said(name, seed)]
    raws = [wire.encode(one) for one in good]
    assert wire.encode_all(good) == raws
    odd = HELD["r1"].statements(BASIS, WINDOW, seed, 3)
    assert wire.encode_all([*good, *odd]) == raws + [wire.encode(one) for one in odd]
    unused = bytearray(raws[0])
    at = len(raws[0]) - (5 * T + 7) // 8
    unused[at:] = b"\xff" * (len(unused) - at)  # codes that are never used
    idle = bytearray(raws[1])
    idle[25:29] = bytes(4)  # codes without a step
    offered = [*raws, raws[0][:-1], b"", bytes(unused), bytes(idle), *(wire.encode(one) for one in odd), b"x" * 2000]
    for raw, found in zip(offered, wire.decode_all(offered), strict=True):
        try:
            one = wire.decode(raw)
        except WireError:
            assert found is None
            continue
        assert found is not None
        assert wire.encode(found) == wire.encode(one) == raw
    assert sum(one is None for one in wire.decode_all(offered)) == 5


def test_who_sent_what_was_refused_is_known():
    assembly, seed = begun()
    good = wire.encode(said("r1", seed)[0])
    assert assembly.statements("r2", [good, b"noise"]) == [False, False]
    assert assembly.statements("nowhere", [good]) == [False]
    assert assembly.statements("r1", [good, good]) == [True, False]
    assert assembly.blamed == {"r2": 2, "nowhere": 1, "r1": 1}


def test_a_basis_survives_its_packets():
    rows = wire.Rows(kind=wire.GLOBAL_BASIS, source="fleet", window=WINDOW, exponent=-BASIS_BITS, values=BASIS.q)
    inbox = FactorInbox(wire.GLOBAL_BASIS, WINDOW, T, {"fleet": wire.MAX_FACTORS})
    for raw in wire.encode_rows(rows):
        inbox.take(raw, "fleet")
    assert Basis(inbox.of("fleet").values).digest == BASIS.digest
