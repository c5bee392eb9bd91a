"""Proof that one piece of evidence is item `index` of a batch its monitor signed.

The item's own bytes travel along, so nothing is ever re-encoded to check it. Decoding the header and the item is the
wire's business (wire/evidence.py: `verify_evidence`); what is here is the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from tocsin.errors import WireError
from tocsin.trust import merkle
from tocsin.trust.signing import EVIDENCE, SIGNATURE_BYTES, verify

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Attestation(msgspec.Struct, frozen=True, array_like=True):
    """`header` is a signed BatchHeader, `item` the evidence's bytes as they stood in the batch."""

    header: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    item: bytes
    index: Annotated[int, msgspec.Meta(ge=0)]
    path: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=merkle.MAX_DEPTH)]


def attest(header: bytes, signature: bytes, items: Sequence[bytes]) -> tuple[Attestation, ...]:
    """One attestation per item of a signed batch, in order."""
    tree = merkle.MerkleTree(merkle.leaf_hash(item) for item in items)
    return tuple(Attestation(header, signature, item, i, tree.proof(i)) for i, item in enumerate(items))


def encode_attestation(attestation: Attestation) -> bytes:
    """Bytes for `Evidence.attestation`."""
    return msgspec.msgpack.encode(attestation)


def decode_attestation(data: bytes) -> Attestation:
    """Inverse of `encode_attestation`; raises WireError."""
    try:
        return msgspec.msgpack.decode(data, type=Attestation)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"an attestation does not decode: {error}", remedy="ask the monitor for it again") from None


def holds(attestation: Attestation, public_key: bytes, items_root: bytes) -> bool:
    """Whether the header is signed by `public_key` and the item is under the header's `items_root`."""
    return verify(public_key, EVIDENCE, attestation.header, attestation.signature) and merkle.verify_proof(
        items_root, attestation.item, attestation.index, attestation.path
    )
