"""Without a quorum a monitor goes on judging, says so, and what it says is worth nothing to anybody else."""

from __future__ import annotations

import msgspec
import pytest
from replicas import Cluster

from tocsin.consensus.certificate import verify_certificate
from tocsin.consensus.messages import ENVELOPE, Propose, Vote
from tocsin.consensus.provisional import PHASE, sign_provisional, stands_by
from tocsin.errors import VerificationError
from tocsin.model.posterior import Decision
from tocsin.model.steps import Received
from tocsin.model.verdict import QuorumCertificate


def said(cluster: Cluster, i: int) -> list[Decision]:
    return [value for monitor, kind, value in cluster.emitted if monitor == i and kind == "provisional"]


def halves() -> Cluster:
    cluster = Cluster()
    cluster.drop = lambda source, target, _: (source < 2) != (target < 2)
    cluster.state()
    cluster.run(5_000)
    return cluster


def test_halves_say_what_they_would_decide_and_decide_it_when_they_meet() -> None:
    cluster = halves()
    for i in range(4):
        (provisional,) = said(cluster, i)  # once: what it holds does not change
        assert [(entry.agent_id, entry.flagged) for entry in provisional.changed] == [("mallory", True)]
        assert stands_by(cluster.roster, provisional.certificate) == i
        assert cluster.decisions(i) == []
    cluster.state(1, agent="bob", nats=1)
    cluster.run(5_000)
    assert [len(said(cluster, i)) for i in range(4)] == [2] * 4
    cluster.drop = lambda *_: False
    cluster.run(60_000)
    assert len(set(cluster.epochs())) == 1
    for i in range(4):
        flagged = [entry.agent_id for decision in cluster.decisions(i) for entry in decision.changed]
        assert flagged == ["mallory"]
    count = len(cluster.emitted)
    cluster.run(60_000)
    assert len(cluster.emitted) == count


def test_where_a_quorum_answers_nothing_is_provisional() -> None:
    cluster = Cluster(dead=[3])
    for window in range(5):
        cluster.state(window)
        cluster.run(1_500)
        assert not any(cluster.armed(i) for i in range(3))
    assert cluster.epochs()[0] == 5
    assert not any(said(cluster, i) for i in range(4))


def test_one_alone_believes_nobody_compromised_for_it_could_be_the_liar() -> None:
    cluster = Cluster()
    cluster.drop = lambda source, target, _: 0 in (source, target)
    cluster.state(by=[0])
    cluster.run(5_000)
    (provisional,) = said(cluster, 0)
    assert provisional.changed == ()


def test_a_provisional_statement_counts_for_nothing() -> None:
    cluster = halves()
    certificates = [said(cluster, i)[0].certificate for i in range(4)]
    first = certificates[0].statement
    pooled = {i: certificate.signatures[i] for i, certificate in enumerate(certificates[:2])}
    own = [sign_provisional(signer, i, first).signatures[i] for i, signer in enumerate(cluster.signers)]
    everyone = dict(enumerate(own))
    as_commit = msgspec.structs.replace(first, phase="C")
    for statement in (first, as_commit):
        for signatures in (pooled, everyone):
            with pytest.raises(VerificationError):
                verify_certificate(QuorumCertificate(statement=statement, signatures=signatures), cluster.roster)
    assert stands_by(cluster.roster, QuorumCertificate(statement=first, signatures=everyone)) is None
    assert stands_by(cluster.roster, QuorumCertificate(statement=first, signatures={1: own[0]})) is None
    assert stands_by(cluster.roster, QuorumCertificate(statement=first, signatures={9: own[0]})) is None
    assert stands_by(cluster.roster, QuorumCertificate(statement=as_commit, signatures={0: own[0]})) is None
    proposal = next(m for i, m in cluster.sent if i == 0 and isinstance(m, Propose))
    vote = Vote(0, proposal.view, "P", first.cut_root, proposal.posterior_root, own[1])
    cluster.give(0, Received(1, ENVELOPE.encode(vote)))
    assert PHASE not in ("P", "C")
    assert cluster.epochs() == [0] * 4
