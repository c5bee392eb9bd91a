"""Keyed hashes in place of signatures, for most seeds: with Ed25519 they take two fifths of a run, with BLS nearly all.

A hash under the signer's public key is no signature, but nobody in a simulation makes one in another's name: liars too
sign with the keys that they hold. Shares of BLS signatures add up by exclusive or. All else is the real code: what is
signed, in which domain, who checks what and when. One seed in `REAL_EVERY` runs with real signatures.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from tocsin.consensus import view_change, voting
from tocsin.sim.patching import patched
from tocsin.trust import bls, signing
from tocsin.trust.bls import SHARE_BYTES, BlsSigner
from tocsin.trust.signing import SIGNATURE_BYTES, Signer, domain_hash

REAL_EVERY = 32


def is_real(seed: int) -> bool:
    """Whether the run of a seed has real signatures."""
    return seed % REAL_EVERY == 0


def _tag(public_key: bytes, digest: bytes) -> bytes:
    return blake2b(digest, key=public_key, digest_size=SIGNATURE_BYTES).digest()


def _sign(self: Signer, domain: bytes, message: bytes) -> bytes:
    return _tag(self.public_key, domain_hash(domain, message))


def _holds(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    return _tag(public_key, digest) == signature


# A share is 192 bytes, a sum 96. What stands for a point on the curve are 96 bytes and as many zeros.
_ZEROS = bytes(SHARE_BYTES - bls.SIGNATURE_BYTES)


def _summand(public_key: bytes, message: bytes) -> int:
    tag = blake2b(message, key=public_key, digest_size=48).digest()
    return int.from_bytes(tag + tag[::-1], "big")


def _share(self: BlsSigner, message: bytes) -> bytes:
    return _summand(self.public_key, message).to_bytes(bls.SIGNATURE_BYTES, "big") + _ZEROS


def _is_share(data: bytes) -> bool:
    return len(data) == SHARE_BYTES and data[bls.SIGNATURE_BYTES :] == _ZEROS


def _add_up(shares: Iterable[bytes]) -> bytes | None:
    total = 0
    for share in shares:
        if not _is_share(share):
            return None
        total ^= int.from_bytes(share[: bls.SIGNATURE_BYTES], "big")
    return total.to_bytes(bls.SIGNATURE_BYTES, "big") if total else None


def _sum_holds(public_keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
    total = 0
    for public_key in public_keys:
        total ^= _summand(public_key, message)
    return bool(total) and total.to_bytes(bls.SIGNATURE_BYTES, "big") == signature


_REPLACED = (
    (Signer, "sign", _sign),
    (signing, "_holds", _holds),
    (BlsSigner, "share", _share),
    (bls, "is_share", _is_share),
    (view_change, "is_share", _is_share),
    (voting, "is_share", _is_share),
    (bls, "add_up", _add_up),
    (bls, "holds", _sum_holds),
)


@contextmanager
def signatures_of(seed: int) -> Generator[None]:
    """What signing and checking do while the run of a seed goes on."""
    if is_real(seed):
        yield
        return
    with patched(*_REPLACED):
        yield
