"""What a monitor signs with, and the one place where Ed25519 is used (libsodium through PyNaCl; RFC 8032).

A signature is over H(len(domain) ‖ domain ‖ len(message) ‖ message), H = BLAKE2b-256, so that bytes signed for one
purpose never count for another. libsodium's verifier is strict: it refuses small-order keys and non-canonical
scalars, and every replica uses the same one, because Ed25519 verifiers differ on edge cases (Chalkias et al. 2020)
and replicas that disagree on a signature disagree on a certificate.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from hashlib import blake2b

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from tocsin.errors import InputError
from tocsin.trust.bls import BlsSigner, secret_of

HASH_BYTES = 32
PUBLIC_KEY_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64

# Every purpose a monitor's key signs for.
EVIDENCE = b"tocsin/1 evidence batch"
PROPOSE = b"tocsin/1 propose"
VOTE = b"tocsin/1 vote"
TIMEOUT = b"tocsin/1 timeout"
PROVISIONAL = b"tocsin/1 provisional"  # one monitor's word, which nobody counts
LINK = b"tocsin/1 link"  # who is at the other end of a connection
_BLS_SEED = b"tocsin/1 bls seed"
DITHER = b"tocsin/1 dither"  # a secret for rounds of correlation: this signature never leaves its process


def domain_hash(domain: bytes, message: bytes) -> bytes:
    """BLAKE2b-256 of `message` under `domain`; 32 bytes."""
    prefix = len(domain).to_bytes(2, "big") + domain + len(message).to_bytes(8, "big")
    return blake2b(prefix + message, digest_size=HASH_BYTES).digest()


class Signer:
    """An Ed25519 key pair made from a 32-byte seed. Signing is deterministic. Raises InputError for another length."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise InputError(f"a signing seed has {SEED_BYTES} bytes, not {len(seed)}", remedy="give 32 random bytes")
        self._seed = seed
        self.public_key, self._secret_key = crypto_sign_seed_keypair(seed)

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """64-byte signature of `message` under `domain`."""
        return crypto_sign(domain_hash(domain, message), self._secret_key)[:SIGNATURE_BYTES]

    @cached_property
    def bls(self) -> BlsSigner:
        """The same monitor's key for signatures that add up; made from the same seed. Raises ConfigError."""
        return BlsSigner(secret_of(domain_hash(_BLS_SEED, self._seed)))

    def share(self, domain: bytes, message: bytes) -> bytes:
        """192-byte share of a sum of signatures of `message` under `domain`."""
        return self.bls.share(domain_hash(domain, message))


@lru_cache(maxsize=8192)
def _holds(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    # Pure, so remembering answers is safe; a vote is checked again inside the certificate it ends up in.
    try:
        crypto_sign_open(signature + digest, public_key)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def verify(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public_key`'s over `message` under `domain`. Never raises for any bytes."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    return _holds(public_key, domain_hash(domain, message), signature)
