"""BLS signatures: the published vectors, points that must not count, rogue keys, and which share is bad."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.errors import ConfigError, InputError
from tocsin.trust import bls

VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "bls12-381.json").read_text())
INFINITY_1 = b"\xc0" + bytes(47)
INFINITY_2 = b"\xc0" + bytes(95)
NOT_IN_G1 = bytes.fromhex("8" + "123456789abcdef" + "0123456789abcdef" * 5)
NOT_IN_G2 = bytes.fromhex("8" + "123456789abcdef" + "0123456789abcdef" * 11)
SIGNERS = [bls.BlsSigner(bls.secret_of(bytes([i]) * 32)) for i in range(9)]
KEYS = [signer.public_key for signer in SIGNERS]
MESSAGE = b"message"
SHARES = [signer.share(MESSAGE) for signer in SIGNERS]


def uncompressed(signature: bytes) -> bytes:
    from py_arkworks_bls12381 import G2Point

    return G2Point.from_compressed_bytes_unchecked(signature).to_xy_bytes_be()


def test_published_key_generation_and_public_keys():
    case = VECTORS["key_gen"]
    assert bls.secret_of(bytes.fromhex(case["seed"])) == int(case["secret"])
    for secret, key in VECTORS["public_keys"]:
        assert bls.BlsSigner(int(secret, 16)).public_key.hex() == key


@pytest.mark.parametrize(("secret", "message", "signature"), VECTORS["sign"])
def test_published_signatures(secret: str, message: str, signature: str):
    signer = bls.BlsSigner(int(secret, 16))
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert bls.add_up([signer.share(bytes.fromhex(message))]) == bytes.fromhex(signature)


@pytest.mark.parametrize(("keys", "message", "signature", "expected"), VECTORS["verify"])
def test_published_verifications_of_one_and_of_many(keys: list[str], message: str, signature: str, expected: bool):
    held = bls.holds([bytes.fromhex(key) for key in keys], bytes.fromhex(message), bytes.fromhex(signature))
    assert held is expected


@pytest.mark.parametrize(("encoded", "expected"), VECTORS["deserialization_G1"])
def test_published_encodings_of_keys(encoded: str, expected: bool):
    key = bytes.fromhex(encoded)
    assert bls.key_holds(key) is (expected and key != INFINITY_1)  # infinity decodes, and is nobody's key


@pytest.mark.parametrize(("encoded", "expected"), VECTORS["deserialization_G2"])
def test_published_encodings_of_signatures(encoded: str, expected: bool):
    signature = bytes.fromhex(encoded)
    decodes = bls._signature(signature) is not None
    assert decodes is (expected and signature != INFINITY_2)


def test_a_sum_holds_for_exactly_its_signers():
    total = bls.add_up(SHARES[:5])
    assert total is not None
    assert bls.holds(KEYS[:5], MESSAGE, total)
    assert not bls.holds(KEYS[:4], MESSAGE, total)
    assert not bls.holds(KEYS[:6], MESSAGE, total)
    assert not bls.holds([*KEYS[:5], KEYS[0]], MESSAGE, total)
    assert not bls.holds(KEYS[:5], b"another", total)


def test_a_rogue_key_signs_for_others_and_has_no_proof_of_possession():
    from py_arkworks_bls12381 import G1Point

    mine = bls.BlsSigner(12345)
    difference = G1Point.from_compressed_bytes(mine.public_key) - G1Point.from_compressed_bytes(KEYS[0])
    rogue = difference.to_compressed_bytes()
    forged = mine.sign(MESSAGE)
    assert bls.holds([KEYS[0], rogue], MESSAGE, forged)  # monitor 0 never signed: why rosters demand proofs
    for proof in (mine.prove_possession(), SIGNERS[0].prove_possession(), mine.sign(rogue), forged):
        assert not bls.possession_holds(rogue, proof)


def test_keys_that_cancel_hold_for_nothing():
    from py_arkworks_bls12381 import G1Point

    opposite = (-G1Point.from_compressed_bytes(KEYS[0])).to_compressed_bytes()
    assert bls.key_holds(opposite)
    for signature in (INFINITY_2, bytes(96), b"\xff" * 96, SIGNERS[0].sign(MESSAGE)):
        assert not bls.holds([KEYS[0], opposite], MESSAGE, signature)


def test_possession_is_proved_for_one_key_and_for_nothing_else():
    proof = SIGNERS[0].prove_possession()
    assert bls.possession_holds(KEYS[0], proof)
    assert not bls.possession_holds(KEYS[1], proof)
    assert not bls.possession_holds(KEYS[0], SIGNERS[0].sign(KEYS[0]))  # a signature is no proof
    assert not bls.holds([KEYS[0]], KEYS[0], proof)  # nor a proof a signature
    assert not bls.possession_holds(INFINITY_1, INFINITY_2)


@pytest.mark.parametrize("key", [INFINITY_1, NOT_IN_G1, b"\xff" * 48, bytes(48), b"", KEYS[0][:-1], KEYS[0] + b"\0"])
def test_what_is_no_key_counts_for_nothing(key: bytes):
    assert not bls.key_holds(key)
    assert not bls.holds([key], MESSAGE, SIGNERS[0].sign(MESSAGE))
    assert not bls.holds([KEYS[0], key], MESSAGE, SIGNERS[0].sign(MESSAGE))


@pytest.mark.parametrize("signature", [INFINITY_2, NOT_IN_G2, b"\xff" * 96, bytes(96), b"", bytes(192)])
def test_what_is_no_signature_holds_for_nobody(signature: bytes):
    assert not bls.holds([KEYS[0]], MESSAGE, signature)


def test_a_share_outside_the_subgroup_spoils_the_sum_and_is_found():
    stray = uncompressed(NOT_IN_G2)
    assert bls.is_share(stray)  # on the curve: nobody has looked further yet
    mixed = [*SHARES[:3], stray]
    total = bls.add_up(mixed)
    assert total is not None
    assert not bls.holds(KEYS[:4], MESSAGE, total)
    assert bls.bad_shares(list(zip(KEYS, mixed, strict=False)), MESSAGE) == {3}
    # Nor does a signature count to which a point of small order was added.
    tampered = bls.add_up([SHARES[0], stray])
    assert tampered is not None
    assert not bls.holds([KEYS[0]], MESSAGE, tampered)


@pytest.mark.parametrize(
    "share", [b"", bytes(192), bytes(96), b"\xff" * 192, SHARES[0][:-1] + b"\0", SHARES[0] + b"\0"]
)
def test_what_is_no_share_is_not_added(share: bytes):
    assert not bls.is_share(share)
    assert bls.add_up([SHARES[0], share]) is None


def test_shares_that_cancel_add_up_to_nothing():
    from py_arkworks_bls12381 import G2Point

    opposite = (-G2Point.from_xy_bytes_be(SHARES[0])).to_xy_bytes_be()
    assert bls.add_up([SHARES[0], opposite]) is None
    assert bls.add_up([]) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["good", "other message", "other signer", "junk"]), min_size=1, max_size=9))
def test_bisection_finds_what_one_by_one_finds(kinds: list[str]):
    made = {
        "good": lambda i: SHARES[i],
        "other message": lambda i: SIGNERS[i].share(b"another"),
        "other signer": lambda i: SHARES[i - 1],
        "junk": lambda i: b"junk",
    }
    pairs = [(KEYS[i], made[kind](i)) for i, kind in enumerate(kinds)]
    one_by_one = {i for i, pair in enumerate(pairs) if bls.bad_shares([pair], MESSAGE)}
    assert one_by_one == {i for i, kind in enumerate(kinds) if kind != "good"}
    found = bls.bad_shares(pairs, MESSAGE)
    rest = [pair for i, pair in enumerate(pairs) if i not in found]
    # Neighbours' shares in a circle are permuted, and their sum is right again: such groups may pass as a whole.
    assert found <= one_by_one
    total = bls.add_up(share for _, share in rest)
    assert not rest or (total is not None and bls.holds([key for key, _ in rest], MESSAGE, total))


def test_signing_is_deterministic_and_does_not_use_the_secret_as_it_is():
    signer = SIGNERS[0]
    assert signer.share(MESSAGE) == SHARES[0] == bls.BlsSigner(bls.secret_of(bytes(32))).share(MESSAGE)
    assert len({signer.share(bytes([i])) for i in range(5)}) == 5


@pytest.mark.parametrize("secret", [0, -1, bls.ORDER, bls.ORDER + 1])
def test_secrets_outside_the_group_are_refused(secret: int):
    with pytest.raises(InputError):
        bls.BlsSigner(secret)


def test_short_seeds_are_refused_and_seeds_differ():
    with pytest.raises(InputError):
        bls.secret_of(bytes(31))
    secrets = [bls.secret_of(bytes([i]) * 32) for i in range(20)]
    assert all(a != b for a, b in pairwise(sorted(secrets)))


def test_without_the_library_the_cause_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "py_arkworks_bls12381", None)
    with pytest.raises(ConfigError, match="not installed"):
        bls.BlsSigner(1)
    with pytest.raises(ConfigError, match="not installed"):
        bls.holds([KEYS[0]], MESSAGE, bytes(96))
