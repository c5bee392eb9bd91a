"""The part of numba that tocsin uses, typed so that a compiled function keeps its signature."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")

@overload
def njit(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def njit(
    signature: str | list[str] | None = ...,
    /,
    *,
    cache: bool = ...,
    nogil: bool = ...,
    fastmath: bool | set[str] = ...,
    parallel: bool = ...,
    boundscheck: bool | None = ...,
    inline: str = ...,
    error_model: str = ...,
    locals: dict[str, Any] = ...,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def prange(start: int, stop: int = ..., step: int = ..., /) -> range: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...

__version__: str
