"""Ed25519 with domain separation."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from tocsin.errors import InputError
from tocsin.trust.signing import EVIDENCE, VOTE, Signer, domain_hash, verify

# RFC 8032, section 7.1, test 1: key pair of this seed.
RFC_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_public_key_is_the_standards() -> None:
    assert Signer(RFC_SEED).public_key == RFC_PUBLIC_KEY


def test_a_signature_holds_for_its_domain_and_message_only() -> None:
    signer = Signer(RFC_SEED)
    signature = signer.sign(VOTE, b"message")
    assert signature == signer.sign(VOTE, b"message")
    assert verify(signer.public_key, VOTE, b"message", signature)
    assert not verify(signer.public_key, EVIDENCE, b"message", signature)
    assert not verify(signer.public_key, VOTE, b"messagf", signature)
    assert not verify(Signer(bytes(32)).public_key, VOTE, b"message", signature)


def test_domain_and_message_cannot_be_shifted_into_each_other() -> None:
    assert domain_hash(b"ab", b"c") != domain_hash(b"a", b"bc")
    framed = b"\x00\x01a" + (1).to_bytes(8, "big") + b"b"
    assert domain_hash(b"a", b"b") == blake2b(framed, digest_size=32).digest()


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_garbage_is_refused_quietly(signature: bytes) -> None:
    assert not verify(RFC_PUBLIC_KEY, VOTE, b"message", signature)


def test_small_order_keys_are_refused() -> None:
    # With the neutral element as key, R = neutral and S = 0 satisfy the cofactorless equation for any message.
    neutral = b"\x01" + bytes(31)
    assert not verify(neutral, VOTE, b"anything", neutral + bytes(32))


def test_non_canonical_scalars_are_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = Signer(RFC_SEED).sign(VOTE, b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not verify(RFC_PUBLIC_KEY, VOTE, b"message", signature[:32] + scalar.to_bytes(32, "little"))


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(InputError):
        Signer(b"short")
