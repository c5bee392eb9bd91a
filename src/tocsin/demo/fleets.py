"""The fleets that a demonstration can run on, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tocsin.errors import InputError
from tocsin.sim.fleet import LabelledFleet

FLEETS = ("agentdojo", "synthetic")


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """Which fleet. Equal options give equal fleets, in any process."""

    fleet: str = "agentdojo"
    size: int = 150
    compromised_share: float = 0.17
    seed: int = 0
    archive: Path | None = None  # the AgentDojo archive, where the user has it already
    cache: Path | None = None  # default: the user's cache directory


def build_fleet(options: FleetOptions, progress: Callable[[int], None] = lambda _: None) -> LabelledFleet:
    """The fleet named by `options`; `progress` is told the number of runs read.

    Raises InputError for an unknown name or a size out of reach, Unavailable when the archive cannot be had.
    """
    size, share, seed = options.size, options.compromised_share, options.seed
    if options.fleet == "synthetic":
        from tocsin.sim.synthetic import SyntheticFleet

        return SyntheticFleet(size=size, compromised_share=share, seed=seed)
    if options.fleet == "agentdojo":
        from tocsin.demo.compose import DojoFleet
        from tocsin.demo.run_cache import load_runs

        runs = load_runs(options.cache, progress, archive=options.archive)
        return DojoFleet(runs, size=size, compromised_share=share, seed=seed)
    raise InputError(f"there is no fleet {options.fleet!r}", remedy=f"one of: {', '.join(FLEETS)}")
