"""Position in a sorted array, as a kernel: numpy's own search takes seconds to compile."""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def first_at_least(ascending: NDArray[Any], value: float) -> int:
    """Index of the first entry that is not below `value`; the length where all are."""
    low, high = 0, ascending.shape[0]
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
