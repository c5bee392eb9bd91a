"""Each rule of the protocol, broken on purpose, is found by a simulation. The full table: docs/consensus.md."""

from __future__ import annotations

import pytest

from tocsin.sim.mutants import MUTANTS, Mutant, hunt
from tocsin.sim.world import Build

# Where a short hunt begins: the seed is found by `python -m benchmarks.consensus`, and drawn anew with the schedules.
FIRST_SEED = {
    "a timeout certificate without its lock is believed": 162,
    "shares are added up unchecked": 25,
    "what helpers claim is believed": 72,
    "locks are ignored": 22,
    "a leader's respect for the lock is not checked": 97,
    "votes C after a timeout": 21,
    "the lock is forgotten in a crash": 22,
    "votes are forgotten in a crash": 293,
    "timeouts are forgotten in a crash": 27,
    "decisions are not announced after a crash": 97,
    "laggards get no decisions": 41,
    "laggards get no state": 282,
    "evidence that others had no room for is not sent again": 21,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_broken_rule_is_found(mutant: Mutant):
    first = FIRST_SEED.get(mutant.rule, 0)
    caught = hunt(mutant, range(first, first + 30))
    assert caught.seed is not None, f"{mutant.rule}: seeds {first}..{first + 29} held all invariants"
    assert caught.noticed


def test_the_unbroken_protocol_survives_the_seeds_that_find_errors():
    unbroken = Mutant("nothing", Build())
    for seed in (0, *FIRST_SEED.values()):
        assert hunt(unbroken, range(seed, seed + 1)).noticed == ""
