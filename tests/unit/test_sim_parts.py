"""The parts of the simulator, each by itself: a simulator that is wrong proves nothing."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import InputError
from tocsin.model.evidence import Q32, Evidence, EvidenceBatch
from tocsin.sim.campaign import minimal
from tocsin.sim.central import Central, differs
from tocsin.sim.disk import Disk
from tocsin.sim.faults import HEAL_NS, KINDS, LIES, ROLES, Fault, Schedule, draw
from tocsin.sim.network import Network
from tocsin.sim.shape import shape_of
from tocsin.sim.signatures import REAL_EVERY, signatures_of
from tocsin.sim.timeline import MILLISECOND_NS, Streams, Timeline
from tocsin.trust import bls
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.signing import TIMEOUT, VOTE, domain_hash, verify


def test_a_stream_is_a_function_of_seed_and_component():
    first, second = Streams(1), Streams(1)
    expected = [first.of("link", 0, 1).random() for _ in range(3)]
    second.of("link", 1, 0).random()  # what others draw changes nothing
    assert [second.of("link", 0, 1).random() for _ in range(3)] == expected
    assert Streams(2).of("link", 0, 1).random() != expected[0]


def test_things_happen_in_order_of_time_then_of_planning():
    timeline, seen = Timeline(), list[str]()
    timeline.at(5, seen.append, "b")
    timeline.at(5, seen.append, "c")
    timeline.at(1, seen.append, "a")
    while timeline.advance():
        pass
    assert seen == ["a", "b", "c"]
    assert (timeline.now_ns, timeline.steps) == (5, 3)
    timeline.at(2, seen.append, "late")
    timeline.advance()
    assert timeline.now_ns == 5


@given(st.integers(0, 200), st.sampled_from([1, 3, 4, 7, 10, 31]))
def test_a_schedule_keeps_within_what_is_tolerated(seed: int, monitors: int):
    schedule = draw(seed, monitors)
    assert schedule == draw(seed, monitors)
    assert len(schedule.faulty) == len(set(schedule.faulty)) <= (monitors - 1) // 3
    assert set(schedule.faulty) <= set(range(monitors))
    for fault in schedule.faults:
        assert fault.kind in (*KINDS, *LIES, *ROLES)
        assert set(fault.who) <= set(range(monitors))
        if fault.kind in KINDS:
            assert 0 <= fault.start_ns <= fault.stop_ns <= HEAL_NS
        if fault.kind in ROLES:
            assert set(fault.who) <= set(schedule.faulty)


def test_every_kind_of_fault_is_drawn_and_none_always():
    drawn = [{fault.kind for fault in draw(seed, 4).faults} for seed in range(400)]
    for kind in (*KINDS, *LIES, *ROLES):
        assert 0 < sum(kind in one for one in drawn) < len(drawn), kind


def test_a_schedule_without_some_faults_is_the_same_otherwise():
    schedule = draw(11, 4)
    kept = schedule.only([2, 0])
    assert kept.faults == (schedule.faults[0], schedule.faults[2])
    assert (kept.seed, kept.faulty) == (schedule.seed, schedule.faulty)
    assert schedule.only([]).faults == ()
    with pytest.raises(InputError):
        schedule.only([len(schedule.faults)])


def test_a_disk_keeps_what_was_synced_and_a_prefix_of_the_rest():
    survived: set[int] = set()
    for seed in range(50):
        disk = Disk()
        disk.append("a", b"1")
        assert disk.sync() == [("a", b"1")]
        disk.append("b", b"2")
        disk.append("c", b"3")
        disk.crash(Random(seed))
        assert disk.records == [("a", b"1"), ("b", b"2"), ("c", b"3")][: len(disk.records)]
        survived.add(len(disk.records))
        assert disk.sync() == []
    assert survived == {1, 2, 3}


def test_a_lying_disk_loses_what_it_said_was_synced():
    survived: set[int] = set()
    for seed in range(50):
        disk = Disk(lying=True)
        for kind in "abc":
            disk.append(kind, b"")
            assert [one for one, _ in disk.sync()] == [kind]
        disk.crash(Random(seed))
        survived.add(len(disk.records))
    assert survived == {0, 1, 2, 3}


def deliveries(*faults: Fault, when_ns: int = 0, messages: int = 400) -> list[tuple[int, int, int]]:
    """(time, source, target) of what arrives of `messages` from each of two seats to the other."""
    timeline = Timeline()
    arrived: list[tuple[int, int, int]] = []
    schedule = Schedule(0, 2, (), faults)
    network = Network(
        timeline,
        Streams(0),
        schedule,
        [(0, 0), (1, 0)],
        lambda source, target, _: arrived.append((timeline.now_ns, source, target)),
    )
    for _ in range(messages):
        network.send(0, 1, bytes(100), when_ns)
        network.send(1, 0, bytes(100), when_ns)
    while timeline.advance():
        pass
    return arrived


def test_a_sound_network_loses_nothing_but_order():
    arrived = deliveries()
    assert len(arrived) == 800
    assert len({when for when, _, _ in arrived}) > 700


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [
        (Fault("loss", amount=0.3), 480, 640),
        (Fault("duplicate", amount=0.3), 960, 1120),
        (Fault("partition", who=(0,)), 0, 0),
        (Fault("one way", who=(0,)), 400, 400),
        (Fault("loss", start_ns=1, amount=0.3), 800, 800),
        (Fault("narrow", who=(1,), amount=1.0), 800, 800),
    ],
)
def test_each_fault_of_the_network_does_what_it_says(fault: Fault, least: int, most: int):
    assert least <= len(deliveries(fault)) <= most


def test_a_one_way_partition_lets_answers_through():
    assert {source for _, source, _ in deliveries(Fault("one way", who=(0,)))} == {1}


def test_a_clogged_link_delivers_everything_when_it_opens():
    arrived = deliveries(Fault("clog", stop_ns=500 * MILLISECOND_NS, who=(0,)))
    assert len(arrived) == 800
    assert min(arrived)[0] >= 500 * MILLISECOND_NS


def test_a_narrow_link_sends_one_message_after_the_other():
    arrived = deliveries(Fault("narrow", amount=1e5), messages=100)  # 1 ms each
    assert max(when for when, source, _ in arrived if source == 0) >= 100 * MILLISECOND_NS


def test_a_link_that_is_narrow_for_others_is_not_for_these():
    arrived = deliveries(Fault("narrow", who=(2,), amount=1.0))
    assert max(arrived)[0] < 100 * MILLISECOND_NS


def test_after_healing_nothing_is_lost_or_late():
    arrived = deliveries(Fault("loss", stop_ns=1 << 62, amount=1.0), when_ns=HEAL_NS)
    assert len(arrived) == 800
    assert max(arrived)[0] <= HEAL_NS + 12 * MILLISECOND_NS


ALICE = deterministic_signers(b"alice", 1)[0]


@pytest.mark.parametrize("seed", [REAL_EVERY, REAL_EVERY + 1])
def test_a_signature_holds_for_what_was_signed_and_nothing_else_in_every_run(seed: int):
    bob = deterministic_signers(b"bob", 1)[0]
    with signatures_of(seed):
        signature = ALICE.sign(VOTE, b"yes")
        assert verify(ALICE.public_key, VOTE, b"yes", signature)
        assert not verify(bob.public_key, VOTE, b"yes", signature)
        assert not verify(ALICE.public_key, TIMEOUT, b"yes", signature)
        assert not verify(ALICE.public_key, VOTE, b"no", signature)
        assert not verify(ALICE.public_key, VOTE, b"yes", bytes((signature[0] ^ 1,)) + signature[1:])
        assert not verify(ALICE.public_key, VOTE, b"yes", signature[1:])


@pytest.mark.parametrize("seed", [REAL_EVERY, REAL_EVERY + 1])
def test_shares_add_up_for_their_signers_and_nobody_else_in_every_run(seed: int):
    signers = deterministic_signers(b"sum", 3)
    keys = [signer.bls.public_key for signer in signers]
    signed = domain_hash(VOTE, b"yes")
    with signatures_of(seed):
        shares = [signer.share(VOTE, b"yes") for signer in signers]
        total = bls.add_up(shares)
        assert total is not None
        assert all(bls.is_share(share) for share in shares)
        assert not bls.is_share(b"\x5a" * len(shares[0]))
        assert bls.holds(keys, signed, total)
        assert not bls.holds(keys[:2], signed, total)
        assert not bls.holds(keys, domain_hash(TIMEOUT, b"yes"), total)
        wrong = signers[1].share(VOTE, b"no")
        assert bls.bad_shares(list(zip(keys, [shares[0], wrong, shares[2]], strict=True)), signed) == {1}


def test_runs_come_in_every_shape():
    shapes = [shape_of(Streams(seed)) for seed in range(100)]
    for told in ("adds_up", "lean", "sifts"):
        assert 15 < sum(getattr(shape, told) for shape in shapes) < 65
    assert {shape.config.batches_ahead for shape in shapes} == {3, 256}
    assert {shape.config.leader_timeout_ns for shape in shapes} == {150 * MILLISECOND_NS, 500 * MILLISECOND_NS}


def test_one_seed_in_many_has_real_signatures_and_none_leaks_out():
    real = ALICE.sign(VOTE, b"yes")
    signed: list[bool] = []
    for seed in range(2 * REAL_EVERY):
        with signatures_of(seed):
            signed.append(ALICE.sign(VOTE, b"yes") == real)
    assert signed == [seed % REAL_EVERY == 0 for seed in range(2 * REAL_EVERY)]
    with signatures_of(1):
        forged = ALICE.sign(VOTE, b"yes")
    assert not verify(ALICE.public_key, VOTE, b"yes", forged)
    assert ALICE.sign(VOTE, b"yes") == real


def evidence_of(monitor: int, agent: str, first: int, last: int, nats: float) -> Evidence:
    return Evidence(
        monitor=monitor, agent_id=agent, first_seq=first, last_seq=last, log_e_q32=0, log_bf_q32=round(nats * Q32)
    )


def first_batch(monitor: int, said: list[float]) -> EvidenceBatch:
    """What `monitor` says first: so many nats about one agent's events, one after the other."""
    return EvidenceBatch(
        net="central",
        config_hash=b"",
        monitor=monitor,
        seq=0,
        prev_hash=b"",
        through_offset=0,
        items=tuple(evidence_of(monitor, "ada", i, i, nats) for i, nats in enumerate(said)),
    )


@given(st.lists(st.lists(st.integers(-160, 160), max_size=4), min_size=4, max_size=4))
def test_the_central_posterior_is_the_agreed_one(said: list[list[int]]):
    roster = roster_of("central", deterministic_signers(b"central", 4))
    fold, central = FleetPosterior(roster), Central(roster)
    batches = [first_batch(monitor, [value / 7 for value in values]) for monitor, values in enumerate(said)]
    fold.commit(fold.preview(batches).handle)
    touched = central.add([*batches, *batches])  # twice is once
    assert touched == ({"ada"} if any(said) else set())
    for name in touched:
        assert not differs(fold.entries[name].log_odds_q32, central.log_odds(name))
        assert differs(fold.entries[name].log_odds_q32 + 8, central.log_odds(name))


def test_whoever_lies_alone_does_not_move_the_central_posterior():
    roster = roster_of("central", deterministic_signers(b"central", 4))
    central = Central(roster)
    for monitor, nats in enumerate((3.5, 3.5, -60.0, 3.5)):
        central.add([first_batch(monitor, [nats])])
    assert central.log_odds("ada") == central.prior + 3.5


@given(st.sets(st.integers(0, 12), max_size=4))
def test_shrinking_finds_exactly_the_faults_it_takes(needed: set[int]):
    found = minimal(list(range(13)), lambda kept: needed <= set(kept))
    assert set(found) == needed
