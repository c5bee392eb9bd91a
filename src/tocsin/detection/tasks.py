"""Kinds of task, told apart by the hashed words of the user's request.

Baseline requests join the most similar prototype (leader clustering, Hartigan 1975); later requests are looked up.
Similarity is Dice's coefficient weighted by inverse document frequency. Prototypes and words are limited in number; a
request like none is NO_TASK.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tocsin.detection.bisection import first_at_least

MIN_SIMILARITY = 0.5
MAX_TASKS = 1024
MAX_WORDS = 16384
NO_TASK = -1
RECENT = 4096  # requests of a batch that are not looked up again

Floats = NDArray[np.float64]
Words = NDArray[np.int32]


class Tasks:
    """`known` `(v,)` sorted word hashes, `weight` `(v,)` their idf, `member` `(v, MAX_TASKS)`, `mass` tasks' idf."""

    def __init__(self) -> None:
        self.known = np.zeros(0, np.int32)
        self.weight = np.zeros(0)
        self.member = np.zeros((0, MAX_TASKS), np.uint8)
        self.mass = np.zeros(MAX_TASKS)
        self.size = np.zeros(1, np.int64)

    def fit(self, offset: NDArray[np.int64], words: Words) -> NDArray[np.int32]:
        """Learn tasks from requests `words[offset[i]:offset[i + 1]]`; return the task of each, shape `(n,)`."""
        known, counts = np.unique(words, return_counts=True)
        if known.shape[0] > MAX_WORDS:
            keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_WORDS])
            known, counts = known[keep], counts[keep]
        self.known = known.astype(np.int32)
        self.weight = np.log1p(max(offset.shape[0] - 1, 1) / np.maximum(counts, 1))
        self.member = np.zeros((known.shape[0], MAX_TASKS), np.uint8)
        self.mass[:] = 0.0
        self.size[:] = 0
        task = np.empty(offset.shape[0] - 1, np.int32)
        _assign(offset, words, self.known, self.weight, self.member, self.mass, self.size, True, task)
        return task

    def look_up(self, offset: NDArray[np.int64], words: Words) -> NDArray[np.int32]:
        """Task of each request, NO_TASK where none is similar."""
        task = np.empty(offset.shape[0] - 1, np.int32)
        _assign(offset, words, self.known, self.weight, self.member, self.mass, self.size, False, task)
        return task


@njit(cache=True, nogil=True)
def _assign(
    offset: NDArray[np.int64],
    words: Words,
    known: Words,
    weight: Floats,
    member: NDArray[np.uint8],
    mass: Floats,
    size: NDArray[np.int64],
    learn: bool,
    task: NDArray[np.int32],
) -> None:
    shared = np.zeros(MAX_TASKS)
    recent = np.full(RECENT, -1)
    for i in range(offset.shape[0] - 1):
        same = i if learn else _same_request(offset, words, i, recent)
        if same != i:
            task[i] = task[same]
            continue
        request = words[offset[i] : offset[i + 1]]
        best, own = _most_similar(request, known, weight, member, mass, size[0], shared)
        if learn and own > 0.0:
            if best == NO_TASK and size[0] < MAX_TASKS:
                best = size[0]
                size[0] += 1
            if best != NO_TASK:
                _join(best, request, known, weight, member, mass)
        task[i] = best


@njit(cache=True, nogil=True)
def _most_similar(
    request: Words,
    known: Words,
    weight: Floats,
    member: NDArray[np.uint8],
    mass: Floats,
    tasks: int,
    shared: Floats,
) -> tuple[int, float]:
    """The task most like `request`, NO_TASK where none is, and the idf of the request's words; `shared` is scratch."""
    shared[:tasks] = 0.0
    own = 0.0
    for word in request:
        w = first_at_least(known, word)
        if w < known.shape[0] and known[w] == word:
            own += weight[w]
            for k in range(tasks):
                if member[w, k]:
                    shared[k] += weight[w]
    best, best_similarity = NO_TASK, MIN_SIMILARITY
    for k in range(tasks):
        similarity = 2.0 * shared[k] / (own + mass[k] + 1e-12)
        if similarity > best_similarity:
            best, best_similarity = k, similarity
    return best, own


@njit(cache=True, nogil=True)
def _same_request(offset: NDArray[np.int64], words: Words, i: int, recent: NDArray[np.int64]) -> int:
    """A row before `i` with the same words, `i` itself where none is at hand: rows of a session repeat its request."""
    first, last = offset[i], offset[i + 1]
    place = np.int64(last - first)
    for j in range(first, last):
        place = (place * 31 + words[j]) & 0x7FFFFFFF
    place %= recent.shape[0]
    row = recent[place]
    recent[place] = i
    if row < 0 or offset[row + 1] - offset[row] != last - first:
        return i
    for j in range(last - first):
        if words[first + j] != words[offset[row] + j]:
            return i
    return int(row)


@njit(cache=True, nogil=True)
def _join(k: int, words: Words, known: Words, weight: Floats, member: NDArray[np.uint8], mass: Floats) -> None:
    for word in words:
        w = first_at_least(known, word)
        if w < known.shape[0] and known[w] == word and not member[w, k]:
            member[w, k] = 1
            mass[k] += weight[w]
