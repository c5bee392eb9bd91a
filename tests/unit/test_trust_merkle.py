"""Merkle proofs bind the item, the index and the root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.trust.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, node_hash, proof, root, verify_proof

ITEMS = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def padded_root(items: list[bytes]) -> bytes:
    """The dumb twin: really pad to a power of two and hash pairs."""
    level = [leaf_hash(item) for item in items]
    while len(level) & (len(level) - 1):
        level.append(bytes(32))
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


@given(ITEMS)
def test_root_is_the_padded_trees(items: list[bytes]) -> None:
    assert root(items) == padded_root(items)


@given(ITEMS, st.data())
def test_a_proof_holds_for_its_item_and_index_only(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    path = proof(items, index)
    assert verify_proof(root(items), items[index], index, path)
    assert not verify_proof(root(items), items[index] + b"x", index, path)
    assert not verify_proof(root(items), items[index], index + (1 << len(path)), path)
    other = data.draw(st.integers(0, (1 << len(path)) - 1).filter(lambda i: i != index)) if path else None
    if other is not None and (other >= len(items) or items[other] != items[index]):
        assert not verify_proof(root(items), items[index], other, path)


@given(ITEMS, st.dictionaries(st.integers(0, 39), st.binary(max_size=8)))
def test_replacing_leaves_equals_building_anew(items: list[bytes], changes: dict[int, bytes]) -> None:
    changes = {i: value for i, value in changes.items() if i < len(items)}
    tree = MerkleTree(leaf_hash(item) for item in items)
    before = tree.root
    changed = tree.replaced({i: leaf_hash(value) for i, value in changes.items()})
    assert changed.root == root([changes.get(i, item) for i, item in enumerate(items)])
    assert tree.root == before


def test_an_inner_node_is_no_leaf() -> None:
    a, b = leaf_hash(b"a"), leaf_hash(b"b")
    assert not verify_proof(root([b"a", b"b"]), a + b, 0, ())
    assert not verify_proof(root([b"a", b"b"]), b"\x01" + a + b, 0, ())


def test_an_empty_tree_has_a_root_that_nothing_is_under() -> None:
    assert root([]) == EMPTY_ROOT
    assert not verify_proof(EMPTY_ROOT, b"", 0, ())
    with pytest.raises(IndexError):
        proof([], 0)


@pytest.mark.parametrize("path", [(b"short",), (bytes(32),) * 41])
def test_malformed_paths_are_refused(path: tuple[bytes, ...]) -> None:
    assert not verify_proof(root([b"a"]), b"a", 0, path)
