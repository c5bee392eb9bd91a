"""From an agreed decision to the verdicts people act on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from tocsin.consensus.replica import Decision
from tocsin.model.evidence import Q32, Reason
from tocsin.model.verdict import Verdict

ReasonsOf = Callable[[str], tuple[Reason, ...]]


def verdicts_of(decision: Decision, decided_ms: int, reasons_of: ReasonsOf) -> list[Verdict]:
    """One verdict for each agent whose standing changed in this epoch. `reasons_of(agent_id)` may be empty."""
    out: list[Verdict] = []
    for entry, (index, proof) in zip(decision.changed, decision.proofs, strict=True):
        name = f"{decision.certificate.statement.net}\0{decision.epoch}\0{entry.agent_id}".encode()
        out.append(
            Verdict(
                verdict_id=hashlib.blake2b(name, digest_size=12).hexdigest(),
                agent_id=entry.agent_id,
                decision="compromised" if entry.flagged else "cleared",
                confidence=1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, entry.log_odds_q32 / Q32)))),
                entry=entry,
                epoch=decision.epoch,
                decided_ms=decided_ms,
                certificate=decision.certificate,
                proof=proof,
                proof_index=index,
                dissent=decision.dissent,
                reasons=tuple((reason.feature, reason.log_bf_q32) for reason in reasons_of(entry.agent_id)),
            )
        )
    return out
