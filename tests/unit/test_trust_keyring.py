"""Rosters: their hash, their JSON-able form, their limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tocsin.errors import ConfigError
from tocsin.model.verdict import Roster
from tocsin.trust.keyring import (
    check_roster,
    deterministic_signers,
    roster_from_dict,
    roster_hash,
    roster_of,
    roster_to_dict,
)

ROSTER = roster_of("fleet", deterministic_signers(b"seed", 4))
KEY = ROSTER.keys[0].hex()


def test_the_hash_is_pinned() -> None:
    """Changing how rosters are hashed would invalidate every certificate ever made."""
    assert roster_hash(Roster(net="fleet", keys=(bytes(32), b"\x01" * 32))).hex() == (
        "3c96931802cf87a1718c634aac253b29ce5442e6db9415a8b2a03bcb079c0335"
    )


def test_every_field_is_under_the_hash() -> None:
    variants = [
        msgspec.structs.replace(ROSTER, net="fleet2"),
        msgspec.structs.replace(ROSTER, keys=ROSTER.keys[::-1]),
        msgspec.structs.replace(ROSTER, keys=ROSTER.keys[:3]),
        msgspec.structs.replace(ROSTER, alpha_ppm=1),
        msgspec.structs.replace(ROSTER, prior_ppm=1),
    ]
    assert len({roster_hash(one) for one in [ROSTER, *variants]}) == 6


def test_round_trip() -> None:
    assert roster_from_dict(roster_to_dict(ROSTER)) == ROSTER


@pytest.mark.parametrize(
    "change",
    [
        {"net": ""},
        {"net": "a\x1b[2J"},
        {"net": 5},
        {"keys": []},
        {"keys": [KEY, KEY]},
        {"keys": [KEY[:-2]]},
        {"keys": [KEY.upper()]},
        {"keys": "no list"},
        {"alpha_ppm": 0},
        {"alpha_ppm": 1_000_000},
        {"prior_ppm": True},
        {"prior_ppm": 0.5},
        {"extra": 1},
    ],
)
def test_what_is_not_a_roster_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        roster_from_dict({**roster_to_dict(ROSTER), **change})


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError):
        check_roster(Roster(net="fleet", keys=(b"short",)))


def test_deterministic_signers_differ_by_seed_and_index() -> None:
    keys = {s.public_key for seed in (b"a", b"b") for s in deterministic_signers(seed, 3)}
    assert len(keys) == 6
    assert deterministic_signers(b"a", 3)[2].public_key == deterministic_signers(b"a", 5)[2].public_key
