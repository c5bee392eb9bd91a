"""The fleet posterior: against its definition in plain Python, under liars, and at 10,000 agents."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.fusion import (
    FleetPosterior,
    confidence_report,
    global_compromise_confidence,
    robust_log_e,
    trimmed_mean,
)
from tocsin.model.evidence import BEHAVIOUR, CLIP_Q32, COORDINATION, Q32, Evidence, EvidenceBatch
from tocsin.model.verdict import PosteriorEntry
from tocsin.stats.fixedpoint import ln_q32, log_mean_exp_q32
from tocsin.stats.logodds import log_odds_of_ppm
from tocsin.trust.canonical import entry_bytes
from tocsin.trust.keyring import deterministic_signers, roster_hash, roster_of
from tocsin.trust.merkle import node_hash, root, verify_proof
from tocsin.wire.evidence import attested_items, encode_batch, open_batch

SIGNERS = deterministic_signers(b"fusion", 4)
ROSTER = roster_of("fusion", SIGNERS)
N, F = ROSTER.n, ROSTER.f


def said(monitor: int, agent: str, window: int, log_e: int, log_bf: int, kind: int = BEHAVIOUR) -> Evidence:
    return Evidence(
        monitor=monitor,
        agent_id=agent,
        first_seq=window * 8,
        last_seq=window * 8 + 7,
        log_e_q32=log_e,
        log_bf_q32=log_bf,
        kind=kind,
    )


def batch(monitor: int, *items: Evidence, fleet_size: int = 0) -> EvidenceBatch:
    return EvidenceBatch(
        net="fusion",
        config_hash=roster_hash(ROSTER),
        monitor=monitor,
        seq=0,
        prev_hash=bytes(32),
        through_offset=0,
        items=items,
        fleet_size=fleet_size,
    )


def fold(posterior: FleetPosterior, *batches: EvidenceBatch) -> tuple[PosteriorEntry, ...]:
    return posterior.commit(posterior.preview(batches).handle).changed


def merged_from_the_definition(items: list[Evidence]) -> int:
    """e of behaviour (1 where nothing was said) plus e of coordination (0 where nothing was said)."""
    log_e = {i.kind: i.log_e_q32 for i in sorted(items, key=lambda i: i.last_seq)}
    if COORDINATION not in log_e:
        return log_e.get(BEHAVIOUR, 0)
    pair = (log_e.get(BEHAVIOUR, 0), log_e[COORDINATION])
    return max(-CLIP_Q32, min(CLIP_Q32, log_mean_exp_q32(pair) + ln_q32(2)))


def from_the_definition(items: list[Evidence], declared: list[int]) -> dict[str, PosteriorEntry]:
    """The dumb twin: everything from scratch, no increments, no sharing."""
    log_es, log_odds, last, spoke = {}, {}, {}, {}
    for agent in {item.agent_id for item in items}:
        about = [[i for i in items if i.agent_id == agent and i.monitor == m] for m in range(N)]
        sums = sorted(max(-CLIP_Q32, min(CLIP_Q32, sum(i.log_bf_q32 for i in one))) for one in about)
        latest = [merged_from_the_definition(one) for one in about]
        log_es[agent] = robust_log_e(latest, F)
        log_odds[agent] = log_odds_of_ppm(ROSTER.prior_ppm) + sum(sums[F : N - F]) // (N - 2 * F)
        acts = [[i for i in one if i.kind == BEHAVIOUR] for one in about]
        last[agent] = sorted((max((i.last_seq for i in one), default=-1) for one in acts), reverse=True)[F]
        spoke[agent] = sum(bool(one) for one in about)
    size = max(1, sum(count > F for count in spoke.values()), sorted(declared, reverse=True)[F])
    ordered = sorted((log_es[agent] for agent in log_es if spoke[agent] > F), reverse=True)
    k_star = max(
        (k for k, e in enumerate(ordered, 1) if e >= ln_q32(size * 1_000_000, ROSTER.alpha_ppm * k)), default=0
    )
    return {
        agent: PosteriorEntry(
            agent_id=agent,
            log_odds_q32=log_odds[agent],
            log_e_q32=log_e,
            last_seq=last[agent],
            flagged=k_star > 0 and log_e >= ordered[k_star - 1] and spoke[agent] > F,
            alpha_ppm=ROSTER.alpha_ppm,
            fleet_size=size,
        )
        for agent, log_e in log_es.items()
    }


@given(
    st.lists(
        st.tuples(
            st.integers(0, N - 1),
            st.sampled_from(["a", "b", "ç", "d"]),
            st.integers(-CLIP_Q32, CLIP_Q32),
            st.integers(-CLIP_Q32, CLIP_Q32),
            st.sampled_from([0, 0, 1, 7, 1000]),
            st.sampled_from([BEHAVIOUR, BEHAVIOUR, COORDINATION]),
        ),
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_folding_step_by_step_equals_the_definition(
    statements: list[tuple[int, str, int, int, int, int]], per_fold: int
) -> None:
    posterior = FleetPosterior(ROSTER)
    items: list[Evidence] = []
    batches: list[EvidenceBatch] = []
    declared = [0] * N
    for window, (monitor, agent, log_e, log_bf, size, kind) in enumerate(statements):
        items.append(said(monitor, agent, window, log_e, log_bf, kind))
        batches.append(batch(monitor, items[-1], fleet_size=size))
        declared[monitor] = size or declared[monitor]
    for start in range(0, len(batches), per_fold):
        fold(posterior, *batches[start : start + per_fold])
    expected = from_the_definition(items, declared)
    assert posterior.entries == expected
    entries_root = root(entry_bytes(expected[name]) for name in sorted(expected))
    assert posterior.root == node_hash(entries_root, root(posterior.folded().items(0, 1 + len(expected))))


def test_kinds_are_added_and_each_has_its_own_numbers() -> None:
    posterior = FleetPosterior(ROSTER)
    everyone = range(N)
    fold(posterior, *(batch(m, said(m, "a", 500, 2 * Q32, Q32)) for m in everyone))
    # Round 3 comes long "before" event 500 x 8: it is of another kind, so it counts all the same.
    fold(posterior, *(batch(m, said(m, "a", 3, 9 * Q32, 4 * Q32, COORDINATION)) for m in everyone))
    entry = posterior.entries["a"]
    assert entry.log_e_q32 / Q32 == pytest.approx(math.log(math.exp(2) + math.exp(9)), abs=1e-8)
    assert entry.log_odds_q32 == log_odds_of_ppm(ROSTER.prior_ppm) + 5 * Q32
    assert entry.last_seq == 500 * 8 + 7
    replayed = [batch(m, said(m, "a", 3, 30 * Q32, 4 * Q32, COORDINATION)) for m in everyone]
    fold(posterior, *replayed)
    assert posterior.entries["a"] == entry


def test_liars_who_allege_coordination_flag_nobody() -> None:
    posterior = FleetPosterior(ROSTER)
    fold(posterior, *(batch(m, said(m, "a", 0, 0, 0)) for m in range(N)))
    fold(posterior, *(batch(m, said(m, "a", 1, CLIP_Q32, CLIP_Q32, COORDINATION)) for m in range(F)))
    assert not posterior.entries["a"].flagged
    assert posterior.entries["a"].log_e_q32 == 0
    fold(posterior, *(batch(m, said(m, "a", 1, CLIP_Q32, CLIP_Q32, COORDINATION)) for m in range(F, F + 1)))
    assert posterior.entries["a"].flagged


def test_a_preview_changes_nothing_and_expires() -> None:
    posterior = FleetPosterior(ROSTER)
    empty = posterior.root
    one = posterior.preview([batch(m, said(m, "a", 0, 5, 5)) for m in range(N)])
    other = posterior.preview([batch(m, said(m, "a", 0, 6, 6)) for m in range(N)])
    assert posterior.root == empty
    assert one.root != other.root
    posterior.commit(one.handle)
    assert posterior.root == one.root
    with pytest.raises(ValueError, match="not of the current state"):
        posterior.commit(other.handle)


def test_newly_flagged_and_cleared_agents_come_with_proofs() -> None:
    posterior = FleetPosterior(ROSTER)
    high = [batch(m, said(m, "mallory", 0, 30 * Q32, 20 * Q32), said(m, "ada", 0, 0, -Q32)) for m in range(N)]
    preview = posterior.preview(high)
    result = posterior.commit(preview.handle)
    assert [(entry.agent_id, entry.flagged) for entry in result.changed] == [("mallory", True)]
    index, path = result.proofs[0]
    assert verify_proof(preview.root, entry_bytes(result.changed[0]), index, path)
    assert fold(posterior, *[batch(m, said(m, "ada", 1, 0, -Q32)) for m in range(N)]) == ()
    cleared = fold(posterior, *[batch(m, said(m, "mallory", 1, 0, -30 * Q32)) for m in range(N)])
    assert [(entry.agent_id, entry.flagged) for entry in cleared] == [("mallory", False)]


def test_one_liar_of_four_can_neither_frame_nor_hide() -> None:
    framed = FleetPosterior(ROSTER)
    lie = said(3, "ada", 0, CLIP_Q32, CLIP_Q32)
    assert fold(framed, *[batch(m, said(m, "ada", 0, 0, -Q32)) for m in range(3)], batch(3, lie)) == ()
    assert framed.entries["ada"].log_odds_q32 < log_odds_of_ppm(ROSTER.prior_ppm)
    hidden = FleetPosterior(ROSTER)
    truth = [batch(m, said(m, "mallory", 0, 30 * Q32, 20 * Q32)) for m in range(3)]
    result = hidden.commit(hidden.preview([*truth, batch(3, said(3, "mallory", 0, -CLIP_Q32, -CLIP_Q32))]).handle)
    assert [entry.agent_id for entry in result.changed] == ["mallory"]
    assert result.changed[0].log_odds_q32 == log_odds_of_ppm(ROSTER.prior_ppm) + 20 * Q32
    assert result.dissent == ((3,),)


def test_one_liar_cannot_inflate_the_fleet() -> None:
    posterior = FleetPosterior(ROSTER)
    invented = [said(3, f"ghost-{i}", 0, CLIP_Q32, CLIP_Q32) for i in range(50)]
    honest = [batch(m, said(m, "ada", 0, 0, 0), fleet_size=5) for m in range(3)]
    assert fold(posterior, *honest, batch(3, *invented, fleet_size=1 << 40)) == ()
    assert {entry.fleet_size for entry in posterior.entries.values()} == {5}


def test_a_window_stated_twice_counts_once() -> None:
    posterior = FleetPosterior(ROSTER)
    for _ in range(3):
        fold(posterior, *[batch(m, said(m, "ada", 0, Q32, Q32)) for m in range(N)])
    assert posterior.entries["ada"].log_odds_q32 == log_odds_of_ppm(ROSTER.prior_ppm) + Q32


def test_ten_thousand_agents_fold_incrementally_within_100_ms() -> None:
    posterior = FleetPosterior(ROSTER)
    names = [f"agent-{i:05}" for i in range(10_000)]
    fold(posterior, *[batch(m, *[said(m, name, 0, 0, 0) for name in names], fleet_size=10_000) for m in range(N)])
    seconds: list[float] = []
    for window in range(1, 8):
        news = [batch(m, *[said(m, name, window, -Q32, -Q32) for name in names[::20]]) for m in range(N)]
        started = time.process_time()
        preview = posterior.preview(news)
        seconds.append(time.process_time() - started)
        posterior.commit(preview.handle)
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_trimmed_mean_rounds_down() -> None:
    assert trimmed_mean([0, -1, -2, 100], 1) == -1
    assert trimmed_mean([5], 0) == 5


# --- one caller's own pile of evidence


def test_confidence_of_one_agent_is_the_logistic_of_the_sum() -> None:
    pile = [said(0, "ada", window, 0, 2 * Q32) for window in range(3)]
    nats = math.log(1 / 99) + 6
    assert global_compromise_confidence(pile) == pytest.approx(1 / (1 + math.exp(-nats)), rel=1e-9)
    assert global_compromise_confidence([]) == 0.0


def test_confidence_over_agents_is_that_of_at_least_one() -> None:
    alone = [global_compromise_confidence([said(0, name, 0, 0, bf * Q32)]) for name, bf in (("a", 3), ("b", 5))]
    both = global_compromise_confidence([said(0, "a", 0, 0, 3 * Q32), said(0, "b", 0, 0, 5 * Q32)])
    assert both == pytest.approx(1 - (1 - alone[0]) * (1 - alone[1]), rel=1e-12)


@given(st.permutations([said(m, a, w, 0, (m * 7 + w) * Q32 // 3) for m in range(4) for a in "ab" for w in range(2)]))
def test_confidence_does_not_depend_on_order_or_repetition(pile: list[Evidence]) -> None:
    assert global_compromise_confidence(pile + pile[:5]) == global_compromise_confidence(sorted(pile, key=repr))


def test_what_is_not_attested_is_dropped_and_counted() -> None:
    items = [said(m, "ada", 0, 0, 20 * Q32) for m in range(3)]
    attested = [attested_items(open_batch(encode_batch(batch(m, items[m]), SIGNERS[m]), ROSTER))[0] for m in range(3)]
    honest = confidence_report(attested, ROSTER)
    assert (honest.used, honest.dropped) == (3, {})
    assert honest.confidence > 0.99
    lies = [said(3, "ada", w, 0, CLIP_Q32) for w in range(9)]
    with_lies = confidence_report([*attested, *lies, attested[0]], ROSTER)
    assert with_lies.confidence == honest.confidence
    assert with_lies.dropped == {"not attested": 9, "duplicate": 1}


@pytest.mark.parametrize("ghosts", [400, 1250, 3000])
def test_agents_that_a_liar_invents_lower_nobodys_bar(ghosts: int) -> None:
    posterior = FleetPosterior(ROSTER)
    honest = [batch(m, *(said(m, f"real-{i}", 0, Q32 // 2, 0) for i in range(12)), fleet_size=12) for m in (0, 1, 2)]
    invented = batch(3, *(said(3, f"ghost-{i}", 0, 0, 0) for i in range(ghosts)), fleet_size=1)
    assert fold(posterior, *honest, invented) == ()
    assert not any(entry.flagged for entry in posterior.entries.values())
