"""Counting shares that add up, for a leader: one check of their sum, and many hands where somebody spoils it.

Shares are kept as they come. When a quorum is there their sum is checked, which is all where everybody is honest. Where
it does not hold, groups of shares are checked, and a few bad groups are bisected. More would keep a leader busy for a
second and longer (a third of 1000 liars: a check for nearly everybody), so then each group goes to several helpers,
drawn by a hash of what is voted on. An answer is a claim which shares of the group hold. The leader believes none, and
checks the sum of what two helpers claim alike, or of any claim once all have answered: about one check a group. One
honest helper a group is enough; where a group has none, the view fails and the next leader draws others.

Whose shares did not add up is doubted until a view fails: such shares are set aside, and only looked at when the others
are too few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from tocsin.consensus import sums
from tocsin.consensus.messages import MAX_SIFTED
from tocsin.model.verdict import Roster
from tocsin.trust.signing import VOTE, domain_hash

GROUP = MAX_SIFTED  # shares that one helper checks: some 50 ms
HELPERS = 7  # a group; with a third of liars, a group in 2000 has no honest one
ALIKE = 2  # claims that are checked before all helpers have answered
SIFT_FROM = 64  # monitors; fewer are bisected by the leader
BISECTED = 2  # bad groups that a leader bisects by itself
_DRAW = b"tocsin/1 draw of helpers"

Shares = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Question:
    """Which of `shares` hold, asked of `helper`."""

    helper: int
    shares: Shares


@dataclass(slots=True)
class _Group:
    """Shares that helpers look at, and what they claimed so far: which hold -> by how many."""

    shares: Shares
    waiting: set[int]
    claims: Counter[frozenset[int]] = field(default_factory=Counter[frozenset[int]])


def _split(shares: Mapping[int, bytes]) -> list[Shares]:
    items = list(shares.items())
    return [dict(items[at : at + GROUP]) for at in range(0, len(items), GROUP)]


class Tally:
    """Votes for one statement, whose signed bytes are `signed`. `votes` hold; a quorum of them makes a certificate."""

    def __init__(self, roster: Roster, me: int, signed: bytes, doubted: frozenset[int] = frozenset()) -> None:
        self.votes: Shares = {}
        self.bad: set[int] = set()  # found by ourselves
        self._roster = roster
        self._me = me
        self._signed = signed
        self._doubted = doubted
        self._fresh: Shares = {}  # not looked at yet
        self._aside: Shares = {}  # of whoever is doubted
        self._asked: dict[int, _Group] = {}  # by helper that has not answered yet
        self._sifted: set[int] = set()  # whose shares went to helpers
        self._spoiled = False  # too many bad shares to look at them alone
        self._helpers = self._draw()

    @property
    def doubted(self) -> frozenset[int]:
        """Whose shares did not add up, here or before."""
        return frozenset(((self._doubted | self._sifted) - self.votes.keys()) | self.bad)

    def add(self, monitor: int, share: bytes) -> list[Question]:
        """Take a share in; whom to ask about what, if that is due."""
        known = (self.votes, self._fresh, self._aside, self._sifted, self.bad)
        if not any(monitor in some for some in known):
            (self._aside if monitor in self._doubted else self._fresh)[monitor] = share
        return self._look()

    def answer(self, helper: int, good: set[int]) -> list[Question]:
        """`helper` claims that the shares of `good` hold."""
        group = self._asked.pop(helper, None)
        if group is None:
            return []
        group.waiting.discard(helper)
        claim = frozenset(good & group.shares.keys())
        group.claims[claim] += 1
        due = [claim] if group.claims[claim] == ALIKE else []
        if not group.waiting:
            due += [one for one, often in group.claims.items() if often < ALIKE]
        for one in due:
            claimed = {monitor: group.shares[monitor] for monitor in one - self.votes.keys()}
            if claimed and self._holds(claimed):
                self.votes.update(claimed)
        return self._look()

    def _holds(self, shares: Mapping[int, bytes]) -> bool:
        return sums.shares_hold(self._roster, shares, VOTE, self._signed)

    def _look(self) -> list[Question]:
        missing = self._roster.quorum - len(self.votes)
        if missing <= 0:
            return []
        if len(self._fresh) >= (min(missing, GROUP) if self._spoiled else missing):
            fresh, self._fresh = self._fresh, {}
            return self._sift(fresh) if self._spoiled else self._check(fresh)
        if self._aside and len(self._fresh) + len(self._aside) >= missing:
            aside, self._aside = self._aside, {}
            return self._sift(aside)
        return []

    def _check(self, shares: Shares) -> list[Question]:
        if self._holds(shares):
            self.votes.update(shares)
            return []
        groups = _split(shares)
        bad: list[Shares] = []
        while groups and (len(bad) <= BISECTED or self._roster.n < SIFT_FROM):
            group = groups.pop()
            if self._holds(group):
                self.votes.update(group)
            else:
                bad.append(group)
        left = {monitor: share for group in (*bad, *groups) for monitor, share in group.items()}
        self._spoiled = bool(groups)
        return self._sift(left) if groups else self._bisect(left)

    def _bisect(self, shares: Shares) -> list[Question]:
        bad = sums.spoilers(self._roster, shares, VOTE, self._signed)
        self.bad |= bad
        self.votes.update((monitor, share) for monitor, share in shares.items() if monitor not in bad)
        return []

    def _sift(self, shares: Shares) -> list[Question]:
        if self._roster.n < SIFT_FROM:
            return self._bisect(shares)
        self._sifted |= shares.keys()
        questions: list[Question] = []
        for group in _split(shares):
            helpers = list(islice(self._helpers, HELPERS))
            if not helpers:  # everybody is busy with a group already
                self._bisect(group)
                continue
            asked = _Group(group, set(helpers))
            self._asked.update((helper, asked) for helper in helpers)
            questions.extend(Question(helper, group) for helper in helpers)
        return questions

    def _draw(self) -> Iterator[int]:
        """Monitors other than ourselves, each once, in an order that nobody could foresee."""
        n = self._roster.n
        ranks = [domain_hash(_DRAW, self._signed + i.to_bytes(4, "big")) for i in range(n)] if n >= SIFT_FROM else []
        return iter([i for i in sorted(range(len(ranks)), key=ranks.__getitem__) if i != self._me])
