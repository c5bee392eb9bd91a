"""What a node of the tree gathers in one round of correlating a fleet: bytes, from anybody, in any order.

Commitments come first: a digest of what each region is about to state. Only then the seed of the dither exists, made
from all of them and a secret, so nobody can have chosen a series to fit it (`stats.dither`). Statements are taken when
it is known. Whatever does not belong to the round is refused, counted, and held against whoever it came from
(`blamed`), as the host saw it and whatever it says itself; it changes nothing, and keeps nobody else's out.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.correlation import Basis, CorrelationMap, possible
from tocsin.errors import InputError, WireError
from tocsin.wire.correlation import Rows, RowsPart, Statement, decode_all, decode_rows, join_rows

F64 = NDArray[np.float64]

COMMITMENT_BYTES = 32
ENERGY_ROUNDING = 1.001  # rows are sent at 16 bits an entry


def commitment(salt: bytes, region: str, window: int, series: F64) -> bytes:
    """A region's promise of its series (b, T): binding, and hiding as long as `salt` is secret."""
    digest = blake2b(digest_size=COMMITMENT_BYTES, key=blake2b(salt, digest_size=32).digest())
    digest.update(f"{region} {window} {series.shape}".encode())
    digest.update(np.ascontiguousarray(series, "<f8").tobytes())
    return digest.digest()


class FactorInbox:
    """Factor rows of one kind and window, in packets, each source's once.

    `sources` says for each how many unit series its rows were taken from, at most: their energy (sum of squares) is no
    more than that, and rows of any size would be everybody's factors. `refused` counts what was of no use by reason,
    `blamed` by sender.
    """

    def __init__(self, kind: int, window: int, length: int, sources: Mapping[str, float]) -> None:
        self._what = (kind, window, length)
        self._energy = dict(sources)
        self._parts: dict[str, dict[int, RowsPart]] = {source: {} for source in sources}
        self._rows: dict[str, Rows] = {}
        self.refused: Counter[str] = Counter()
        self.blamed: Counter[str] = Counter()

    def take(self, raw: bytes, sender: str) -> bool:
        """Whether the packet, which came from `sender`, was of use."""
        try:
            part = decode_rows(raw)
        except WireError:
            return self._refuse("malformed factors", sender)
        if (part.kind, part.window, part.shape[1]) != self._what:
            return self._refuse("factors of another round", sender)
        if sender not in self._parts:
            return self._refuse("factors of a stranger", sender)
        if part.source != sender:
            return self._refuse("factors under another name", sender)
        held = self._parts[sender]
        if part.part in held:
            return self._refuse("repeated factors", sender)
        if any((one.shape, one.exponent) != (part.shape, part.exponent) for one in held.values()):
            return self._refuse("factors that do not fit together", sender)
        held[part.part] = part
        with contextlib.suppress(WireError):  # more to come
            rows = join_rows(list(held.values()))
            if float(np.square(rows.floats()).sum()) > self._energy[sender] * ENERGY_ROUNDING:
                return self._refuse("impossible factors", sender)
            self._rows[sender] = rows
        return True

    def _refuse(self, why: str, sender: str) -> bool:
        self.refused[why] += 1
        self.blamed[sender] += 1
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
        self.blamed: Counter[str] = Counter()  # by region
        self.seed = b""
        self._window, self._length = window, length
        self._members = {region: tuple(names) for region, names in members.items()}
        self._commitments: dict[str, bytes] = {}
        self._said: dict[str, dict[str, Statement]] = {region: {} for region in members}
        self._basis: Basis | None = None

    def commit(self, region: str, digest: bytes) -> bool:
        """Take in a region's commitment; its first one counts."""
        if region not in self._members or len(digest) != COMMITMENT_BYTES:
            return self._refuse("malformed commitment", region)
        if region in self._commitments or self.seed:
            return self._refuse("repeated or late commitment", region)
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
        return self.statements(region, [raw])[0]

    def statements(self, region: str, raws: Sequence[bytes]) -> list[bool]:
        """Take in statements that came from `region`; which of them were of use."""
        return [self._stated(region, one) for one in decode_all(raws)]

    def _stated(self, region: str, one: Statement | None) -> bool:
        why = "malformed statement" if one is None else self._reason_to_refuse(region, one)
        if one is None or why:
            return self._refuse(why, region)
        self._said[region][one.agent] = one
        return True

    def _reason_to_refuse(self, region: str, one: Statement) -> str:
        if self._basis is None:
            return "statement before the seed"
        if one.window != self._window:
            return "statement of another window"
        shape = (one.codes.shape[0], one.loadings.shape[0])
        if one.basis != self._basis.digest or shape != (self._length, self._basis.q.shape[0]):
            return "statement of another dimension or basis"
        if one.agent not in self._members.get(region, ()):
            return "statement about a stranger"
        return "repeated statement" if one.agent in self._said[region] else ""

    def _refuse(self, why: str, region: str) -> bool:
        self.refused[why] += 1
        self.blamed[region] += 1
        return False

    def map(self, exact: Mapping[str, F64] | None = None) -> CorrelationMap:
        """Every correlation of the agents that stated something possible.

        `exact` are the matrices of regions that the caller itself holds; nothing sends them.

        Raises InputError where nobody did, or before the seed.
        """
        if self._basis is None:
            raise InputError("there is no seed yet", remedy="announce it first")
        regions: list[tuple[list[Statement], F64 | None]] = []
        for region, names in self._members.items():
            said = [(k, self._said[region][name]) for k, name in enumerate(names) if name in self._said[region]]
            keep = possible(self._basis, [one for _, one in said], self.seed)
            wrong = len(said) - int(keep.sum())
            if wrong:
                self.refused["impossible statement"] += wrong
                self.blamed[region] += wrong
            chosen = [said[k] for k in np.flatnonzero(keep).tolist()]
            index = [k for k, _ in chosen]
            own = (exact or {}).get(region)
            if chosen:
                regions.append(([one for _, one in chosen], None if own is None else own[np.ix_(index, index)]))
        return CorrelationMap(self._basis, regions, self.seed)
