"""What differs between runs but is no fault: limits, patience, and how votes and cuts are put into messages.

What large fleets do (votes that add up, cuts told by what they add) is done here by small ones, which find more.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from tocsin.consensus import outbox
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


@dataclass(frozen=True, slots=True)
class Shape:
    """`adds_up`: the roster has BLS keys. `lean`: cuts are told by what they add."""

    config: ConsensusConfig
    adds_up: bool
    lean: bool

    @contextmanager
    def in_force(self, seed: int) -> Generator[None]:
        """While the run of `seed` goes on."""
        with signatures_of(seed), patched((outbox, "LEAN_FROM", 1 if self.lean else outbox.LEAN_FROM)):
            yield


def shape_of(streams: Streams) -> Shape:
    """Of a seed. A third has limits that a short run reaches, a third votes that add up, a third lean messages."""
    rng = streams.of("shape")
    config = rng.choice((USUAL, USUAL, SMALL_LIMITS))
    if rng.random() < 1 / 3:
        config = msgspec.structs.replace(config, leader_timeout_ns=IMPATIENT_NS)
    return Shape(config, adds_up=rng.random() < 1 / 3, lean=rng.random() < 1 / 3)
