"""The fold's state as bytes: what a monitor must hold to go on folding where the others are.

The first leaf says what fleet sizes were declared; each further one, in the order in which agents were first spoken of,
what every monitor said about an agent. Everything else that the posterior holds follows from these. The posterior root
covers them beside the entries, so whoever holds a certificate can check the state that a stranger sends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from tocsin.errors import WireError
from tocsin.trust.merkle import MerkleTree

_HEAD = struct.Struct(">4sI")
_SAID = struct.Struct(">IqQqqqq")  # monitor, log_bf in two halves, log_e, last_seq, joint_log_e, joint_round
_SIZE = struct.Struct(">I")
_MAGIC = b"fold"
_LOW = (1 << 64) - 1

Said = tuple[int, int, int, int, int]  # log_bf, log_e, last_seq, joint_log_e, joint_round


class Leaves(Sequence[bytes]):
    """Leaves of agents, made when they are asked for: to hold a state of ten thousand agents costs their names."""

    def __init__(self, names: Sequence[str], leaf_of: Callable[[str], bytes]) -> None:
        self._names, self._leaf_of = names, leaf_of

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._leaf_of(self._names[index])


@dataclass(frozen=True, slots=True)
class Folded:
    """A committed state, which stays as it is while the fold goes on (consensus/fold.py)."""

    head: bytes
    agents: Sequence[bytes]
    tree: MerkleTree
    entries_root: bytes

    @property
    def size(self) -> int:
        return 1 + len(self.agents)

    def items(self, start: int, stop: int) -> list[bytes]:
        """Leaves `start..stop - 1`; the last of them may be missing."""
        return [self.head if i == 0 else self.agents[i - 1] for i in range(start, min(stop, self.size))]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Path of a leaf to the posterior root."""
        return (*self.tree.proof(index), self.entries_root)


def head_bytes(declared: Sequence[int]) -> bytes:
    """The first leaf."""
    return _HEAD.pack(_MAGIC, len(declared)) + struct.pack(f">{len(declared)}Q", *declared)


def head_from_bytes(data: bytes, n: int) -> tuple[int, ...]:
    """Inverse of `head_bytes` for n monitors. Raises WireError."""
    if data[: _HEAD.size] != _HEAD.pack(_MAGIC, n) or len(data) != _HEAD.size + 8 * n:
        raise _malformed("it does not begin as one of this roster does")
    return struct.unpack_from(f">{n}Q", data, _HEAD.size)


def agent_bytes(name: str, said: Iterable[tuple[int, Said]]) -> bytes:
    """The leaf of an agent; `said` = (monitor, numbers) for each monitor that spoke, in the monitors' order."""
    encoded = name.encode()
    parts = [_SIZE.pack(len(encoded)), encoded]
    for m, (log_bf, *rest) in said:
        parts.append(_SAID.pack(m, log_bf >> 64, log_bf & _LOW, *rest))
    return b"".join(parts)


def agent_from_bytes(data: bytes, n: int) -> tuple[str, dict[int, Said]]:
    """Inverse of `agent_bytes` for n monitors. Raises WireError."""
    try:
        (length,) = _SIZE.unpack_from(data)
        name = data[_SIZE.size : _SIZE.size + length].decode()
        said: dict[int, Said] = {}
        for m, high, low, log_e, last_seq, joint_log_e, joint_round in _SAID.iter_unpack(data[_SIZE.size + length :]):
            if m >= n or m <= max(said, default=-1):
                raise _malformed("monitors are out of order")
            said[m] = ((high << 64) + low, log_e, last_seq, joint_log_e, joint_round)
    except (struct.error, UnicodeDecodeError) as error:
        raise _malformed(str(error)) from None
    return name, said


def _malformed(why: str) -> WireError:
    return WireError(f"a fold's state does not decode: {why}", remedy="run one version everywhere")
