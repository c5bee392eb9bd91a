"""What one round of screening found: agents that move together although nothing above them explains it."""

from __future__ import annotations

import msgspec


class Bond(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a coordinated group, in the series in which that is most certain."""

    agent_id: str
    log_e: float  # nats, of a share of the wealth (model/evidence.py), of this round alone and over all series
    log_bf: float  # nats, of this round alone
    series: str
    partner: str  # with whom it is most certain
    rho: float  # correlation with the partner of what nothing above them explains
    certified: tuple[float, float] | None = None  # correlation with the partner of all they do, and its proven bound
    lag: int  # windows behind the first of the group
    members: tuple[str, ...]  # of the group, in order of delay, itself included; the first few
    size: int  # of the group


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that round `number` (from 1) found among `agents` agents."""

    number: int
    agents: int
    bonds: tuple[Bond, ...] = ()
