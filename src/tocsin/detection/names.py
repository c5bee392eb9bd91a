"""Names of a batch's tables as fleet-wide codes, in bounded number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Names:
    """Codes from 0 in order of first appearance; when `limit` is reached, new names share the last code."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.known: list[str] = []
        self.overflowed = 0
        self._code: dict[str, int] = {}
        self._table: tuple[str, ...] | None = None
        self._codes = np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self.known)

    def codes(self, table: tuple[str, ...]) -> NDArray[np.int32]:
        """Code of each name of `table`."""
        if table is not self._table:
            self._codes = np.array([self.code(name) for name in table], np.int32)
            self._table = table
        return self._codes

    def code(self, name: str) -> int:
        """Code of `name`, given one if it is new."""
        code = self._code.get(name)
        if code is not None:
            return code
        if len(self.known) >= self.limit:
            self.overflowed += 1
            return self.limit - 1
        code = self._code[name] = len(self.known)
        self.known.append(name if code < self.limit - 1 else "(others)")
        return code

    def find(self, name: str) -> int:
        """Code of a known name, else -1."""
        return self._code.get(name, -1)
