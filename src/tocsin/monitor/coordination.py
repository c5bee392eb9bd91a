"""One monitor's evidence that agents act together: over rounds of screening, a running e-value and a belief.

`log_e` is the log of the sum over rounds s = 1, 2, ... of e-values weighted by 1 / (s (s + 1)), found nothing counting
as 0. The weights add up to less than one, so the expectation stays below the share that is staked whatever the
dependence between rounds, which overlap, and at any stopping time. Nothing decays: what was certain once stays so.

The belief is that of the strongest round, because rounds that overlap say the same thing again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from tocsin.detection.explain import Explanation
from tocsin.model.coordination import Bond, Findings
from tocsin.model.evidence import CLIP_NATS, COORDINATION, Evidence, Reason
from tocsin.stats.eprocess import log_add
from tocsin.stats.logodds import logistic, to_q32
from tocsin.wire.limits import MAX_DETAIL_BYTES

FEATURE = "coordination"
NOTHING = -1e9  # nats
NAME_SHOWN = 40  # characters of an agent's name within a sentence


@dataclass(slots=True)
class _Joint:
    """About one agent."""

    bond: Bond  # of the strongest round
    log_e: float = NOTHING
    log_bf: float = 0.0


class JointEvidence:
    """What this monitor holds of coordination."""

    def __init__(self, me: int) -> None:
        self._me = me
        self._stated: dict[str, int] = {}  # agent -> last round that the journal's statements speak about
        self._about: dict[str, _Joint] = {}

    def recover(self, agent_id: str, last_round: int) -> None:
        """The journal holds statements about `agent_id` up to this round: they are not made again."""
        self._stated[agent_id] = last_round

    def add(self, findings: Findings, now_ms: int) -> tuple[Evidence, ...]:
        """Take in a round; what is to be stated about it, nothing where the journal holds that already."""
        out: list[Evidence] = []
        discount = math.log(findings.number * (findings.number + 1.0))
        for bond in findings.bonds:
            joint = self._about.setdefault(bond.agent_id, _Joint(bond))
            joint.log_e = log_add(joint.log_e, bond.log_e - discount)
            rise = max(0.0, min(bond.log_bf, CLIP_NATS) - joint.log_bf)
            if rise > 0.0:
                joint.log_bf, joint.bond = joint.log_bf + rise, bond
            if findings.number <= self._stated.get(bond.agent_id, 0):
                continue
            out.append(
                Evidence(
                    monitor=self._me,
                    agent_id=bond.agent_id,
                    first_seq=findings.number,
                    last_seq=findings.number,
                    log_e_q32=to_q32(joint.log_e),
                    log_bf_q32=to_q32(rise),
                    observed_ms=now_ms,
                    reasons=(Reason(FEATURE, to_q32(rise), described(bond)),),
                    kind=COORDINATION,
                )
            )
        return tuple(out)

    def reasons(self, agent_id: str) -> tuple[Reason, ...]:
        """Why, if this agent is in a group."""
        joint = self._about.get(agent_id)
        return () if joint is None else (Reason(FEATURE, to_q32(joint.log_bf), described(joint.bond)),)

    def explained(self, alone: Explanation) -> Explanation:
        """`alone`, the explanation of an agent's own behaviour, with the group it moves with in front."""
        joint = self._about.get(alone.agent_id)
        if joint is None:
            return alone
        p = min(max(alone.probability, 1e-15), 1.0 - 1e-15)
        odds = math.log(p / (1.0 - p)) + joint.log_bf
        own = alone.reasons[0].log_bf_q32 if alone.reasons else 0
        (reason,) = self.reasons(alone.agent_id)
        return msgspec.structs.replace(
            alone,
            why=f"It {reason.detail}." if reason.log_bf_q32 >= own else alone.why,
            probability=logistic(to_q32(odds)),
            reasons=(reason, *alone.reasons),
        )


def described(bond: Bond) -> str:
    """A sentence's worth: the group, its members, delay and correlation. Names are cut; they are the agents' own."""
    others = [_short(name) for name in bond.members if name != bond.agent_id]
    unnamed = bond.size - 1 - len(others)
    behind = f"{bond.lag} window{'s'[: bond.lag - 1]} behind its first" if bond.lag else "level with its first"
    proven = f" ({bond.certified[0]:.2f} ± {bond.certified[1]:.2g} certified)" if bond.certified else ""
    text = (
        f"moves with a group of {bond.size} in its {bond.series}, {behind}, correlation {bond.rho:.2f}{proven} with "
        f"{_short(bond.partner)}; nothing above them explains it and they did not before; members: {', '.join(others)}"
    )
    if unnamed > 0:
        text += f" and {unnamed} more"
    return text.encode("utf-8", "replace")[:MAX_DETAIL_BYTES].decode("utf-8", "ignore")


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[: NAME_SHOWN - 1]}…"
