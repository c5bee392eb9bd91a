"""What a node of the tree gathers in one round of correlating a fleet: bytes, from anybody, in any order.

Commitments come first: a digest of what each region is about to state. Only then the seed of the dither exists, made
from all of them and a secret, so nobody can have chosen a series to fit it (`stats.dither`). Statements are taken when
it is known. Whatever does not belong to the round is refused and counted, and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.correlation import Basis, CorrelationMap, possible
from tocsin.errors import InputError, WireError
from tocsin.wire.correlation import Rows, RowsPart, Statement, decode, decode_rows, join_rows

F64 = NDArray[np.float64]

COMMITMENT_BYTES = 32


def commitment(salt: bytes, region: str, window: int, series: F64) -> bytes:
    """A region's promise of its series (b, T): binding, and hiding as long as `salt` is secret."""
    digest = blake2b(digest_size=COMMITMENT_BYTES, key=blake2b(salt, digest_size=32).digest())
    digest.update(f"{region} {window} {series.shape}".encode())
    digest.update(np.ascontiguousarray(series, "<f8").tobytes())
    return digest.digest()


class FactorInbox:
    """Factor rows of one kind and window, in packets, each source's once. `refused` counts the others by reason."""

    def __init__(self, kind: int, window: int, length: int, sources: Iterable[str]) -> None:
        self._what = (kind, window, length)
        self._parts: dict[str, dict[int, RowsPart]] = {source: {} for source in sources}
        self._rows: dict[str, Rows] = {}
        self.refused: Counter[str] = Counter()

    def take(self, raw: bytes) -> bool:
        """Whether the packet was of use."""
        try:
            part = decode_rows(raw)
        except WireError:
            return self._refuse("malformed factors")
        if (part.kind, part.window, part.shape[1]) != self._what:
            return self._refuse("factors of another round")
        if part.source not in self._parts:
            return self._refuse("factors of a stranger")
        held = self._parts[part.source]
        if part.part in held:
            return self._refuse("repeated factors")
        held[part.part] = part
        try:
            self._rows[part.source] = join_rows(list(held.values()))
        except WireError:  # more to come, or parts of different matrices, which never become one
            return True
        return True

    def _refuse(self, why: str) -> bool:
        self.refused[why] += 1
        return False

    def rows(self) -> list[F64]:
        """The matrices (k, T) that are complete, in the order of the sources' names."""
        return [self._rows[source].floats() for source in sorted(self._rows)]

    def of(self, source: str) -> Rows | None:
        """One source's matrix; None where parts are missing."""
        return self._rows.get(source)


class Assembly:
    """Statements about one window of a fleet. `members` are each region's agents, in the order of their names."""

    def __init__(self, window: int, length: int, members: Mapping[str, Sequence[str]]) -> None:
        self.refused: Counter[str] = Counter()
        self.seed = b""
        self._window, self._length = window, length
        self._members = {region: tuple(names) for region, names in members.items()}
        self._commitments: dict[str, bytes] = {}
        self._said: dict[str, dict[str, Statement]] = {region: {} for region in members}
        self._basis: Basis | None = None

    def commit(self, region: str, digest: bytes) -> bool:
        """Take in a region's commitment; its first one counts."""
        if region not in self._members or len(digest) != COMMITMENT_BYTES:
            return self._refuse("malformed commitment")
        if region in self._commitments or self.seed:
            return self._refuse("repeated or late commitment")
        self._commitments[region] = digest
        return True

    def announce(self, secret: bytes, basis: Basis) -> bytes:
        """The dither's seed, once every region has committed (InputError before that); statements are on `basis`."""
        if self._commitments.keys() != self._members.keys():
            raise InputError("a region has not committed yet", remedy="announce the seed after every commitment")
        digest = blake2b(digest_size=32, key=blake2b(secret, digest_size=32).digest())
        for region in sorted(self._commitments):
            digest.update(self._commitments[region])
        self._basis, self.seed = basis, digest.digest()
        return self.seed

    def statement(self, region: str, raw: bytes) -> bool:
        """Take in a statement that came from `region`; whether it was of use."""
        try:
            one = decode(raw)
        except WireError:
            return self._refuse("malformed statement")
        if self._basis is None:
            return self._refuse("statement before the seed")
        if one.window != self._window:
            return self._refuse("statement of another window")
        shape = (one.codes.shape[0], one.loadings.shape[0])
        if one.basis != self._basis.digest or shape != (self._length, self._basis.q.shape[0]):
            return self._refuse("statement of another dimension or basis")
        if one.agent not in self._members.get(region, ()):
            return self._refuse("statement about a stranger")
        if one.agent in self._said[region]:
            return self._refuse("repeated statement")
        self._said[region][one.agent] = one
        return True

    def _refuse(self, why: str) -> bool:
        self.refused[why] += 1
        return False

    def map(self, exact: Mapping[str, F64]) -> CorrelationMap:
        """Every correlation of the agents that stated something possible; `exact` are the regions' own matrices.

        Raises InputError where nobody did, or before the seed.
        """
        if self._basis is None:
            raise InputError("there is no seed yet", remedy="announce it first")
        regions: list[tuple[list[Statement], F64]] = []
        for region, names in self._members.items():
            said = [(k, self._said[region][name]) for k, name in enumerate(names) if name in self._said[region]]
            keep = possible(self._basis, [one for _, one in said], self.seed)
            self.refused["impossible statement"] += len(said) - int(keep.sum())
            chosen = [said[k] for k in np.flatnonzero(keep).tolist()]
            index = [k for k, _ in chosen]
            if chosen:
                regions.append(([one for _, one in chosen], exact[region][np.ix_(index, index)]))
        self.refused = +self.refused
        return CorrelationMap(self._basis, regions, self.seed)
