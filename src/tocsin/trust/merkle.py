"""Merkle trees with domain-separated leaves and nodes, in the style of RFC 6962 (Laurie, Langley, Kasper 2013).

The tree is padded with constant empty subtrees to a power of two, so a proof's direction at every level is a bit of
the leaf's index: a proof binds the index and needs no tree size. No data hashes to the empty leaf (32 zero bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

HASH_BYTES = 32
MAX_DEPTH = 40
_NODE = b"\x01"


def leaf_hash(item: bytes) -> bytes:
    """Hash of a leaf's data; 32 bytes."""
    return blake2b(b"\x00" + item, digest_size=HASH_BYTES).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return blake2b(_NODE + left + right, digest_size=HASH_BYTES).digest()


def _empty_subtrees() -> tuple[bytes, ...]:
    empty = [bytes(HASH_BYTES)]
    for _ in range(MAX_DEPTH):
        empty.append(node_hash(empty[-1], empty[-1]))
    return tuple(empty)


EMPTY = _empty_subtrees()  # by height
EMPTY_ROOT = EMPTY[0]


def _parent(level: Sequence[bytes], height: int, index: int) -> bytes:
    left = 2 * index
    return node_hash(level[left], level[left + 1] if left + 1 < len(level) else EMPTY[height])


class MerkleTree:
    """An immutable tree over leaf hashes; `replaced` shares nothing mutable with the tree it came from."""

    def __init__(self, leaf_hashes: Iterable[bytes]) -> None:
        self._levels: list[list[bytes]] = [list(leaf_hashes)]
        while len(self._levels[-1]) > 1:
            level, height = self._levels[-1], len(self._levels) - 1
            self._levels.append([_parent(level, height, i) for i in range((len(level) + 1) // 2)])

    @property
    def root(self) -> bytes:
        """32 bytes; EMPTY_ROOT for no leaves."""
        return self._levels[-1][0] if self._levels[-1] else EMPTY_ROOT

    def __len__(self) -> int:
        return len(self._levels[0])

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Siblings from the leaf upwards. Raises IndexError outside the tree."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        path: list[bytes] = []
        for height, level in enumerate(self._levels[:-1]):
            sibling = (index >> height) ^ 1
            path.append(level[sibling] if sibling < len(level) else EMPTY[height])
        return tuple(path)

    def replaced(self, leaf_hashes: Mapping[int, bytes]) -> MerkleTree:
        """The same tree with some leaves' hashes replaced, or added without a gap: touches only their paths."""
        tree = MerkleTree(())
        tree._levels = [level.copy() for level in self._levels]
        for index, value in sorted(leaf_hashes.items()):
            if index < len(tree._levels[0]):
                tree._levels[0][index] = value
            elif index == len(tree._levels[0]):
                tree._levels[0].append(value)
            else:
                raise IndexError(index)
        while 1 << (len(tree._levels) - 1) < len(tree._levels[0]):
            tree._levels.append([])
        touched = set(leaf_hashes)
        for height, level in enumerate(tree._levels[:-1]):
            touched = {index >> 1 for index in touched}
            above = tree._levels[height + 1]
            above.extend([EMPTY[height + 1]] * ((len(level) + 1) // 2 - len(above)))
            for index in touched:
                above[index] = _parent(level, height, index)
        return tree


def root(items: Iterable[bytes]) -> bytes:
    """Merkle root over the items' bytes, in order."""
    return MerkleTree(leaf_hash(item) for item in items).root


def proof(items: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Proof that `items[index]` is under `root(items)`."""
    return MerkleTree(leaf_hash(item) for item in items).proof(index)


def verify_proof(root_hash: bytes, item: bytes, index: int, path: Sequence[bytes]) -> bool:
    """Whether `item` is leaf `index` of the tree with `root_hash`. Never raises for any bytes."""
    if len(path) > MAX_DEPTH or not 0 <= index < 1 << len(path):
        return False
    node = leaf_hash(item)
    for height, sibling in enumerate(path):
        if len(sibling) != HASH_BYTES:
            return False
        node = node_hash(sibling, node) if index >> height & 1 else node_hash(node, sibling)
    return node == root_hash
