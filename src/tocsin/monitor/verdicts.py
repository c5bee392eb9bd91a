"""From an agreed decision to the verdicts people act on."""

from __future__ import annotations

import hashlib
import math

from tocsin.model.evidence import Q32
from tocsin.model.posterior import Decision
from tocsin.model.verdict import Verdict

MAX_EXPONENT = 700.0


def confidence_of(log_odds_q32: int) -> float:
    """The probability that log-odds in units of 2**-32 nats stand for."""
    log_odds = max(-MAX_EXPONENT, min(MAX_EXPONENT, log_odds_q32 / Q32))
    return 1.0 / (1.0 + math.exp(-log_odds))


def verdicts_of(decision: Decision, decided_ms: int) -> list[Verdict]:
    """One verdict for each agent whose standing changed in this epoch."""
    out: list[Verdict] = []
    for i, entry in enumerate(decision.entries_changed):
        name = f"{decision.certificate.statement.net}\0{decision.epoch}\0{entry.agent_id}".encode()
        out.append(
            Verdict(
                verdict_id=hashlib.blake2b(name, digest_size=12).hexdigest(),
                agent_id=entry.agent_id,
                decision="compromised" if entry.flagged else "cleared",
                confidence=confidence_of(entry.log_odds_q32),
                entry=entry,
                epoch=decision.epoch,
                decided_ms=decided_ms,
                certificate=decision.certificate,
                proof=decision.proofs[i].path,
                proof_index=decision.proofs[i].index,
                dissent=decision.dissent[i],
                reasons=decision.reasons[i],
            )
        )
    return out
