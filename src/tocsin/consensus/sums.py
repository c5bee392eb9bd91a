"""Signatures that add up: under a roster with BLS keys one signature stands for those of a quorum.

Shares are not checked when they come. When there are enough of them their sum is, and where it does not hold bisection
finds whose share spoils it: one check for all where everybody is honest, and about one a monitor at the worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tocsin.consensus.messages import Sum
from tocsin.errors import InternalError
from tocsin.model.verdict import Roster
from tocsin.trust import bls
from tocsin.trust.signing import domain_hash


def bitmap_of(monitors: Iterable[int], n: int) -> bytes:
    """Bit i of byte i // 8, least significant first; as many bytes as n monitors need."""
    bits = 0
    for monitor in monitors:
        bits |= 1 << monitor
    return bits.to_bytes((n + 7) // 8, "little")


def members(bitmap: bytes, n: int) -> tuple[int, ...] | None:
    """Ascending; None for what is no bitmap of n monitors, so that a set of signers has one encoding."""
    bits = int.from_bytes(bitmap, "little")
    if len(bitmap) != (n + 7) // 8 or bits >> n:
        return None
    return tuple(i for i in range(n) if bits >> i & 1)


def spoilers(roster: Roster, shares: Mapping[int, bytes], domain: bytes, message: bytes) -> set[int]:
    """Monitors without whose shares the sum of the rest holds."""
    monitors = list(shares)
    signers = [(roster.bls_keys[i], shares[i]) for i in monitors]
    return {monitors[at] for at in bls.bad_shares(signers, domain_hash(domain, message))}


def shares_hold(roster: Roster, shares: Mapping[int, bytes], domain: bytes, message: bytes) -> bool:
    """Whether the sum of all `shares` holds."""
    total = bls.add_up(shares.values())
    keys = [roster.bls_keys[i] for i in sorted(shares)]
    return total is not None and bls.holds(keys, domain_hash(domain, message), total)


def sum_of(roster: Roster, shares: Mapping[int, bytes]) -> Sum:
    """The sum of checked shares, of one monitor at least."""
    total = bls.add_up(shares.values())
    if total is None:
        raise InternalError("checked shares do not add up")
    return Sum(bitmap_of(shares, roster.n), total)


def signers_of(roster: Roster, total: Sum, domain: bytes, message: bytes) -> tuple[int, ...]:
    """Whose signatures of `message` `total` is the sum of; nobody's where it does not hold."""
    signers = members(total.signers, roster.n)
    if not signers:
        return ()
    keys = [roster.bls_keys[i] for i in signers]
    return signers if bls.holds(keys, domain_hash(domain, message), total.signature) else ()


def share_holds(roster: Roster, monitor: int, domain: bytes, message: bytes, share: bytes) -> bool:
    """Whether `share` is `monitor`'s for `message`. Dear: two pairings."""
    return not bls.bad_shares([(roster.bls_keys[monitor], share)], domain_hash(domain, message))
