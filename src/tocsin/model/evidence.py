"""Evidence: one monitor's signed statement about one agent over one window of its behaviour.

Two numbers that are never mixed (see docs/decisions/0002-two-numbers.md):

* `log_e_q32`  -- natural log of an e-value, *running* since the agent's baseline. Controls error: under normal
  behaviour its expectation is at most one at any stopping time (Ville 1939; Vovk & Wang 2021).
* `log_bf_q32` -- natural log of a Bayes factor for *this window alone*. Adds up as log-odds; it is a belief.

Both are integers in units of 2**-32 nats, clipped to +-64 nats by the source, so that every replica adds the
same integers and signs the same bytes.

Evidence has a *kind*. BEHAVIOUR compares an agent's events with its own baseline and its peers. COORDINATION says that
it moves together with others although nothing above them explains it: its numbers are rounds of screening instead of
events, and its `log_e_q32` is that of wealth which starts at `COORDINATION_SHARE`, where behaviour's starts at one.
"""

from __future__ import annotations

import msgspec

Q32 = 1 << 32
CLIP_NATS = 64
CLIP_Q32 = CLIP_NATS * Q32

BEHAVIOUR, COORDINATION = 0, 1
COORDINATION_SHARE = 0.01  # e-values of both kinds are added, so the expectation of the sum is at most 1.01


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """Why: a feature or channel and how many nats (q32) of `log_bf_q32` it contributed."""

    feature: str
    log_bf_q32: int
    detail: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A statement about `agent_id` over its events `first_seq..last_seq` (per-agent numbers from 0, inclusive).

    Of kind COORDINATION: over the rounds of screening `first_seq..last_seq`.
    """

    monitor: int
    agent_id: str
    first_seq: int
    last_seq: int
    log_e_q32: int
    log_bf_q32: int
    baseline_epoch: int = 0
    observed_ms: int = 0
    reasons: tuple[Reason, ...] = ()
    kind: int = BEHAVIOUR
    # Where the statement was signed; empty for a local, unsigned one. See trust/attestation.py.
    attestation: bytes = b""


class EvidenceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A link of a monitor's hash chain: consecutive `seq`, previous link's hash, root over the items."""

    net: str
    config_hash: bytes
    monitor: int
    seq: int
    prev_hash: bytes
    through_offset: int  # ingest log position up to which this monitor had analysed
    items: tuple[Evidence, ...]
    fleet_size: int = 0  # agents this monitor knows of; 0 = it does not say
