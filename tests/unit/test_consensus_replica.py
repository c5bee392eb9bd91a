"""The agreement, message by message: the happy path, silence, forks, gaps, restarts, and verdicts that verify."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from replicas import ROSTER, SIGNERS, Cluster

from tocsin.consensus import journal
from tocsin.consensus.certificate import verdict_id, verify_certificate, verify_verdict
from tocsin.consensus.inputs import Start, SubmitEvidence
from tocsin.consensus.messages import (
    ENVELOPE,
    Certificates,
    Decide,
    EvidenceMessage,
    Fork,
    Prepared,
    Propose,
    Sync,
    Timeout,
    Vote,
)
from tocsin.consensus.quorum import certificate_of
from tocsin.consensus.replica import ConsensusConfig, Decision, Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.errors import InternalError, StorageCorrupt, VerificationError
from tocsin.model.evidence import Evidence
from tocsin.model.steps import Fired, Received, Send
from tocsin.model.verdict import Verdict
from tocsin.sim.broken import VotesForgotten
from tocsin.stats.logodds import logistic
from tocsin.trust.keyring import roster_hash
from tocsin.wire.certificate import decode_certificate, encode_certificate


def verdict_of(decision: Decision) -> Verdict:
    entry, (index, path) = decision.changed[0], decision.proofs[0]
    return Verdict(
        verdict_id=verdict_id(decision.certificate.statement.net, decision.epoch, entry.agent_id),
        agent_id=entry.agent_id,
        decision="compromised",
        confidence=logistic(entry.log_odds_q32),
        entry=entry,
        epoch=decision.epoch,
        decided_ms=1,
        certificate=decision.certificate,
        proof=path,
        proof_index=index,
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 10])
def test_all_monitors_decide_once_and_then_are_silent(n: int) -> None:
    cluster = Cluster(n)
    cluster.state()
    cluster.run()
    assert cluster.epochs() == [1] * n
    for i in range(n):
        (decision,) = cluster.decisions(i)
        assert [entry.agent_id for entry in decision.changed] == ["mallory"]
        assert len(decision.certificate.signatures) >= cluster.roster.quorum
    before = len(cluster.sent)
    cluster.run(100_000)
    assert len(cluster.sent) == before


def test_nothing_to_agree_on_means_no_messages() -> None:
    cluster = Cluster()
    cluster.run()
    assert [message for _, message in cluster.sent if not isinstance(message, Sync)] == []
    assert cluster.epochs() == [0] * 4


def test_a_decision_is_made_within_the_proposal_delay_and_five_hops() -> None:
    cluster = Cluster()
    cluster.state()
    cluster.run(20 + 6)
    assert cluster.epochs() == [1] * 4


@pytest.mark.parametrize("dead", [0, 1, 2, 3])
def test_one_silent_monitor_of_four_is_tolerated(dead: int) -> None:
    cluster = Cluster(dead=[dead])
    for window in range(6):
        cluster.state(window)
        cluster.run(3_000)
    assert {epoch for i, epoch in enumerate(cluster.epochs()) if i != dead} == {6}


def test_two_silent_monitors_of_four_stop_progress_but_not_safety() -> None:
    cluster = Cluster(dead=[0, 1])
    cluster.state()
    cluster.run(60_000)
    assert cluster.epochs() == [0] * 4
    cluster.dead = set()
    cluster.run(60_000)
    assert cluster.epochs()[2] == cluster.epochs()[3] >= 1


def test_evidence_only_one_monitor_holds_is_decided_in_the_end() -> None:
    cluster = Cluster()
    cluster.drop = lambda source, _, message: (
        source == 2 and isinstance(message, EvidenceMessage) and cluster.now < 10**8
    )
    cluster.state(by=[2])
    cluster.run()
    assert set(cluster.epochs()) == {1}


def test_a_replica_that_missed_evidence_pulls_it() -> None:
    cluster = Cluster()
    cluster.drop = lambda _, target, message: (
        target == 3 and isinstance(message, EvidenceMessage) and cluster.now < 10**7
    )
    cluster.state()
    cluster.run(400)
    assert cluster.epochs() == [1] * 4


def test_a_replica_cut_off_for_many_epochs_catches_up() -> None:
    cluster = Cluster()
    cluster.drop = lambda source, target, _: 3 in (source, target)
    for window in range(40):
        cluster.state(window, by=[0, 1, 2])
        cluster.run(3_000)
    assert cluster.epochs() == [40, 40, 40, 0]
    cluster.drop = lambda *_: False
    cluster.state(40)
    cluster.run()
    assert len(set(cluster.epochs())) == 1
    assert any(isinstance(message, Certificates) for _, message in cluster.sent)
    assert [d.epoch for d in cluster.decisions(3)] == list(range(cluster.epochs()[3]))


def test_restarting_everybody_loses_nothing() -> None:
    cluster = Cluster()
    cluster.state()
    cluster.run()
    for i in range(4):
        cluster.restart(i)
    assert cluster.epochs() == [1] * 4
    assert [replica.through_offset for replica in cluster.replicas] == [1] * 4
    cluster.state(1)
    cluster.run()
    assert cluster.epochs() == [2] * 4


@pytest.mark.parametrize("kind", [journal.EVIDENCE, journal.DECIDED, journal.VOTED, journal.PROPOSED])
def test_a_damaged_journal_is_refused(kind: str) -> None:
    cluster = Cluster()
    cluster.state()
    cluster.run()
    disk = [(k, record[:-1] + bytes((record[-1] ^ 1,)) if k == kind else record) for k, record in cluster.disks[0]]
    cluster.disks[0] = disk if kind != journal.VOTED else [(k, b"\xc1" if k == kind else r) for k, r in disk]
    if kind == journal.PROPOSED:
        cluster.disks[0] = [(k, b"" if k == kind else r) for k, r in disk]
    with pytest.raises(StorageCorrupt):
        cluster.boot(0)


def test_a_forked_chain_is_proved_and_excluded() -> None:
    cluster = Cluster()
    cluster.state()
    cluster.run()
    twin = Replica(ROSTER, 3, SIGNERS[3], FleetPosterior(ROSTER), ConsensusConfig())
    twin.recover(cluster.disks[3])
    other = Evidence(monitor=3, agent_id="bob", first_seq=0, last_seq=1, log_e_q32=0, log_bf_q32=0)
    effects = twin.step(cluster.now, SubmitEvidence((other,), 2))
    body = next(e.body for e in effects if isinstance(e, Send))
    cluster.give(0, Received(3, body))
    cluster.state(1)
    cluster.run()
    caught = {i for i, kind, value in cluster.emitted if kind == "equivocation" and value.monitor == 3}
    assert {0, 1, 2} <= caught
    cluster.state(2)
    cluster.run()
    cut = journal.decode_decided([r for k, r in cluster.disks[1] if k == journal.DECIDED][-1]).cut
    assert cut[3].seq <= 1
    assert [tip.seq for tip in cut[:3]] == [2, 2, 2]


def test_a_made_up_proof_of_a_fork_is_ignored() -> None:
    cluster = Cluster()
    cluster.state()
    raw = next(m.batches[0] for i, m in cluster.sent if i == 1 and isinstance(m, EvidenceMessage))
    signed = cluster.replicas[1]._evidence.log._chains[1][0].signed
    assert signed.header in raw
    same = Fork(signed.header, signed.signature, signed.header, signed.signature)
    forged = Fork(signed.header, signed.signature, signed.header[:-1] + b"\x00", signed.signature)
    for proof in (same, forged):
        cluster.give(0, Received(2, ENVELOPE.encode(proof)))
    assert not any(kind == "equivocation" for _, kind, _ in cluster.emitted)


def test_evidence_that_does_not_hold_is_refused_and_counted() -> None:
    cluster = Cluster()
    cluster.state(by=[1])
    raw = cluster.replicas[1]._evidence.log._chains[1][0].raw
    cluster.run()
    for batches in ((raw,), (raw[:-1] + bytes((raw[-1] ^ 1,)),), (b"junk",)):
        cluster.give(0, Received(1, ENVELOPE.encode(EvidenceMessage(batches))))
    assert {"forged evidence", "malformed evidence", "replayed evidence"} <= set(cluster.replicas[0].refused)
    cluster.give(0, Received(1, b"\x01junk"))
    assert {"malformed message", "forged evidence"} <= cluster.refusals(0)


def test_a_leader_cannot_certify_a_wrong_posterior() -> None:
    cluster = Cluster()

    class Wrong(FleetPosterior):
        """A lying leader's arithmetic."""

        def preview(self, batches: Any) -> Any:
            return msgspec.structs.replace(super().preview(batches), root=b"\x66" * 32)

    cluster.replicas[0] = Replica(ROSTER, 0, SIGNERS[0], Wrong(ROSTER), ConsensusConfig())
    cluster.state()
    cluster.run()
    assert "posterior that does not follow from the evidence" in cluster.refusals(1)
    decided = {d.certificate.statement.posterior_root for i in (1, 2, 3) for d in cluster.decisions(i)}
    assert decided
    assert b"\x66" * 32 not in decided


def test_votes_and_proposals_of_others_are_not_taken_for_ones_own() -> None:
    cluster = Cluster()
    cluster.drop = lambda _source, target, message: isinstance(message, Vote) and target == 0
    cluster.state()
    cluster.run(30)
    vote = next(m for i, m in cluster.sent if i == 1 and isinstance(m, Vote))
    proposal = next(m for _, m in cluster.sent if isinstance(m, Propose))
    cluster.give(0, Received(2, ENVELOPE.encode(vote)))
    assert "forged vote" in cluster.refusals(0)
    cluster.give(3, Received(1, ENVELOPE.encode(msgspec.structs.replace(proposal, signature=bytes(64), view=0))))
    assert cluster.epochs() == [0] * 4


def test_a_replica_needs_its_own_key() -> None:
    with pytest.raises(InternalError):
        Replica(ROSTER, 1, SIGNERS[0], FleetPosterior(ROSTER), ConsensusConfig())


def test_no_commit_vote_after_giving_up() -> None:
    cluster = Cluster()
    late: list[Any] = []

    def drop(_source: int, target: int, message: Any) -> bool:
        if isinstance(message, Prepared) and target in (1, 2):
            late.append(message)
            return True
        return isinstance(message, Timeout)

    cluster.drop = drop
    cluster.state()
    cluster.run(1_000)
    commits = {i for i, m in cluster.sent if isinstance(m, Vote) and m.phase == "C"}
    assert commits == {3}  # and the leader, which counts its own
    assert any(i == 1 and isinstance(m, Timeout) for i, m in cluster.sent)
    cluster.give(1, Received(0, ENVELOPE.encode(late[0])))
    assert not any(i == 1 and isinstance(m, Vote) and m.phase == "C" for i, m in cluster.sent)
    assert cluster.replicas[1].view == 0


def test_no_prepare_vote_after_giving_up() -> None:
    cluster = Cluster()
    cluster.drop = lambda _, target, message: target == 1 and isinstance(message, EvidenceMessage | Prepared | Decide)
    cluster.state(by=[0, 2, 3])
    cluster.run(1_000)
    assert any(i == 1 and isinstance(m, Timeout) for i, m in cluster.sent)
    for source, message in list(cluster.sent):
        if isinstance(message, EvidenceMessage):
            cluster.give(1, Received(source, ENVELOPE.encode(message)))
    assert not any(i == 1 and isinstance(m, Vote) and m.view == 0 and m.epoch == 0 for i, m in cluster.sent)


def flood(cluster: Cluster, author: int, batches: int) -> None:
    for number in range(batches):
        item = Evidence(
            monitor=author, agent_id="bob", first_seq=number, last_seq=number, log_e_q32=0, log_bf_q32=number
        )
        cluster.give(author, SubmitEvidence((item,), number + 1))


def test_a_flood_is_kept_out_and_let_in_as_there_is_room() -> None:
    cluster = Cluster(config=ConsensusConfig(batches_per_cut=4, batches_ahead=8))
    flood(cluster, 3, 50)
    cluster.run(5)  # before anything is decided
    assert [replica.evidence_log.tip(3).seq for replica in cluster.replicas] == [7, 7, 7, 49]
    assert cluster.replicas[0].refused["evidence over its author's quota"] == 42
    cluster.state(by=[0, 1, 2])
    cluster.run(60_000)
    for replica in cluster.replicas:
        assert replica.settled
        assert replica.evidence_log.tip(3).seq == 49
    assert cluster.epochs() == [13] * 4  # four of the flood's batches each, the last two, and nobody waited for them
    first = journal.decode_decided(next(r for k, r in cluster.disks[1] if k == journal.DECIDED))
    assert [tip.seq for tip in first.cut] == [0, 0, 0, 3]


def test_evidence_beyond_a_quota_is_fetched_where_a_decision_names_it() -> None:
    cluster = Cluster(config=ConsensusConfig(batches_per_cut=4, batches_ahead=8))
    cluster.drop = lambda source, target, _: 2 in (source, target)
    flood(cluster, 3, 30)
    cluster.run(60_000)
    assert cluster.replicas[2].evidence_log.tip(3).seq == -1
    cluster.drop = lambda *_: False
    cluster.state(by=[0])
    cluster.run(60_000)
    assert len(set(cluster.epochs())) == 1
    assert cluster.replicas[2].evidence_log.tip(3).seq == 29


@pytest.mark.parametrize(("kind", "votes"), [(Replica, 1), (VotesForgotten, 2)])
def test_a_vote_is_remembered_over_a_restart(kind: type[Replica], votes: int) -> None:
    """A leader with a twin proposes again after the crash; a monitor without its VOTED record would vote again."""
    cluster = Cluster()
    cluster.state()
    cluster.run(cluster.config.proposal_delay_ns // 1_000_000 + 2)  # the proposal has arrived, and been voted on
    twin = Replica(ROSTER, 0, SIGNERS[0], FleetPosterior(ROSTER), ConsensusConfig())
    raw = next(m.batches[0] for i, m in cluster.sent if i == 0 and isinstance(m, EvidenceMessage))
    twin.recover([(journal.EVIDENCE, raw)])
    twin.step(0, Start())
    effects = twin.step(0, Fired("propose 0"))
    other = next(e.body for e in effects if isinstance(e, Send) and isinstance(ENVELOPE.decode(e.body), Propose))
    cluster.replicas[1] = kind(ROSTER, 1, SIGNERS[1], FleetPosterior(ROSTER), ConsensusConfig())
    cluster.replicas[1].recover(cluster.disks[1])
    cluster.give(1, Start())
    cluster.give(1, Received(0, other))
    cast = {m.cut_root for i, m in cluster.sent if i == 1 and isinstance(m, Vote) and m.phase == "P"}
    assert len(cast) == votes


def test_who_comes_back_into_a_view_can_show_others_the_way() -> None:
    """Monitor 2 alone hears the leader of view 1, votes, and crashes; the leader dies; 0 and 3 are still in view 0."""
    cluster = Cluster()

    def drop(_source: int, target: int, message: Any) -> bool:
        if isinstance(message, Propose):
            return message.view == 0 or target != 2
        return isinstance(message, Timeout) and target != 1

    cluster.drop = drop
    cluster.state()
    cluster.run(600)
    assert [replica.view for replica in cluster.replicas] == [0, 1, 1, 0]
    assert any(i == 2 and isinstance(m, Vote) and m.view == 1 for i, m in cluster.sent)
    cluster.dead = {1}
    cluster.restart(2)
    cluster.drop = lambda *_: False
    cluster.run(60_000)
    assert [epoch for i, epoch in enumerate(cluster.epochs()) if i != 1] == [1, 1, 1]


# --- verdicts, offline


def decided() -> Decision:
    cluster = Cluster()
    cluster.state(agent="ada", nats=0)
    cluster.state(1)
    cluster.run()
    return next(decision for decision in cluster.decisions(2) if decision.changed)


def test_a_verdict_survives_its_file_and_verifies() -> None:
    verdict, roster = decode_certificate(encode_certificate(verdict_of(decided()), ROSTER))
    assert roster == ROSTER
    verify_verdict(verdict, roster, pinned_roster_hash=roster_hash(ROSTER))


def test_anything_less_does_not_verify() -> None:
    good = verdict_of(decided())
    certificate, entry = good.certificate, good.entry
    replace = msgspec.structs.replace
    fewer = dict(list(certificate.signatures.items())[:2])
    swapped = dict(zip(certificate.signatures, reversed(list(certificate.signatures.values())), strict=True))
    prepared = replace(certificate.statement, phase="P")
    bad = [
        replace(good, provisional=True),
        replace(good, decision="cleared"),
        replace(good, confidence=good.confidence - 1e-6),
        replace(good, verdict_id="v1"),
        replace(good, epoch=good.epoch + 1),
        replace(good, agent_id="ada"),
        replace(good, entry=replace(entry, log_odds_q32=entry.log_odds_q32 + 1)),
        replace(good, proof_index=good.proof_index ^ 1),
        replace(good, proof=good.proof[:-1]),
        replace(good, certificate=replace(certificate, signatures=fewer)),
        replace(good, certificate=replace(certificate, signatures=swapped)),
        replace(good, certificate=replace(certificate, signatures={**certificate.signatures, 9: bytes(64)})),
        replace(good, certificate=replace(certificate, statement=prepared)),
        replace(good, certificate=replace(certificate, statement=replace(certificate.statement, view=1))),
    ]
    verify_verdict(good, ROSTER)
    for verdict in bad:
        with pytest.raises(VerificationError):
            verify_verdict(verdict, ROSTER)
    with pytest.raises(VerificationError, match="pinned"):
        verify_verdict(good, ROSTER, pinned_roster_hash=bytes(32))
    with pytest.raises(VerificationError, match="roster"):
        verify_verdict(good, msgspec.structs.replace(ROSTER, alpha_ppm=20_000))


def test_a_prepare_certificate_is_no_decision() -> None:
    cluster = Cluster()
    cluster.state()
    cluster.run()
    prepared = next(m.certified.votes for _, m in cluster.sent if isinstance(m, Prepared))
    with pytest.raises(VerificationError, match="commit phase"):
        verify_certificate(certificate_of(ROSTER, prepared), ROSTER)


def test_a_decide_message_carries_its_own_proof() -> None:
    cluster = Cluster()
    cluster.drop = lambda _source, target, _message: target == 3
    cluster.state()
    cluster.run(100)
    decide = next(m for _, m in cluster.sent if isinstance(m, Decide))
    votes = decide.certified.votes
    short = msgspec.structs.replace(
        decide.certified, votes=msgspec.structs.replace(votes, signatures=votes.signatures[:2])
    )
    cluster.give(3, Received(1, ENVELOPE.encode(Decide(short))))
    assert "certificate that does not hold" in cluster.refusals(3)
    assert cluster.replicas[3].epoch == 0
    cluster.drop = lambda *_: False
    cluster.give(3, Received(1, ENVELOPE.encode(decide)))
    cluster.run()
    assert cluster.replicas[3].epoch == cluster.replicas[0].epoch
