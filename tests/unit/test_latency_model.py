"""The latency model adds up what it says: network, disk, processor, and the rules of a host's rounds."""

from __future__ import annotations

import random
import statistics

import pytest

from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.consensus.messages import (
    Certified,
    Decide,
    Prepared,
    Propose,
    Timeout,
    TimeoutCertificate,
    TimeoutVote,
    Tip,
    Vote,
    Votes,
)
from tocsin.sim.latency import Costs, Faults, LatencyModel, signatures_in
from tocsin.sim.links import Network, eight_regions, lan, loopback, wide

FREE = Costs(verify_ns=0, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
CONFIG = ConsensusConfig(proposal_delay_ns=20 * MILLISECOND_NS, view_timeout_ns=500 * MILLISECOND_NS)
STEADY = Network("steady", 10.0, jitter=0.0, bits_per_second=10**15)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """What is loaded on first use is not to be charged to a step."""
    LatencyModel(4, STEADY, FREE, config=CONFIG).agree([1])


def slowest_ms(costs: Costs, network: Network = STEADY, **more: object) -> float:
    return LatencyModel(4, network, costs, config=CONFIG, **more).agree([1]).certificate_ms[-1]


def test_six_messages_on_the_way_and_the_gathering_delay_when_all_else_is_free():
    # statement, proposal, vote, certificate, vote, decision: six times 10 ms, after the leader gathered for 20 ms
    assert 80 <= slowest_ms(FREE) < 110


def test_a_commit_is_paid_on_the_critical_path_five_times():
    slow = Costs(verify_ns=0, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=20 * MILLISECOND_NS)
    # own evidence, proposal, two votes, the decision; what the leader sends before its own vote does not wait
    assert slowest_ms(slow) - slowest_ms(FREE) == pytest.approx(100, abs=15)


def test_signatures_cost_once_a_process_and_batches_too():
    dear = Costs(verify_ns=20 * MILLISECOND_NS, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
    apart = slowest_ms(dear) - slowest_ms(FREE)
    # The proposal's; the two votes the leader waits for; the three of QC1; two more votes; the three of the decision.
    assert apart == pytest.approx(20 * (1 + 2 + 3 + 2 + 3), abs=15)
    assert slowest_ms(dear, together=True) - slowest_ms(FREE, together=True) < 15  # one process: charged by its steps


def test_messages_a_decision_are_six_a_monitor_and_bandwidth_is_shared():
    model = LatencyModel(7, STEADY, FREE, config=CONFIG)
    first = model.agree([1])
    assert first.messages == 6 * 6
    assert model.agree([2]).messages == 6 * 6
    narrow = Network("narrow", 10.0, jitter=0.0, bits_per_second=1_000_000)
    bits = first.message_bytes * 8 / 1e6 * 1e3
    slower = LatencyModel(7, narrow, FREE, config=CONFIG).agree([1]).certificate_ms[-1]
    # The leader's three broadcasts leave its one link one after the other, and are most of what is sent.
    assert first.certificate_ms[-1] + bits / 2 < slower < first.certificate_ms[-1] + bits


def test_silent_monitors_are_not_waited_for_and_a_silent_leader_costs_its_timeout():
    some = LatencyModel(7, STEADY, FREE, config=CONFIG, faults=Faults(silent=frozenset({5, 6}))).agree([1])
    assert len(some.certificate_ms) == 5
    assert some.certificate_ms[-1] < 110
    led = LatencyModel(7, STEADY, FREE, config=CONFIG, faults=Faults(silent=frozenset({0}))).agree([1])
    assert led.views == 2
    assert 500 < led.certificate_ms[-1] < 700


def test_a_certificate_of_signatures_seen_before_costs_nothing_again():
    dear = Costs(verify_ns=20 * MILLISECOND_NS, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
    model = LatencyModel(4, STEADY, dear, config=CONFIG, faults=Faults(silent=frozenset({0})))
    free = LatencyModel(4, STEADY, FREE, config=CONFIG, faults=Faults(silent=frozenset({0})))
    # Two timeouts of others, the new proposal's signature, then as without a view change. The three timeouts that
    # opened the view come again in the proposal: two are known, and one's own is checked.
    extra = model.agree([1]).certificate_ms[-1] - free.agree([1]).certificate_ms[-1]
    assert extra == pytest.approx(20 * (2 + 1 + 1 + 2 + 3 + 2 + 3), abs=15)


def test_garbled_votes_are_not_counted_and_save_no_time():
    dear = Costs(verify_ns=20 * MILLISECOND_NS, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
    honest = LatencyModel(7, STEADY, dear, config=CONFIG).agree([1])
    garbled = LatencyModel(7, STEADY, dear, config=CONFIG, faults=Faults(garbling=frozenset({1, 2}))).agree([1])
    assert garbled.views == 1
    # Votes that arrive together are checked in an order that real time decides: the garbled ones may come last.
    assert garbled.certificate_ms[-1] > honest.certificate_ms[-1] - 5.0
    assert len(garbled.certificate_ms) == 7


def test_every_signature_of_a_message_is_seen():
    votes = Votes(0, 0, "P", bytes(32), bytes(32), bytes(32), ((0, b"a" * 64), (1, b"b" * 64)))
    certified = Certified(votes, (Tip(-1, bytes(32)),))
    opened = TimeoutCertificate(0, 0, (TimeoutVote(0, -1, b"c" * 64),), certified)
    a, b, c, d = (letter * 64 for letter in (b"a", b"b", b"c", b"d"))
    assert list(signatures_in(Vote(0, 0, "P", bytes(32), bytes(32), d))) == [d]
    assert list(signatures_in(Prepared(certified))) == list(signatures_in(Decide(certified))) == [a, b]
    assert list(signatures_in(Propose(0, 1, (), bytes(32), opened, d))) == [d, c, a, b]
    assert list(signatures_in(Timeout(0, 1, 0, certified, opened, d))) == [d, c, a, b, a, b]


def test_networks_are_as_they_say():
    rng = random.Random(1)
    assert 0.45e6 <= lan().latency_ns(1, 2, rng) <= 0.55e6
    assert loopback(0.03).latency_ns(1, 2, rng) < 0.04e6
    regions = eight_regions()
    assert regions.latency_ns(1, 9, rng) < 1.1e6 < 7e6 < regions.latency_ns(1, 2, rng)
    assert regions.latency_ns(1, 2, rng) == pytest.approx(regions.latency_ns(10, 9, rng), rel=0.07)
    far = wide()
    times = sorted(far.latency_ns(a, b, rng) / 1e6 for a in range(40) for b in range(a))
    assert statistics.median(times) == pytest.approx(40, abs=4)
    assert times[len(times) // 20] == pytest.approx(20, abs=3)
    assert times[-len(times) // 20] == pytest.approx(80, abs=12)
