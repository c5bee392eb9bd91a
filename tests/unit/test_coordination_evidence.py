"""From a round's findings to evidence: running e-values that stay valid, belief that is not counted twice, words."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.activity import Snapshot
from tocsin.aggregation.rounds import LEAST_AGENTS, MAX_NAME, Rounds, correlate, stated_name
from tocsin.detection.explain import Explanation
from tocsin.model.coordination import Bond, Findings
from tocsin.model.evidence import CLIP_NATS, COORDINATION, Q32, Reason
from tocsin.monitor.coordination import FEATURE, JointEvidence, described
from tocsin.stats.correlation import innovations
from tocsin.stats.factors import unit_rows
from tocsin.wire.evidence import decode_evidence, encode_evidence

T, N = 128, 120
GROUP = (3, 40, 77, 110)
REGIONS = [f"r{k // 20}" for k in range(N)]
ZONES = dict.fromkeys(REGIONS, "z")


def bond(agent: str = "a", log_e: float = 12.0, log_bf: float = 16.0, **more) -> Bond:
    fields = {
        "agent_id": agent, "log_e": log_e, "log_bf": log_bf, "series": "activity", "partner": "b", "rho": 0.812,
        "lag": 2, "members": ("b", "c", agent), "size": 3,
    }  # fmt: skip
    return Bond(**{**fields, **more})


def findings(number: int, *bonds: Bond) -> Findings:
    return Findings(number=number, agents=100, bonds=bonds)


# --- the monitor's side


def test_e_values_of_rounds_are_summed_with_weights_below_one():
    joint = JointEvidence(2)
    (first,) = joint.add(findings(3, bond(log_e=12.0)), 77)
    assert (first.kind, first.monitor, first.first_seq, first.last_seq, first.observed_ms) == (
        COORDINATION,
        2,
        3,
        3,
        77,
    )
    assert first.log_e_q32 / Q32 == pytest.approx(12.0 - math.log(12))
    assert joint.add(findings(4), 78) == ()
    (second,) = joint.add(findings(5, bond(log_e=13.0)), 79)
    want = math.log(math.exp(12.0) / 12 + math.exp(13.0) / 30)
    assert second.log_e_q32 / Q32 == pytest.approx(want)
    assert sum(1 / (s * (s + 1)) for s in range(1, 10_000)) < 1


def test_overlapping_rounds_are_believed_once():
    joint = JointEvidence(0)
    stated = [joint.add(findings(s, bond(log_bf=b)), 0)[0].log_bf_q32 / Q32 for s, b in ((1, 5.0), (2, 9.0), (3, 7.0))]
    assert stated == [5.0, 4.0, 0.0]
    (far,) = joint.add(findings(4, bond(log_e=1e4, log_bf=1e4)), 0)
    assert far.log_e_q32 == CLIP_NATS * Q32
    assert far.log_bf_q32 / Q32 == CLIP_NATS - 9.0


def test_what_the_journal_holds_is_not_stated_twice_but_counted():
    before, after = JointEvidence(1), JointEvidence(1)
    stated = [*before.add(findings(1, bond("a"), bond("b")), 0), *before.add(findings(2, bond("a")), 0)]
    for item in stated[:-1]:  # the last statement was lost in the crash
        after.recover(item.agent_id, item.last_seq)
    assert after.add(findings(1, bond("a"), bond("b")), 9) == ()
    (again,) = after.add(findings(2, bond("a")), 9)
    assert msgspec.structs.replace(again, observed_ms=0) == stated[-1]


def test_words_name_the_group_the_delay_and_the_correlation():
    text = described(bond())
    assert text == (
        "moves with a group of 3 in its activity, 2 windows behind its first, correlation 0.81 with b; nothing above "
        "them explains it and they did not before; members: b, c"
    )
    assert "correlation 0.81 (0.77 ± 0.021 certified) with b" in described(bond(certified=(0.771, 0.0213)))
    assert "1 window behind" in described(bond(lag=1))
    assert "level with its first" in described(bond(lag=0))
    assert described(bond(size=30)).endswith("members: b, c and 27 more")


def test_hostile_names_fit_the_wire():
    names = tuple(f"{k}" + "\U0001d54f" * 255 for k in range(8))
    item = JointEvidence(0).add(findings(1, bond(names[0][:64], members=names, partner=names[1], size=999)), 0)[0]
    assert decode_evidence(encode_evidence(item)) == item


def test_an_explanation_puts_the_stronger_first():
    alone = Explanation(
        agent_id="a", why="It did x.", probability=0.5, reasons=(Reason("tool", 9 * Q32),), peers="p", would_change="w"
    )
    joint = JointEvidence(0)
    assert joint.explained(alone) == alone
    joint.add(findings(1, bond(log_bf=4.0)), 0)
    told = joint.explained(alone)
    assert (told.why, [r.feature for r in told.reasons]) == ("It did x.", [FEATURE, "tool"])
    assert told.probability == pytest.approx(1 / (1 + math.exp(-4.0)))
    joint.add(findings(2, bond(log_bf=30.0)), 0)
    assert joint.explained(alone).why.startswith("It moves with a group of 3")
    sure = msgspec.structs.replace(alone, probability=1.0)
    assert joint.explained(sure).probability == pytest.approx(1.0)


# --- rounds


def snapshot(number: int, seed: int, group=(), *, judged: bool = True, live=None, kind: int = 0) -> Snapshot:
    rng = np.random.default_rng(seed)
    series = np.zeros((3, N, T), np.float32)
    series[kind] = rng.normal(size=(N, T)) + 0.8 * rng.normal(size=T)
    beat = rng.normal(size=T)
    for k in group:
        series[kind, k] += 3.0 * beat
    names = tuple(f"agent-{k}" for k in range(N))
    flags = np.full(N, judged) if live is None else live
    return Snapshot(number, number * T, np.arange(N), names, series, flags, ~flags)


def members(outcome) -> set[int]:
    return {int(one.agent_id.partition("-")[2]) for one in outcome.findings.bonds}


def test_a_group_that_forms_is_found_and_one_that_always_was_is_excused():
    rounds = Rounds(T, b"secret")
    assert members(rounds.screen(snapshot(1, 1), REGIONS, ZONES)) == set()
    second = rounds.screen(snapshot(2, 2, GROUP), REGIONS, ZONES)
    assert members(second) == set(GROUP)
    assert {(one.series, one.size) for one in second.findings.bonds} == {("activity", 4)}
    assert second.excused == 0
    always = Rounds(T, b"secret")
    always.screen(snapshot(1, 1, GROUP), REGIONS, ZONES)
    excused = always.screen(snapshot(2, 2, GROUP), REGIONS, ZONES)
    assert members(excused) == set()
    assert excused.excused == 6


def test_e_values_are_averaged_over_the_series():
    rounds = Rounds(T, b"secret")
    rounds.screen(snapshot(1, 1), REGIONS, ZONES)
    one = rounds.screen(snapshot(2, 2, GROUP), REGIONS, ZONES).findings.bonds[0]
    assert one.log_bf == pytest.approx(one.log_e - math.log(0.01) + math.log(3), rel=0.15)


def test_the_last_round_before_an_agent_is_judged_is_the_one_it_is_compared_with():
    rounds = Rounds(T, b"secret")
    rounds.screen(snapshot(1, 1, judged=False), REGIONS, ZONES)
    rounds.screen(snapshot(2, 2, GROUP, judged=False), REGIONS, ZONES)  # a habit they took up while being learnt
    third = rounds.screen(snapshot(3, 3, GROUP), REGIONS, ZONES)
    assert (members(third), third.excused) == (set(), 6)


def test_pairs_of_which_one_came_later_are_learnt_as_pairs():
    rounds = Rounds(T, b"secret")
    late = np.arange(N) != GROUP[0]

    def part(one: Snapshot) -> tuple[Snapshot, list[str]]:
        names = tuple(np.array(one.names)[late].tolist())
        cut = Snapshot(
            one.number, one.end, one.agents[late], names, one.series[:, late], one.judged[late], one.baseline[late]
        )
        return cut, [region for region, keep in zip(REGIONS, late, strict=True) if keep]

    first, regions = part(snapshot(1, 1))
    rounds.screen(first, regions, ZONES)
    joining = (GROUP[0], 50)
    assert members(rounds.screen(snapshot(2, 2, joining), REGIONS, ZONES)) == set()  # 50 is old, the other is new
    third = rounds.screen(snapshot(3, 3, joining), REGIONS, ZONES)
    assert (members(third), third.excused) == (set(), 1)
    # A group that the newcomer was not part of when it was learnt is news all the same.
    assert members(rounds.screen(snapshot(4, 4, GROUP), REGIONS, ZONES)) == set(GROUP)


def test_only_partners_that_move_at_the_same_time_are_certified():
    rounds = Rounds(T, b"secret")
    rounds.screen(snapshot(1, 1), REGIONS, ZONES)
    level, (ahead, behind) = (3, 40), (77, 110)
    second = snapshot(2, 2, level)
    beat = 2.0 * np.random.default_rng(0).normal(size=T + 2)
    second.series[0, ahead] += beat[2:]
    second.series[0, behind] += beat[:-2]
    bonds = {int(one.agent_id.partition("-")[2]): one for one in rounds.screen(second, REGIONS, ZONES).findings.bonds}
    assert {agent: one.lag for agent, one in bonds.items()} == {3: 0, 40: 0, ahead: 0, behind: 2}
    assert {agent for agent, one in bonds.items() if one.certified is None} == {ahead, behind}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fleets_without_a_group_give_nothing(seed: int):
    rounds = Rounds(T, b"secret")
    for number in range(1, 5):
        outcome = rounds.screen(snapshot(number, 100 * seed + number), REGIONS, ZONES)
        assert not outcome.findings.bonds
    assert not outcome.refused
    assert set(outcome.maps) == {"activity"}  # the other series do not vary


def test_few_agents_or_silent_ones_are_not_screened():
    rounds = Rounds(T, b"secret")
    few = snapshot(1, 1)
    few = Snapshot(
        1, T, few.agents[:10], few.names[:10], few.series[:, :10], few.judged[:10], few.baseline[:10]
    )  # fmt: skip
    assert LEAST_AGENTS > 10
    assert rounds.screen(few, REGIONS[:10], ZONES).maps == {}
    still = snapshot(1, 1)
    still.series[:] = 1.0
    assert rounds.screen(still, REGIONS, ZONES).maps == {}


def test_correlations_of_a_round_are_certified():
    series = innovations(np.random.default_rng(0).normal(size=(N, T)))
    found = correlate(series, [f"agent-{k}" for k in range(N)], REGIONS, ZONES, 5, b"secret")
    at = [found.map.agents.index(f"agent-{k}") for k in range(N)]
    block = found.map.block(slice(0, N), slice(0, N))
    z = series - series.mean(axis=1, keepdims=True)
    truth = z @ z.T / np.outer(np.linalg.norm(z, axis=1), np.linalg.norm(z, axis=1))
    assert (np.abs(block.estimate[np.ix_(at, at)] - truth) <= block.half_width[np.ix_(at, at)] + 1e-6).all()
    assert found.largest_packet < 1000
    assert not found.refused


def test_who_screens_knows_the_series_from_what_was_stated():
    series = innovations(np.random.default_rng(0).normal(size=(N, T)))
    names = [f"agent-{k}" for k in range(N)]
    found = correlate(series, names, REGIONS, ZONES, 5, b"secret")
    heard = found.map.series()[[found.map.agents.index(name) for name in names]]
    assert np.square(heard - unit_rows(series)).sum(axis=1).max() < 0.005
    crossed = sum(28 + len(name) + 2 * found.map.basis.q.shape[0] + 6 * T // 8 for name in names)
    regions = len(set(REGIONS))
    assert found.bytes_sent > crossed + regions * (32 + 32 + 2 * found.map.basis.q.size)


def test_sketches_are_drawn_anew_in_every_round_and_the_same_on_replay():
    series = innovations(np.random.default_rng(0).normal(size=(N, T)))
    names = [f"agent-{k}" for k in range(N)]
    one, again, later, elsewhere = (
        correlate(series, names, REGIONS, ZONES, window, secret).sketches
        for window, secret in ((5, b"secret"), (5, b"secret"), (6, b"secret"), (5, b"another"))
    )
    assert (one == again).all()
    for other in (later, elsewhere):
        apart = np.unpackbits((one ^ other).view(np.uint8)).mean()
        assert 0.45 < apart < 0.55


def test_a_round_takes_agents_of_any_name():
    names = [f"{k}" + ("ü" * k) + ("n" * (2 * k)) for k in range(N)]
    found = correlate(innovations(np.random.default_rng(0).normal(size=(N, T))), names, REGIONS, ZONES, 5, b"secret")
    assert len(set(found.map.agents)) == N
    assert all(len(stated_name(name).encode()) <= MAX_NAME for name in [*names, "", "\ud800"])
