"""An agent's evidence in words: one sentence why, then what moved, and what would change the verdict."""

from __future__ import annotations

import math

import msgspec

from tocsin.model.evidence import Q32, Reason

ODD_NATS = 5.0  # of one reason that is told even where the belief is calm
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
    agent_id: str, belief: float, prior_log_odds: float, reasons: tuple[Reason, ...], peers: str
) -> Explanation:
    """Explanation of a belief of `belief` nats above the prior, which rests on `reasons` (largest first)."""
    probability = _probability(prior_log_odds + belief)
    moved = [reason for reason in reasons if reason.log_bf_q32 > 0]
    if belief >= NOTABLE_NATS and moved:
        why = _sentence(moved[0])
    elif moved and moved[0].log_bf_q32 >= ODD_NATS * Q32:
        why = f"{_sentence(moved[0])} That alone is no reason to believe that it was taken over."
    else:
        why = "Nothing it did stands out from its own baseline and its peers."
    return Explanation(
        agent_id=agent_id,
        why=why,
        probability=probability,
        reasons=reasons,
        peers=peers,
        would_change=_would_change(belief, prior_log_odds, moved),
    )


def _sentence(reason: Reason) -> str:
    what, _, compared = (reason.detail or "unusual values").partition("; ")
    rest = f" ({reason.feature}); {compared}." if compared else f" ({reason.feature})."
    return f"It {what}{rest}" if what.startswith("called ") else f"Its {reason.feature}: {reason.detail or what}."


def _would_change(belief: float, prior_log_odds: float, moved: list[Reason]) -> str:
    if not moved or belief < NOTABLE_NATS:
        return "Behaviour that its baseline does not contain, and that peers do not share."
    share = min(moved[0].log_bf_q32 / Q32, belief)
    now, then = _probability(prior_log_odds + belief), _probability(prior_log_odds + belief - share)
    digits = 2 if round(now, 2) != round(then, 2) else 6
    return (
        f"Had {moved[0].feature} been usual, the belief would be {share:.1f} nats lower and the probability "
        f"{then:.{digits}f} instead of {now:.{digits}f}; so it would if peers began to do the same in their baselines."
    )


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, log_odds))))
