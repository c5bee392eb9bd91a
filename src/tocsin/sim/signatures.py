"""Keyed hashes in place of Ed25519, for most seeds of a campaign: two fifths of a run's time are signatures.

A hash under the signer's public key is no signature, but nobody in a simulation makes one in another's name: liars too
sign with the keys that they hold. All else is the real code: what is signed, in which domain, who checks what. One seed
in `REAL_EVERY` runs with Ed25519.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b

from tocsin.sim.patching import patched
from tocsin.trust import signing
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


@contextmanager
def signatures_of(seed: int) -> Generator[None]:
    """What `Signer.sign` and `verify` do while the run of a seed goes on."""
    if is_real(seed):
        yield
        return
    with patched((Signer, "sign", _sign), (signing, "_holds", _holds)):
        yield
