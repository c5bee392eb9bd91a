"""An agent's evidence in words: one sentence why, then what moved, and what would change the verdict."""

from __future__ import annotations

import math

import msgspec

from tocsin.model.evidence import Q32, Reason

NOTABLE_NATS = 1.0  # of belief above the prior; less is everyday noise


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Plain English for people; the numbers behind it are in `reasons`. `probability` is the belief, 0..1."""

    agent_id: str
    why: str
    probability: float
    reasons: tuple[Reason, ...]
    peers: str
    would_change: str


def describe(
    agent_id: str, belief: float, prior_log_odds: float, reasons: tuple[Reason, ...], peers: str = ""
) -> Explanation:
    """Explanation of a belief of `belief` nats above the prior, which rests on `reasons` (largest first)."""
    log_odds = prior_log_odds + belief
    probability = 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, log_odds))))
    moved = [reason for reason in reasons if reason.log_bf_q32 > 0]
    if belief < NOTABLE_NATS or not moved:
        why = "Nothing it did stands out from its own baseline and its peers."
    else:
        why = f"It departs from its baseline mainly in {moved[0].feature}: {moved[0].detail or 'unusual values'}."
    return Explanation(
        agent_id=agent_id,
        why=why,
        probability=probability,
        reasons=reasons,
        peers=peers or "Its peers do not show the same change; a change that the whole fleet shares is not counted.",
        would_change=_would_change(belief, moved),
    )


def _would_change(belief: float, moved: list[Reason]) -> str:
    if not moved or belief < NOTABLE_NATS:
        return "Behaviour that its baseline does not contain, and that peers do not share."
    share = moved[0].log_bf_q32 / Q32
    return f"Without {moved[0].feature} the belief would be {share:.1f} nats lower."
