"""Counting shares: one check where all hold, bisection where few do not, helpers where many do not."""

from __future__ import annotations

import random

import pytest

from tocsin.consensus import tally as counting
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.consensus.messages import ENVELOPE, Sift, Sifted
from tocsin.consensus.sums import bitmap_of, shares_hold, spoilers
from tocsin.consensus.tally import Question, Tally
from tocsin.model.steps import Received
from tocsin.model.verdict import Roster
from tocsin.sim.latency import Costs, Faults, LatencyModel
from tocsin.sim.links import Network
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.signing import VOTE

SIGNED = b"statement"
LARGE = 67
SIGNERS = deterministic_signers(b"tally", LARGE)
ROSTERS = {n: roster_of("tally", SIGNERS[:n], adds_up=True) for n in (4, 10, LARGE)}
SHARES = {i: signer.share(VOTE, SIGNED) for i, signer in enumerate(SIGNERS)}
JUNK = {i: signer.share(VOTE, b"junk") for i, signer in enumerate(SIGNERS)}
FREE = Costs(verify_ns=0, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
STEADY = Network("steady", 1.0, jitter=0.0, bits_per_second=10**15)


def cast(one: Tally, voters: list[int], liars: set[int]) -> list[Question]:
    """Everybody votes; what the tally asks meanwhile."""
    return [q for i in voters for q in one.add(i, JUNK[i] if i in liars else SHARES[i])]


def help_out(one: Tally, questions: list[Question], liars: set[int], roster: Roster) -> None:
    """Answers until nothing is asked any more: liars vouch for all but one share."""
    while questions:
        question = questions.pop(0)
        good = question.shares.keys() - spoilers(roster, question.shares, VOTE, SIGNED)
        if question.helper in liars:
            good = set(list(question.shares)[1:])
        questions.extend(one.answer(question.helper, set(good)))


def settled(one: Tally, roster: Roster, liars: set[int]) -> None:
    assert len(one.votes) >= roster.quorum
    assert not one.votes.keys() & liars
    assert shares_hold(roster, one.votes, VOTE, SIGNED)


@pytest.mark.parametrize("n", [4, 10, LARGE])
def test_where_all_are_honest_a_quorum_is_one_check_and_nobody_is_asked(n: int, monkeypatch: pytest.MonkeyPatch):
    checks: list[int] = []
    monkeypatch.setattr(counting.sums, "shares_hold", lambda *a: checks.append(len(a[1])) or shares_hold(*a))
    one = Tally(ROSTERS[n], 0, SIGNED)
    assert cast(one, list(range(n)), set()) == []
    assert checks == [ROSTERS[n].quorum]
    settled(one, ROSTERS[n], set())
    assert one.doubted == frozenset()


@pytest.mark.parametrize(("n", "liars"), [(4, {1}), (10, {0, 4, 9}), (LARGE, {5}), (LARGE, {1, 60})])
def test_a_few_liars_are_found_by_the_leader_itself(n: int, liars: set[int]):
    one = Tally(ROSTERS[n], 0, SIGNED)
    assert cast(one, list(range(n)), liars) == []
    settled(one, ROSTERS[n], liars)
    assert one.bad <= liars
    assert one.doubted == one.bad


@pytest.mark.parametrize("seed", range(4))
def test_a_third_of_liars_is_sifted_by_helpers_though_liars_help(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "GROUP", 9)  # so that three groups are more than a leader bisects
    roster, rng = ROSTERS[LARGE], random.Random(seed)
    liars = set(rng.sample(range(LARGE), roster.f))
    voters = rng.sample(range(LARGE), LARGE)
    one = Tally(roster, 0, SIGNED)
    questions = cast(one, voters, liars)
    assert questions
    assert 0 not in {question.helper for question in questions}
    assert len({question.helper for question in questions}) == len(questions)  # nobody is asked twice
    help_out(one, questions, liars, roster)
    settled(one, roster, liars)
    assert liars >= one.doubted
    # In the next phase the doubted are set aside: honest votes are enough, and are checked once.
    checks: list[int] = []
    monkeypatch.setattr(counting.sums, "shares_hold", lambda *a: checks.append(len(a[1])) or shares_hold(*a))
    again = Tally(roster, 0, SIGNED, one.doubted)
    cast(again, [i for i in voters if i not in liars] + sorted(liars), liars)
    settled(again, roster, liars)
    assert checks == [roster.quorum]


def test_an_honest_monitor_that_is_doubted_is_heard_when_the_others_are_too_few():
    one = Tally(ROSTERS[10], 0, SIGNED, frozenset({2, 3, 4}))
    cast(one, [2, 3, 4, 5, 6, 7, 8], {3})
    assert set(one.votes) == {2, 4}  # seven were there: the doubted were looked at
    cast(one, [9], {3})
    settled(one, ROSTERS[10], {3})


def test_claims_are_checked_and_lies_by_omission_cost_nothing_but_time():
    roster = ROSTERS[LARGE]
    one = Tally(roster, 0, SIGNED)
    one._spoiled = True
    questions = cast(one, list(range(counting.GROUP)), {4})
    helpers = [question.helper for question in questions]
    assert len(helpers) == counting.HELPERS
    group = set(range(counting.GROUP))
    for helper in helpers[:3]:
        one.answer(helper, group)  # a lie, three times
    one.answer(helpers[0], group - {4})  # not asked any more
    one.answer(1000, group - {4})  # nor was this one
    assert one.votes == {}
    for helper in helpers[3:6]:
        one.answer(helper, set())
    assert one.votes == {}
    one.answer(helpers[6], group - {4})  # the only honest one, and the last
    assert set(one.votes) == group - {4}


def test_who_votes_twice_counts_once_with_the_first():
    one = Tally(ROSTERS[4], 0, SIGNED)
    cast(one, [0, 0, 0, 1, 1], set())
    assert one.votes == {}
    assert one.add(0, JUNK[0]) == []
    cast(one, [2], set())
    settled(one, ROSTERS[4], set())


def test_a_fleet_with_a_third_of_liars_decides_in_one_view(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "GROUP", 9)
    config = ConsensusConfig(view_timeout_ns=10_000 * MILLISECOND_NS)
    liars = frozenset(range(5, LARGE, 3)) - {62, 65}
    one = LatencyModel(LARGE, STEADY, FREE, config=config, faults=Faults(garbling=liars), adds_up=True)
    first = one.agree([1])
    assert first.views == 1
    assert first.messages > 6 * LARGE  # helpers were asked
    assert one.decision is not None
    assert not set(one.decision.certificate.monitors) & liars


def test_questions_are_answered_to_the_leader_once_a_phase():
    one = LatencyModel(4, STEADY, FREE, adds_up=True)
    replica = one.replicas[2]
    shares = tuple((i, signer.share(VOTE, b"x")) for i, signer in enumerate(one._signers))
    sift = Sift(0, 0, "P", bytes(32), bytes(32), shares)

    def asked(source: int, question: Sift) -> list[object]:
        effects = replica.step(0, Received(source, ENVELOPE.encode(question)))
        return [ENVELOPE.decode(e.body) if hasattr(e, "body") else getattr(e, "value", None) for e in effects]

    assert asked(1, sift) == []  # not the leader
    assert asked(0, Sift(0, 0, "P", bytes(32), bytes(32), ((4, shares[0][1]),))) == ["a question out of turn"]
    assert asked(0, sift) == [Sifted(0, 0, "P", bitmap_of((), 4))]  # no vote for such a statement among them
    assert asked(0, sift) == ["a question out of turn"]
    assert asked(0, Sift(0, 1, "P", bytes(32), bytes(32), shares)) == []  # not in that view
    plain = LatencyModel(4, STEADY, FREE)
    (effect,) = plain.replicas[2].step(0, Received(0, ENVELOPE.encode(sift)))
    assert getattr(effect, "value", None) == "a question out of turn"
