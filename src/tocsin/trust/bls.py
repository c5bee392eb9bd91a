"""The one place where BLS signatures are used: BLS12-381 with public keys in G1 and proofs of possession.

Signatures of many monitors under one message add up to one of 96 bytes that two pairings check, whatever their number
(Boneh, Lynn, Shacham 2001; Boldyreva 2003). Ciphersuite BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_ of
draft-irtf-cfrg-bls-signature-05. A key counts only with a proof that somebody holds its secret (Ristenpart & Yilek
2007): otherwise a monitor could choose a key that cancels the others' and sign alone for all of them.

A signature travels as a *share* of 192 bytes, both coordinates, because the square root that a compressed point needs
costs more than everything else about it. Shares are added without looking whether they lie in the right subgroup; the
sum is compressed, and what is then checked (encoding, subgroup, pairings) is what a stranger would check.

The curve arithmetic (arkworks, optional: `pip install "tocsin[bls]"`) does not take constant time. A secret is
therefore never used as it is: each signature splits it into two random-looking summands and multiplies by both.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from tocsin.errors import ConfigError, InputError

if TYPE_CHECKING:
    from py_arkworks_bls12381 import G1Point, G2Point

Point = TypeVar("Point", "G1Point", "G2Point")
KEY_BYTES = 48
SIGNATURE_BYTES = 96
SHARE_BYTES = 192
ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001  # of the three groups
MIN_SEED_BYTES = 32
SIGN = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
_SPLIT = b"tocsin/1 split"


def demand_curve() -> None:
    """Raises ConfigError where the optional library is not installed."""
    if find_spec("py_arkworks_bls12381") is None:
        raise ConfigError(
            "the roster names BLS keys and the library that checks them is not installed",
            remedy='pip install "tocsin[bls]"',
        )


# --- keys


def secret_of(seed: bytes, info: bytes = b"") -> int:
    """KeyGen of the draft (HKDF-SHA-256, RFC 5869): a secret from at least 32 random bytes. Raises InputError."""
    if len(seed) < MIN_SEED_BYTES:
        raise InputError(
            f"a BLS seed has at least {MIN_SEED_BYTES} bytes, not {len(seed)}", remedy="give 32 random bytes"
        )
    salt, secret = b"BLS-SIG-KEYGEN-SALT-", 0
    while secret == 0:
        salt = sha256(salt).digest()
        pseudorandom = hmac.digest(salt, seed + b"\0", "sha256")
        stream, block = b"", b""
        for i in (1, 2):
            block = hmac.digest(pseudorandom, block + info + (48).to_bytes(2, "big") + bytes((i,)), "sha256")
            stream += block
        secret = int.from_bytes(stream[:48], "big") % ORDER
    return secret


class BlsSigner:
    """A key pair. Raises InputError for a secret outside 1..ORDER-1, ConfigError without the library."""

    def __init__(self, secret: int) -> None:
        demand_curve()
        from py_arkworks_bls12381 import G1Point, Scalar

        if not 0 < secret < ORDER:
            raise InputError("a BLS secret lies between 1 and the group's order", remedy="make it with secret_of")
        self._secret = secret
        self.public_key = (G1Point() * Scalar(secret)).to_compressed_bytes()

    def share(self, message: bytes) -> bytes:
        """192 bytes: this key's signature of `message`, to be added to others'. Deterministic."""
        return self._signed(message, SIGN).to_xy_bytes_be()

    def sign(self, message: bytes) -> bytes:
        """96 bytes: the same signature alone, compressed."""
        return self._signed(message, SIGN).to_compressed_bytes()

    def prove_possession(self) -> bytes:
        """96 bytes that show that somebody holds the secret of `public_key`."""
        return self._signed(self.public_key, POSSESSION).to_compressed_bytes()

    def _signed(self, message: bytes, suite: bytes) -> G2Point:
        from py_arkworks_bls12381 import Scalar

        point = _hashed(message, suite)
        split = hmac.digest(self._secret.to_bytes(32, "big"), _SPLIT + message, "sha512")
        part = int.from_bytes(split, "big") % ORDER
        return point * Scalar(part) + point * Scalar((self._secret - part) % ORDER)


def _decoded(group: type[Point], encoded: bytes) -> Point | None:
    try:
        point = group.from_compressed_bytes(encoded)
    except ValueError:
        return None
    # The library takes other encodings of infinity too; one key must not have two names.
    return None if point == group.identity() or point.to_compressed_bytes() != encoded else point


@lru_cache(maxsize=4096)  # pure; a roster's keys are looked at by every certificate
def _key(encoded: bytes) -> G1Point | None:
    """KeyValidate: a point of the right subgroup that is not infinity, in its one encoding."""
    from py_arkworks_bls12381 import G1Point

    return _decoded(G1Point, encoded)


def key_holds(public_key: bytes) -> bool:
    """Whether `public_key` is one that signatures may be checked with. Never raises for any bytes."""
    demand_curve()
    return _key(public_key) is not None


@lru_cache(maxsize=4096)
def possession_holds(public_key: bytes, proof: bytes) -> bool:
    """Whether `proof` shows that somebody holds the secret of `public_key`. Never raises for any bytes."""
    demand_curve()
    key, point = _key(public_key), _signature(proof)
    return key is not None and point is not None and _pairs(key, public_key, POSSESSION, point)


# --- signatures


def _signature(encoded: bytes) -> G2Point | None:
    from py_arkworks_bls12381 import G2Point

    return _decoded(G2Point, encoded)


@lru_cache(maxsize=64)
def _hashed(message: bytes, suite: bytes) -> G2Point:
    from py_arkworks_bls12381 import G2Point

    return G2Point.hash_to_curve(message, suite)


def _pairs(key: G1Point, message: bytes, suite: bytes, signature: G2Point) -> bool:
    """e(key, H(message)) = e(generator, signature)."""
    from py_arkworks_bls12381 import GT, G1Point

    return GT.pairing_check([key, -G1Point()], [_hashed(message, suite), signature])


def is_share(data: bytes) -> bool:
    """Whether `data` is a point on the curve that can be added: no more than that. Never raises for any bytes."""
    return _point(data) is not None


def _point(share: bytes) -> G2Point | None:
    from py_arkworks_bls12381 import G2Point

    try:
        point = G2Point.from_xy_bytes_unchecked_be(share)
    except ValueError:
        return None
    return None if point == G2Point.identity() else point


def add_up(shares: Iterable[bytes]) -> bytes | None:
    """The sum of at least one share as a signature of 96 bytes; None where one is no share, or they cancel."""
    from py_arkworks_bls12381 import G2Point

    total = G2Point.identity()
    for share in shares:
        if (point := _point(share)) is None:
            return None
        total += point
    return None if total == G2Point.identity() else total.to_compressed_bytes()


def holds(public_keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
    """FastAggregateVerify: whether `signature` is the sum of all those keys' signatures of `message`.

    Sound only for keys whose possession was proved. False for no keys at all. Never raises for any bytes.
    """
    demand_curve()
    return _holds(tuple(public_keys), message, signature)


@lru_cache(maxsize=256)  # pure: who adds shares up checks the sum, and soon sees it again in a certificate
def _holds(public_keys: tuple[bytes, ...], message: bytes, signature: bytes) -> bool:
    from py_arkworks_bls12381 import G1Point

    total = G1Point.identity()
    for encoded in public_keys:
        if (key := _key(encoded)) is None:
            return False
        total += key
    point = _signature(signature)
    if point is None:  # keys that cancel hold for infinity alone, which is no signature
        return False
    return _pairs(total, message, SIGN, point)


def bad_shares(signers: Sequence[tuple[bytes, bytes]], message: bytes) -> set[int]:
    """Which of (public key, share) do not hold, by bisection: few checks where few are bad.

    Indices into `signers`. Sums of the rest hold as often as all of the rest are taken together.
    """
    bad: set[int] = set()
    groups: list[tuple[range, bool]] = [(range(len(signers)), False)]
    while groups:
        group, known_bad = groups.pop()
        if not known_bad and _group_holds([signers[i] for i in group], message):
            continue
        if len(group) == 1:
            bad.update(group)
            continue
        left, right = group[: len(group) // 2], group[len(group) // 2 :]
        left_holds = _group_holds([signers[i] for i in left], message)
        if not left_holds:
            groups.append((left, True))
        groups.append((right, left_holds))
    return bad


def _group_holds(signers: Sequence[tuple[bytes, bytes]], message: bytes) -> bool:
    total = add_up(share for _, share in signers)
    return total is not None and holds([key for key, _ in signers], message, total)


def forget() -> None:
    """Check sums anew that were checked before: for whoever measures what it takes."""
    _holds.cache_clear()
