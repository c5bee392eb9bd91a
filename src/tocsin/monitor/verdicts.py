"""From an agreed decision to the verdicts people act on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from tocsin.model.evidence import Reason
from tocsin.model.posterior import Decision
from tocsin.model.verdict import Verdict
from tocsin.stats.logodds import logistic

ReasonsOf = Callable[[str], tuple[Reason, ...]]


def verdicts_of(decision: Decision, decided_ms: int, reasons_of: ReasonsOf) -> list[Verdict]:
    """One verdict for each agent whose standing changed in this epoch.

    `reasons_of(agent_id)` is what this monitor saw; it may be empty, and is not part of what was agreed.
    """
    out: list[Verdict] = []
    for entry, (index, path) in zip(decision.changed, decision.proofs, strict=True):
        name = f"{decision.certificate.statement.net}\0{decision.epoch}\0{entry.agent_id}".encode()
        out.append(
            Verdict(
                verdict_id=hashlib.blake2b(name, digest_size=12).hexdigest(),
                agent_id=entry.agent_id,
                decision="compromised" if entry.flagged else "cleared",
                confidence=logistic(entry.log_odds_q32),
                entry=entry,
                epoch=decision.epoch,
                decided_ms=decided_ms,
                certificate=decision.certificate,
                proof=path,
                proof_index=index,
                dissent=decision.dissent,
                reasons=tuple((reason.feature, reason.log_bf_q32) for reason in reasons_of(entry.agent_id)),
            )
        )
    return out
