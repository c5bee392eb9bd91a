"""What the monitors agreed on, and the proof that they did."""

from __future__ import annotations

import msgspec


class PosteriorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The agreed belief about one agent after a cut of evidence. Integers only: this is what is hashed and signed."""

    agent_id: str
    log_odds_q32: int  # prior + trimmed sum of log Bayes factors
    log_e_q32: int  # Byzantine-robust merged e-value
    last_seq: int  # highest event number any kept monitor spoke about
    flagged: bool  # in the rejection set of closed e-BH at the agreed level
    alpha_ppm: int  # that level: target share of false alarms among alarms, parts per million
    fleet_size: int  # number of hypotheses in that procedure


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a vote signs (through its domain-separated hash). No timestamps: replicas must sign the same bytes."""

    net: str
    config_hash: bytes
    epoch: int
    view: int
    phase: str  # 'P' prepare or 'C' commit
    prev_cert_hash: bytes
    cut_root: bytes
    posterior_root: bytes


class QuorumCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """`n - f` distinct configured monitors signed the same statement (Castro & Liskov 1999).

    One Ed25519 signature each, or, under a roster with BLS keys, the sum of what `signers` signed.
    """

    statement: Statement
    signatures: dict[int, bytes]  # monitor index -> Ed25519 signature over the statement's digest
    signers: tuple[int, ...] = ()  # ascending, of `aggregate`
    aggregate: bytes = b""  # 96 bytes

    @property
    def monitors(self) -> tuple[int, ...]:
        """Who signed, ascending."""
        return self.signers if self.aggregate else tuple(sorted(self.signatures))


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about one agent, with everything needed to check it offline."""

    verdict_id: str
    agent_id: str
    decision: str  # 'compromised' | 'cleared'
    confidence: float  # derived from log_odds_q32, for people; the signed value is the integer
    entry: PosteriorEntry
    epoch: int
    decided_ms: int  # local clock of the monitor that emitted it; not signed
    certificate: QuorumCertificate
    proof: tuple[bytes, ...]  # Merkle path from the entry to posterior_root
    proof_index: int
    provisional: bool = False
    dissent: tuple[int, ...] = ()  # monitors whose evidence was trimmed away or contradicts the decision
    reasons: tuple[tuple[str, int], ...] = ()  # feature -> nats in q32, from the evidence behind the decision


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """The configured monitors. Its hash is `config_hash` in everything that is signed."""

    net: str
    keys: tuple[bytes, ...]  # Ed25519 public keys, index = monitor number
    alpha_ppm: int = 10_000
    prior_ppm: int = 10_000  # prior probability that an agent is compromised
    bls_keys: tuple[bytes, ...] = ()  # where votes are to be added up: one a monitor, else none at all
    bls_proofs: tuple[bytes, ...] = ()  # that somebody holds each key's secret

    @property
    def adds_up(self) -> bool:
        """Whether votes are BLS shares, and certificates their sums."""
        return bool(self.bls_keys)

    @property
    def n(self) -> int:
        return len(self.keys)

    @property
    def f(self) -> int:
        return (len(self.keys) - 1) // 3

    @property
    def quorum(self) -> int:
        return self.n - self.f
