"""What the host tells a replica, and how it is configured. Decisions come back as model/posterior.Decision."""

from __future__ import annotations

import msgspec

from tocsin.model.evidence import Evidence
from tocsin.model.steps import Fired, Received

MILLISECOND_NS = 1_000_000


class Start(msgspec.Struct, frozen=True):
    """The host is ready: the first input after construction, or after `recover`."""


class SubmitEvidence(msgspec.Struct, frozen=True):
    """This monitor states `items`, having analysed the ingest log up to `through_offset`."""

    items: tuple[Evidence, ...]
    through_offset: int
    fleet_size: int = 0  # agents this monitor knows of; 0 = it does not say


Input = Start | SubmitEvidence | Received | Fired


class ConsensusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Delays in nanoseconds. Safety depends on none of them."""

    proposal_delay_ns: int = 10 * MILLISECOND_NS  # the leader gathers evidence for at most this long
    view_timeout_ns: int = 500 * MILLISECOND_NS  # first view of an epoch; doubles with each further view
    provisional_delay_ns: int = 2_000 * MILLISECOND_NS  # evidence not certified for so long is judged provisionally
    max_doublings: int = 6
    # Shorter than the view timeout: whoever heard of no proposal for so long gives up on the leader already.
    leader_timeout_ns: int = 500 * MILLISECOND_NS
    pull_delay_ns: int = 50 * MILLISECOND_NS  # missing evidence is asked for again after this long
    batches_per_cut: int = 64  # per monitor: bounds what one epoch makes every replica fold
    # Per monitor: bounds what a flood makes every replica keep. Its author sends the rest again when it has room; not
    # below batches_per_cut, or cuts would be smaller than they may be.
    batches_ahead: int = 256
    keep_epochs: int = 64  # decisions, and the evidence under them, kept for others who lag behind by no more
    rejoin: bool = False  # the journal was lost: learn from others, and sign nothing before it is safe (transfer.py)
    checkpoint_bytes: int = 4 << 20  # a snapshot replaces the journal when it grew by this, or by twice a snapshot
