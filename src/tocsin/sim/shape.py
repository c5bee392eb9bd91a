"""What differs between runs but is no fault: limits, patience, and how votes and cuts are put into messages.

What large fleets do (votes that add up, cuts told by what they add) is done here by small ones, which find more.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from tocsin.consensus import outbox, tally, transfer
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.sim.patching import patched
from tocsin.sim.signatures import signatures_of
from tocsin.sim.timeline import MILLISECOND_NS, Streams

# A simulated network is slower than a machine room: leaders gather for longer than by default.
GATHER_NS = 20 * MILLISECOND_NS
USUAL = ConsensusConfig(proposal_delay_ns=GATHER_NS)
SMALL_LIMITS = ConsensusConfig(
    proposal_delay_ns=GATHER_NS, batches_per_cut=2, batches_ahead=3, keep_epochs=1, checkpoint_bytes=4096
)
IMPATIENT_NS = 150 * MILLISECOND_NS

_LEAN = ((outbox, "LEAN_FROM", 1),)
# Groups of two shares, two helpers for each, and nothing that a leader bisects by itself.
_SIFTS = ((tally, "SIFT_FROM", 1), (tally, "GROUP", 2), (tally, "HELPERS", 2), (tally, "BISECTED", 0))

_CHUNKS = ((transfer, "MAX_LEAVES_PER_CHUNK", 2),)


@dataclass(frozen=True, slots=True)
class Shape:
    """`adds_up`: the roster has BLS keys. `lean`: cuts are told by what they add. `sifts`: leaders ask helpers."""

    config: ConsensusConfig
    adds_up: bool
    lean: bool
    sifts: bool

    @contextmanager
    def in_force(self, seed: int) -> Generator[None]:
        """While the run of `seed` goes on."""
        small = self.config.keep_epochs == SMALL_LIMITS.keep_epochs
        as_if_large = [*(_LEAN if self.lean else ()), *(_SIFTS if self.sifts else ()), *(_CHUNKS if small else ())]
        with signatures_of(seed), patched(*as_if_large):
            yield


def shape_of(streams: Streams) -> Shape:
    """Of a seed. A third has limits that a short run reaches, a third votes that add up, a third lean messages."""
    rng = streams.of("shape")
    config = rng.choice((USUAL, USUAL, SMALL_LIMITS))
    if rng.random() < 1 / 3:
        config = msgspec.structs.replace(config, leader_timeout_ns=IMPATIENT_NS)
    return Shape(config, adds_up=rng.random() < 1 / 3, lean=rng.random() < 1 / 3, sifts=rng.random() < 1 / 2)
