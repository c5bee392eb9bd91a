"""State transfer: catching up with decisions that nobody keeps any more, and coming back without a journal.

Whoever is asked for a decision that it has dropped offers its newest state instead: a certificate, and how many leaves
the state under its posterior root has. The laggard fetches the leaves in chunks, each a whole subtree with its path to
the certified root, from one server at a time. A chunk that does not hold names its sender; another server is tried. So
one honest server is enough, and nothing of a state is believed before it is checked.

A monitor that lost its journal may have signed what it cannot remember. It asks everybody where they stand. A decision
of epoch e was voted for by n - 2f honest others, who had decided e - 1 before; n - 1 - f answers include one of them.
So when the furthest answer proves b decisions, nothing was signed beyond epoch b + 1, and from b + 2 on the monitor may
sign again. Until then it learns and keeps silent, one of the f faults that are tolerated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tocsin.consensus.fold import Folded
from tocsin.consensus.messages import Certified, StateChunk
from tocsin.trust.merkle import EMPTY, MerkleTree, leaf_hash, node_hash
from tocsin.wire.limits import MAX_CHUNK_BYTES, MAX_LEAVES_PER_CHUNK, MAX_STATE_LEAVES

STATE_TIMER = "state"
WINDOW = 4  # chunks asked for at a time
STRIKES = 3  # times that a server may send nothing before another is asked
MAX_DOUBLINGS = 6  # of the patience with all of them
SERVED_AT_ONCE = 8  # states held for others: each for one of them, the one not asked for longest goes
CHUNKS_PER_DELAY = 2 * WINDOW  # sent to one monitor within a pull delay


def leaves_per_chunk(n: int) -> int:
    """A power of two; a leaf of a fold over n monitors has at most 512 + 64 n bytes."""
    room = max(1, min(MAX_LEAVES_PER_CHUNK, MAX_CHUNK_BYTES // (512 + 64 * n)))
    return 1 << (room.bit_length() - 1)


def chunk_of(n: int, epoch: int, folded: Folded, index: int) -> StateChunk | None:
    """Chunk `index` of a state, None where it has no such chunk."""
    size = leaves_per_chunk(n)
    if index * size >= folded.size:
        return None
    path = folded.proof(index * size)
    items = folded.items(index * size, (index + 1) * size)
    return StateChunk(epoch, index, tuple(items), path[_height(size, folded.size) :])


def _height(size: int, leaves: int) -> int:
    """Of a chunk's subtree: the tree may be lower than a full chunk."""
    return min(size.bit_length() - 1, (leaves - 1).bit_length())


@dataclass(slots=True)
class StateServer:
    """States offered to others, each as it was when it was offered."""

    held: dict[int, tuple[Certified, Folded]] = field(default_factory=dict[int, tuple[Certified, Folded]])
    _sent: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])  # to -> since when, how many

    def hold(self, source: int, certified: Certified, folded: Folded) -> None:
        """Keep a state for `source`, instead of what was kept for it before."""
        self.held.pop(source, None)
        if len(self.held) == SERVED_AT_ONCE:
            del self.held[next(iter(self.held))]
        self.held[source] = certified, folded

    def state_for(self, source: int, epoch: int) -> Folded | None:
        """What is kept for `source`, if it is the state after `epoch`; asking keeps it longest."""
        kept = self.held.pop(source, None)
        if kept is None:
            return None
        self.held[source] = kept
        return kept[1] if kept[0].votes.epoch == epoch else None

    def may_send(self, source: int, now_ns: int, delay_ns: int) -> bool:
        """Whether `source` has not had more than its share lately: a request is small, a chunk is not."""
        since, count = self._sent.get(source, (now_ns, 0))
        if now_ns - since >= delay_ns:
            since, count = now_ns, 0
        self._sent[source] = since, count + 1
        return count < CHUNKS_PER_DELAY


class Transfer:
    """A state being fetched from `server`: the one after `certified`, which holds."""

    def __init__(self, n: int, server: int, certified: Certified, leaves: int) -> None:
        self.server = server
        self.certified = certified
        self.strikes = 0
        self._size = leaves_per_chunk(n)
        self._leaves = leaves
        self._chunks: dict[int, tuple[bytes, ...]] = {}

    @property
    def epoch(self) -> int:
        return self.certified.votes.epoch

    @property
    def possible(self) -> bool:
        """Whether there is a state of so many leaves."""
        return 1 <= self._leaves <= MAX_STATE_LEAVES

    def wanted(self) -> list[int]:
        """The next chunks to ask for; none when all are here."""
        count = -(-self._leaves // self._size)
        return [i for i in range(min(count, len(self._chunks) + WINDOW)) if i not in self._chunks][:WINDOW]

    def take(self, chunk: StateChunk) -> bool:
        """Take in a chunk that was wanted; False where it does not hold."""
        first = chunk.index * self._size
        if chunk.index in self._chunks or first >= self._leaves:
            return True  # twice, or never asked for: of no use
        if len(chunk.items) != min(self._size, self._leaves - first) or not self._is_under_root(chunk):
            return False
        self._chunks[chunk.index] = chunk.items
        self.strikes = 0
        return True

    def _is_under_root(self, chunk: StateChunk) -> bool:
        height = _height(self._size, self._leaves)
        tree = MerkleTree(leaf_hash(item) for item in chunk.items)
        node, low = tree.root, (len(chunk.items) - 1).bit_length()
        for level in range(low, height):  # the last chunk may fill less than its subtree
            node = node_hash(node, EMPTY[level])
        depth = (self._leaves - 1).bit_length()
        if len(chunk.proof) != depth - height + 1:
            return False
        for level, sibling in enumerate(chunk.proof[:-1]):
            node = node_hash(sibling, node) if chunk.index >> level & 1 else node_hash(node, sibling)
        return node_hash(chunk.proof[-1], node) == self.certified.votes.posterior_root

    def items(self) -> list[bytes]:
        """All leaves, when nothing is wanted any more."""
        return [item for index in sorted(self._chunks) for item in self._chunks[index]]
