"""Large fleets: votes and timeouts that add up, garbage among them, and cuts told by what they add."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tocsin.cli.app import app
from tocsin.consensus import lean, outbox, sums, view_change
from tocsin.consensus.certificate import verdict_id, verify_certificate, verify_verdict
from tocsin.consensus.cut import empty_cut
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.consensus.messages import (
    ENVELOPE,
    Certified,
    Decide,
    Lean,
    Prepared,
    Propose,
    Step,
    Sum,
    Timeout,
    TimeoutCertificate,
    TimeoutSum,
    Tip,
    Vote,
    Votes,
)
from tocsin.consensus.quorum import certificate_of, sign_vote, statement_of, vote_holds, votes_hold
from tocsin.errors import ConfigError, VerificationError, WireError
from tocsin.model.posterior import Decision
from tocsin.model.steps import Received
from tocsin.model.verdict import PosteriorEntry, QuorumCertificate, Roster, Verdict
from tocsin.sim.latency import Costs, Faults, LatencyModel
from tocsin.sim.links import Network
from tocsin.stats.logodds import logistic
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.keyring import (
    check_roster,
    deterministic_signers,
    roster_from_dict,
    roster_hash,
    roster_of,
    roster_to_dict,
)
from tocsin.trust.signing import VOTE
from tocsin.wire.certificate import decode_certificate, encode_certificate

SIGNERS = deterministic_signers(b"sums", 4)
ROSTER = roster_of("sums", SIGNERS, adds_up=True)
PLAIN = roster_of("sums", SIGNERS)
FREE = Costs(verify_ns=0, open_ns=0, send_ns=0, receive_ns=0, byte_ns=0.0, commit_ns=0)
STEADY = Network("steady", 1.0, jitter=0.0, bits_per_second=10**15)
CONFIG = ConsensusConfig(leader_timeout_ns=60 * MILLISECOND_NS)
HASH = bytes(range(32))
replace: Callable[..., Any] = msgspec.structs.replace


def model(faults: Faults | None = None, n: int = 4, config: ConsensusConfig = CONFIG) -> LatencyModel:
    return LatencyModel(n, STEADY, FREE, config=config, faults=faults, adds_up=True)


def ballot(phase: Any = "C", signers: tuple[int, ...] = (0, 1, 3), roster: Roster = ROSTER) -> Votes:
    """A certificate of `signers` about nothing in particular."""
    votes = Votes(3, 0, phase, HASH, HASH, HASH, ())
    statement = statement_of(roster, votes)
    shares = {i: sign_vote(SIGNERS[i], statement, adds_up=True) for i in signers}
    return replace(votes, total=sums.sum_of(roster, shares))


# --- rosters


def test_a_roster_with_bls_keys_goes_through_its_file_and_has_another_hash():
    assert roster_from_dict(roster_to_dict(ROSTER)) == ROSTER
    assert ROSTER.adds_up
    assert not PLAIN.adds_up
    assert set(roster_to_dict(PLAIN)) == {"net", "keys", "alpha_ppm", "prior_ppm"}
    other = replace(ROSTER, bls_proofs=ROSTER.bls_proofs[::-1])
    assert (
        len({roster_hash(one) for one in (ROSTER, PLAIN, other, replace(ROSTER, bls_keys=ROSTER.bls_keys[::-1]))}) == 4
    )


@pytest.mark.parametrize(
    "change",
    [
        {"bls_proofs": ()},
        {"bls_keys": ()},
        {"bls_keys": ROSTER.bls_keys[:3], "bls_proofs": ROSTER.bls_proofs[:3]},
        {"bls_keys": ROSTER.bls_keys[::-1]},
        {"bls_proofs": ROSTER.bls_proofs[::-1]},
        {"bls_keys": (ROSTER.bls_keys[0],) * 4, "bls_proofs": (ROSTER.bls_proofs[0],) * 4},
        {"bls_keys": (b"\xc0" + bytes(47), *ROSTER.bls_keys[1:])},
        {"bls_keys": (b"", *ROSTER.bls_keys[1:])},
    ],
)
def test_a_roster_without_a_proof_for_every_key_is_refused(change: dict[str, Any]):
    with pytest.raises(ConfigError):
        check_roster(replace(ROSTER, **change))


# --- certificates


def test_a_sum_of_a_quorum_is_a_certificate_under_its_roster_alone():
    votes = ballot()
    assert votes_hold(ROSTER, votes)
    verify_certificate(certificate_of(ROSTER, votes), ROSTER)
    assert certificate_of(ROSTER, votes).monitors == (0, 1, 3)
    assert not votes_hold(PLAIN, votes)
    with pytest.raises(VerificationError):
        verify_certificate(certificate_of(ROSTER, votes), PLAIN)
    assert votes_hold(ROSTER, ENVELOPE.decode(ENVELOPE.encode(Decide(Certified(votes, ())))).certified.votes)


def listed() -> Votes:
    """One Ed25519 signature each, under the roster that has BLS keys."""
    votes = ballot()
    statement = statement_of(ROSTER, votes)
    return replace(votes, total=None, signatures=tuple((i, sign_vote(SIGNERS[i], statement)) for i in range(3)))


def another(votes: Votes, **change: Any) -> Votes:
    return replace(votes, total=replace(votes.total, **change))


@pytest.mark.parametrize(
    "votes",
    [
        ballot(signers=(0, 1)),
        another(ballot(), signers=bytes([0b0111])),
        another(ballot(), signers=bytes([0b1111])),
        another(ballot(signers=(0, 1)), signers=bytes([0b1011])),
        another(ballot(), signers=bytes([0b11011])),
        another(ballot(), signers=bytes([0b1011, 0])),
        another(ballot(), signers=b""),
        another(ballot(), signature=bytes(96)),
        another(ballot(), signature=b"\xc0" + bytes(95)),
        replace(ballot(), view=1),
        replace(ballot(), phase="P"),
        replace(ballot(), total=None),
        replace(ballot(), signatures=((0, bytes(64)),)),
        listed(),
    ],
)
def test_anything_less_than_the_sum_of_a_quorum_does_not_hold(votes: Votes):
    assert not votes_hold(ROSTER, votes)
    with pytest.raises(VerificationError):
        verify_certificate(certificate_of(ROSTER, votes), ROSTER)


@pytest.mark.parametrize("signers", [(1, 0, 3), (0, 0, 1, 3), (0, 1, 4), (-1, 0, 1, 3)])
def test_a_certificate_names_its_signers_once_and_in_order(signers: tuple[int, ...]):
    good = certificate_of(ROSTER, ballot())
    with pytest.raises(VerificationError):
        verify_certificate(replace(good, signers=signers), ROSTER)


def test_a_share_holds_for_its_monitor_only():
    statement = statement_of(ROSTER, ballot())
    share = sign_vote(SIGNERS[1], statement, adds_up=True)
    assert vote_holds(ROSTER, 1, statement, share)
    assert not vote_holds(ROSTER, 2, statement, share)
    assert not vote_holds(ROSTER, 4, statement, share)
    assert not vote_holds(ROSTER, 1, replace(statement, phase="P"), share)
    assert not vote_holds(ROSTER, 1, statement, sign_vote(SIGNERS[1], statement))


@given(st.sets(st.integers(0, 40)))
def test_a_bitmap_is_a_set(monitors: set[int]):
    assert sums.members(sums.bitmap_of(monitors, 41), 41) == tuple(sorted(monitors))


def test_what_is_no_bitmap_of_the_fleet_names_nobody():
    assert sums.members(b"\x10", 4) is None
    assert sums.members(b"\x01\x00", 4) is None
    assert sums.members(b"", 4) is None
    assert sums.members(b"\x00", 4) == ()


# --- replicas


def last_decision(one: LatencyModel) -> Decision:
    assert one.decision is not None
    return one.decision


def verdict_of(certificate: QuorumCertificate, entry: PosteriorEntry, decision: Decision) -> Verdict:
    index, path = decision.proofs[0]
    return Verdict(
        verdict_id=verdict_id(certificate.statement.net, decision.epoch, entry.agent_id),
        agent_id=entry.agent_id,
        decision="compromised" if entry.flagged else "cleared",
        confidence=0.0,
        entry=entry,
        epoch=decision.epoch,
        decided_ms=1,
        certificate=certificate,
        proof=path,
        proof_index=index,
    )


def test_replicas_decide_with_one_signature_for_all():
    one = model()
    for k in range(3):
        assert one.agree([k]).views == 1
        certificate = last_decision(one).certificate
        assert not certificate.signatures
        assert len(certificate.monitors) == 3
        verify_certificate(certificate, one.roster)


@pytest.mark.parametrize(("n", "garbling"), [(4, {2}), (7, {2, 5}), (10, {2, 4, 7})])
def test_garbage_shares_are_found_and_the_rest_decide(n: int, garbling: set[int]):
    one = model(Faults(garbling=frozenset(garbling)), n)
    for k in range(2):
        outcome = one.agree([k])
        assert outcome.views == 1
        assert not set(last_decision(one).certificate.monitors) & garbling
    found = [one.replicas[k]._doubted for k in range(2)]
    assert all(some <= garbling for some in found)
    assert any(found)


def test_a_silent_leader_is_given_up_and_timeouts_add_up():
    one = model(Faults(silent=frozenset({0})), 7)
    outcome = one.agree([1])
    assert outcome.views == 2
    assert outcome.certificate_ms[-1] < 200  # not the 500 ms of a leader that proposed and then fell silent
    assert outcome.messages < 8 * 7  # timeouts went to one monitor, not from all to all
    verify_certificate(last_decision(one).certificate, one.roster)


def test_two_silent_leaders_in_a_row_are_passed():
    one = model(Faults(silent=frozenset({0, 1})), 7)
    assert one.agree([2]).views == 3


def given_up(high_views: dict[int, int], junk: tuple[int, ...] = ()) -> dict[int, Timeout]:
    made: dict[int, Timeout] = {}
    for i, high_view in high_views.items():
        high = None if high_view < 0 else Certified(replace(ballot("P"), view=high_view), empty_cut(4))
        timeout = view_change.make_timeout(ROSTER, SIGNERS[i], 3, 5, high, None)
        made[i] = replace(timeout, signature=SIGNERS[i].share(VOTE, b"junk")) if i in junk else timeout
    return made


def test_timeouts_add_up_by_what_they_had_seen():
    opened = view_change.sum_of_timeouts(ROSTER, given_up({0: -1, 1: -1, 3: -1}))
    assert opened is not None
    assert view_change.timeouts_hold(ROSTER, opened, 3, 5, HASH)
    assert not view_change.timeouts_hold(ROSTER, opened, 3, 6, HASH)
    assert not view_change.timeouts_hold(PLAIN, opened, 3, 5, HASH)
    # Of those below one had seen view 2: the certificate must carry that lock, and says so by the sum over its number.
    locked = view_change.sum_of_timeouts(ROSTER, given_up({0: -1, 1: 2, 3: -1}))
    assert locked is not None
    assert [one.high_view for one in locked.sums] == [-1, 2]
    assert not view_change.timeouts_hold(ROSTER, replace(locked, high=None), 3, 5, HASH)


def stripped(opened: TimeoutCertificate, **change: Any) -> TimeoutCertificate:
    return replace(opened, sums=(replace(opened.sums[0], **change),))


def test_a_timeout_certificate_of_less_than_a_quorum_opens_nothing():
    full = view_change.sum_of_timeouts(ROSTER, given_up({0: -1, 1: -1, 3: -1}))
    few = view_change.sum_of_timeouts(ROSTER, given_up({0: -1, 1: -1}))
    assert full is not None
    assert few is not None
    one = few.sums[0]
    bad = [
        few,
        replace(few, sums=(one, one)),
        replace(few, sums=()),
        replace(full, votes=view_change.certificate_of_timeouts(given_up({0: -1})).votes),
        stripped(full, high_view=0),
        stripped(full, total=Sum(bytes([0b1111]), full.sums[0].total.signature)),
        replace(full, sums=(*full.sums, TimeoutSum(-1, Sum(b"\0", bytes(96))))),
    ]
    for certificate in bad:
        assert not view_change.timeouts_hold(ROSTER, certificate, 3, 5, HASH)


def test_garbage_timeouts_are_dropped_and_the_rest_add_up():
    timeouts = given_up({0: -1, 1: -1, 2: -1, 3: -1}, junk=(2,))
    sound = view_change.without_spoilers(ROSTER, timeouts)
    assert set(sound) == {0, 1, 3}
    opened = view_change.sum_of_timeouts(ROSTER, sound)
    assert opened is not None
    assert view_change.timeouts_hold(ROSTER, opened, 3, 5, HASH)


# --- files


def test_a_verdict_with_a_sum_survives_its_file_and_names_its_scheme():
    one = LatencyModel(4, STEADY, FREE, config=CONFIG, adds_up=True, nats=30)
    one.agree(range(4))
    decision = last_decision(one)
    entry = decision.changed[0]
    verdict = verdict_of(decision.certificate, entry, decision)
    verdict = replace(verdict, confidence=logistic(entry.log_odds_q32))
    body = encode_certificate(verdict, one.roster)
    assert b'"scheme": "bls12-381"' in body
    read, roster = decode_certificate(body)
    assert (read.certificate, roster) == (decision.certificate, one.roster)
    verify_verdict(read, roster, pinned_roster_hash=roster_hash(one.roster))
    for wrong in (
        body.replace(b'"scheme": "bls12-381"', b'"scheme": "ed25519"'),
        body.replace(b'"scheme": "bls12-381",', b""),
        body.replace(b'"aggregate": "', b'"aggregate": "00'),
    ):
        assert wrong != body
        with pytest.raises(WireError):
            decode_certificate(wrong)
    with pytest.raises(VerificationError):
        verify_verdict(replace(read, certificate=replace(read.certificate, aggregate=b"")), roster)


def test_a_file_with_a_sum_is_verified_on_the_command_line(tmp_path: Path):
    one = LatencyModel(4, STEADY, FREE, config=CONFIG, adds_up=True, nats=30)
    one.agree(range(4))
    decision = last_decision(one)
    verdict = verdict_of(decision.certificate, decision.changed[0], decision)
    verdict = replace(verdict, confidence=logistic(verdict.entry.log_odds_q32))
    file, pinned, another_roster = tmp_path / "one.cert.json", tmp_path / "roster.json", tmp_path / "other.json"
    file.write_bytes(encode_certificate(verdict, one.roster))
    pinned.write_text(json.dumps(roster_to_dict(one.roster)))
    another_roster.write_text(json.dumps(roster_to_dict(replace(one.roster, bls_keys=(), bls_proofs=()))))
    told = CliRunner().invoke(app, ["verify", str(file), "--roster", str(pinned), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["scheme"] == "bls12-381"
    assert json.loads(told.stdout)["signers"] == list(decision.certificate.signers)
    refused = CliRunner().invoke(app, ["verify", str(file), "--roster", str(another_roster)])
    assert isinstance(refused.exception, VerificationError)
    body = json.loads(file.read_text())
    body["signers"] = [*body["signers"][:-1], 3 if body["signers"][-1] != 3 else 2]
    file.write_text(json.dumps(body))
    refused = CliRunner().invoke(app, ["verify", str(file), "--roster", str(pinned)])
    assert isinstance(refused.exception, VerificationError)


# --- lean messages

N = 5
TIPS = st.builds(Tip, st.integers(0, 9), st.binary(min_size=32, max_size=32))
CUTS = st.tuples(*[TIPS] * N)
VOTES = Votes(1, 0, "P", HASH, HASH, HASH, ((0, bytes(64)),))


def messages(base: Any, cut: Any) -> list[Any]:
    certified = Certified(VOTES, cut)
    opened = TimeoutCertificate(1, 0, (), certified)
    return [
        Propose(1, 0, cut, HASH, None, bytes(64)),
        Propose(1, 1, cut, HASH, opened, bytes(64)),
        Propose(1, 1, cut, HASH, replace(opened, high=None), bytes(64)),
        Prepared(certified),
        Decide(certified),
        Timeout(1, 1, 0, certified, opened, bytes(64)),
        Timeout(1, 1, -1, None, None, bytes(64)),
    ]


@given(CUTS, CUTS)
def test_what_is_taken_out_of_a_message_is_put_back(base: Any, cut: Any):
    for message in messages(base, cut):
        emptied = lean.Emptied(base)
        small = emptied.message(message)
        filled = lean.Filled(base, tuple(emptied.lean))
        assert filled.message(small) == message
        assert filled.sound


@given(CUTS, CUTS)
def test_steps_are_exactly_the_differences(base: Any, cut: Any):
    told = lean.steps(base, cut)
    assert [step.monitor for step in told] == [i for i in range(N) if base[i] != cut[i]]
    assert lean.stepped(base, told) == cut


@pytest.mark.parametrize("monitors", [(N,), (1, 1), (2, 1)])
def test_steps_of_strangers_or_out_of_order_make_no_cut(monitors: tuple[int, ...]):
    assert lean.stepped(empty_cut(N), tuple(Step(i, 0, HASH) for i in monitors)) is None


def test_cuts_that_do_not_fit_their_message_are_refused():
    base = empty_cut(N)
    told = (Step(0, 0, HASH),)
    full, empty = Propose(1, 0, base, HASH, None, bytes(64)), Propose(1, 0, (), HASH, None, bytes(64))
    for message, cuts in ((empty, ()), (empty, (told, told)), (full, (told,)), (empty, ((Step(N, 0, HASH),),))):
        filled = lean.Filled(base, cuts)
        filled.message(message)
        assert not filled.sound


def test_a_fleet_that_sends_lean_messages_decides_and_refuses_bad_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbox, "LEAN_FROM", 1)
    thick, thin = LatencyModel(31, STEADY, FREE, config=CONFIG), LatencyModel(31, STEADY, FREE, config=CONFIG)
    monkeypatch.setattr(outbox, "LEAN_FROM", 99)
    expected = [thick.agree([k]) for k in (1, 2)]
    monkeypatch.setattr(outbox, "LEAN_FROM", 1)
    got = [thin.agree([k]) for k in (1, 2)]
    assert [one.messages for one in got] == [one.messages for one in expected]
    # Three broadcasts of a cut of 31 tips, 35 bytes each, for two tips and the rest of a lean message.
    saved = [full.message_bytes - small.message_bytes for full, small in zip(expected, got, strict=True)]
    assert all(one > 3 * 30 * 31 * 25 for one in saved)
    replica = thin.replicas[3]
    inner = ENVELOPE.encode(Propose(2, 0, (), HASH, None, bytes(64)))
    for bad in (
        Lean(2, (), inner),
        Lean(1, ((),), inner),
        Lean(2, ((),), ENVELOPE.encode(Lean(2, ((),), inner))),
        Lean(2, ((),), ENVELOPE.encode(Vote(2, 0, "P", HASH, HASH, bytes(64)))),
        Lean(2, ((),), b""),
    ):
        effects = replica.step(0, Received(0, ENVELOPE.encode(bad)))
        assert [getattr(effect, "value", None) for effect in effects] == ["malformed message"]


def test_the_statement_that_a_share_signs_is_the_one_that_is_checked():
    votes = ballot()
    assert votes.total is not None
    signed = statement_bytes(statement_of(ROSTER, votes))
    assert sums.signers_of(ROSTER, votes.total, VOTE, signed) == (0, 1, 3)
    assert sums.signers_of(ROSTER, votes.total, b"tocsin/1 propose", signed) == ()
