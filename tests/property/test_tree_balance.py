"""R1.2, R1.3: sizes, depth and links hold after any sequence of joins, leaves and moves."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tocsin.aggregation.tree import REGION_MIN, Tree, most_attachments
from tocsin.errors import InputError, UnknownAgent


class TreeMachine(RuleBasedStateMachine):
    """The twin is a dict of who is a member, and of the group each belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.groups: dict[str, str] = {}
        self.made = 0

    @rule(count=st.integers(100, 900), groups=st.integers(1, 5))
    def join(self, count: int, groups: int) -> None:
        for k in range(count):
            agent_id, self.made = f"a{self.made}", self.made + 1
            self.groups[agent_id] = f"g{k % groups}"
            self.tree.join(agent_id, self.groups[agent_id])

    @rule(seed=st.integers(0, 1 << 30), share=st.floats(0, 1))
    def leave(self, seed: int, share: float) -> None:
        pick = random.Random(seed)
        for agent_id in [a for a in self.groups if pick.random() < share]:
            del self.groups[agent_id]
            self.tree.leave(agent_id)

    @rule(share=st.floats(0, 1))
    def leave_the_oldest(self, share: float) -> None:
        """Empties whole regions and zones, where random leaves thin them out evenly."""
        for agent_id in list(self.groups)[: int(len(self.groups) * share)]:
            del self.groups[agent_id]
            self.tree.leave(agent_id)

    @rule(seed=st.integers(0, 1 << 30), to=st.integers(0, 6))
    def move(self, seed: int, to: int) -> None:
        pick = random.Random(seed)
        for agent_id in [a for a in self.groups if pick.random() < 0.1]:
            self.tree.move(agent_id, f"g{to}")

    @invariant()
    def sizes_and_links_hold(self) -> None:
        self.tree.check()

    @invariant()
    def everybody_is_in_exactly_one_region(self) -> None:
        members = [a for r in self.tree.at_level(1) for a in r.children]
        assert sorted(members) == sorted(self.groups)
        assert all(self.tree.region_of(a) == r.id for r in self.tree.at_level(1) for a in r.children)

    @invariant()
    def depth_is_logarithmic(self) -> None:
        assert self.tree.depth <= 3 + math.log(max(1, len(self.groups) / 32_000 + 1), 16)


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_no_operation_costs_more_than_the_depth_allows() -> None:
    """Zones of as many regions as they may have, since those cost most when they split or merge."""
    pick, tree = random.Random(3), Tree()
    for k in range(12_000):
        tree.join(str(k), f"g{k % 3}")
    for region in tree.at_level(1):
        while region.id in tree.nodes and region.agents > REGION_MIN:
            tree.leave(next(iter(region.children)))
    most = 0
    for _ in range(6000):
        before, agent_id = tree.operations, str(pick.randrange(12_000))
        if agent_id in tree:
            tree.leave(agent_id)
        else:
            tree.join(agent_id, f"g{int(agent_id) % 3}")
        most = max(most, tree.operations - before)
    assert 50 < most <= most_attachments(tree.depth)
    tree.check()


def test_long_churn_keeps_every_bound() -> None:
    pick, tree, alive = random.Random(1), Tree(), list[str]()
    for step in range(20_000):
        target = 2200 if step % 10_000 < 6000 else 30
        if not alive or pick.random() < (0.8 if len(alive) < target else 0.2):
            alive.append(f"a{step}")
            tree.join(alive[-1], f"g{pick.randrange(9)}")
        else:
            tree.leave(alive.pop(pick.randrange(len(alive))))
        if step % 100 == 0:
            tree.check()
    tree.check()


def test_above_64_zones_the_tree_grows_a_level_and_shrinks_again() -> None:
    tree = Tree()
    for k in range(40_000):
        tree.join(str(k))
    assert tree.depth == 4
    tree.check()
    for k in range(39_000):
        tree.leave(str(k))
    assert tree.depth == 3
    tree.check()


def test_work_per_operation_does_not_grow_with_the_fleet() -> None:
    def cost(n: int) -> float:
        tree = Tree()
        for k in range(n):
            tree.join(str(k), f"g{k % 7}")
        before = tree.operations
        for k in range(0, n, 2):
            tree.leave(str(k))
        return (tree.operations - before) / (n / 2)

    assert cost(16_000) < 1.5 * cost(2_000) + 1


def test_like_agents_end_up_together() -> None:
    tree, pick = Tree(), random.Random(5)
    group = {f"a{k}": f"g{pick.randrange(6)}" for k in range(3000)}
    for agent_id, g in group.items():
        tree.join(agent_id, g)
    mixed = sum(len({group[a] for a in r.children}) > 1 for r in tree.at_level(1))
    assert mixed <= 12


def test_the_same_calls_give_the_same_tree() -> None:
    def build() -> list[tuple[str, str, list[str]]]:
        tree = Tree()
        for k in range(1500):
            tree.join(f"a{k}", f"g{k % 4}")
        for k in range(0, 1500, 3):
            tree.leave(f"a{k}")
        return [(n.id, n.parent, list(n.children)) for n in tree.nodes.values()]

    assert build() == build()


def test_misuse_is_refused() -> None:
    tree = Tree()
    tree.join("a")
    with pytest.raises(InputError):
        tree.join("a")
    with pytest.raises(UnknownAgent):
        tree.leave("b")
