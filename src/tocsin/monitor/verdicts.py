"""From an agreed decision to the verdicts people act on."""

from __future__ import annotations

from collections.abc import Callable

from tocsin.consensus.certificate import CLEARED, COMPROMISED, verdict_id
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
    net = decision.certificate.statement.net
    for entry, (index, path), dissent in zip(decision.changed, decision.proofs, decision.dissent, strict=True):
        out.append(
            Verdict(
                verdict_id=verdict_id(net, decision.epoch, entry.agent_id),
                agent_id=entry.agent_id,
                decision=COMPROMISED if entry.flagged else CLEARED,
                confidence=logistic(entry.log_odds_q32),
                entry=entry,
                epoch=decision.epoch,
                decided_ms=decided_ms,
                certificate=decision.certificate,
                proof=path,
                proof_index=index,
                dissent=dissent,
                reasons=tuple((reason.feature, reason.log_bf_q32) for reason in reasons_of(entry.agent_id)),
            )
        )
    return out
