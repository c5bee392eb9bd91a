"""Answers to a laggard stay within a message, however many monitors there are."""

from __future__ import annotations

import pytest

from tocsin.consensus.learner import certificates_per_message
from tocsin.consensus.messages import ENVELOPE, Certificates, Certified, Tip, Votes
from tocsin.wire.limits import MAX_CERTIFICATES_PER_MESSAGE, MAX_COUNTER, MAX_MESSAGE_BYTES, MAX_MONITORS


def longest(n: int) -> Certified:
    """Every monitor signed, every number is the largest."""
    signatures = tuple((i, bytes(64)) for i in range(n))
    votes = Votes(MAX_COUNTER, MAX_COUNTER, "C", bytes(32), bytes(32), bytes(32), signatures)
    return Certified(votes, tuple(Tip(MAX_COUNTER, bytes(32)) for _ in range(n)))


@pytest.mark.parametrize("n", [1, 4, 31, 100, 132, 133, 250, 500, MAX_MONITORS])
def test_the_longest_answer_fits(n: int) -> None:
    count = certificates_per_message(n)
    assert 1 <= count <= MAX_CERTIFICATES_PER_MESSAGE
    assert len(ENVELOPE.encode(Certificates((longest(n),) * count))) <= MAX_MESSAGE_BYTES
