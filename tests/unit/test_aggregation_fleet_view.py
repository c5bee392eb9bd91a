"""R1.9: what the root says about the fleet reaches every leaf, unread on the way, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.aggregation.fleet_view import AHEAD_NS, FleetView, statement
from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.summary import Summary
from tocsin.model.events import EventBatch
from tocsin.stats.histogram import BINS
from tocsin.stats.moments import Grid, MomentLayout
from tocsin.wire import update as wire

SECOND = 1_000_000_000
NOW = 0
GRID = Grid(("a", "b"), (0, 0), (-8, -8))


def total(n: int, epoch: int = 1) -> Summary:
    """`n` events that had neither feature."""
    one = Summary.empty(epoch, 2)
    one.counts[0] = n
    return one


def said(n: int, seq: int, epoch: int = 1) -> list[bytes]:
    return statement(total(n, epoch), GRID, level=3, seq=seq, as_of_ms=5, agents=4)


def big(seq: int) -> list[bytes]:
    """A statement in several parts."""
    whole = total(9)
    names = {f"{'tool' * 20}{k}": k + 1 for k in range(40)}
    whole = Summary(1, 2, whole.counts, names)
    return statement(whole, GRID, level=3, seq=seq, as_of_ms=5, agents=4)


def test_a_statement_is_read_as_it_was_made() -> None:
    view = FleetView()
    assert view.read() is None
    assert all(view.accept(body, NOW) for body in said(7, seq=1))
    assert view.read() == (total(7), GRID, 5)
    assert all(view.accept(body, NOW) for body in said(8, seq=2))
    assert view.read() == (total(8), GRID, 5)


def test_parts_count_once_all_are_there_and_a_newer_statement_replaces_them() -> None:
    view = FleetView()
    grid, *parts = big(seq=1)
    assert len(parts) > 2
    for body in (grid, *parts[:-1]):
        assert view.accept(body, NOW)
    assert view.read() is None
    assert not view.accept(parts[0], NOW)
    for body in reversed(big(seq=2)):
        assert view.accept(body, NOW)
    assert view.seq == 2
    assert not view.accept(parts[-1], NOW)
    assert view.refused == {"duplicate": 1, "outdated": 1}


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("malformed", b"TU\x01\x01"),
        ("malformed", b"TG\x01\xff"),
        ("duplicate", said(7, seq=3)[1]),
        ("outdated", said(7, seq=2)[1]),
        ("ahead of the clock", said(7, seq=NOW + AHEAD_NS + 1)[1]),
        ("ahead of the clock", said(7, seq=1 << 62)[1]),
        ("ahead of the clock", big(seq=1 << 62)[2]),
        ("not about the fleet", wire.encode(wire.Update(
            kind=wire.SNAPSHOT, source="r1", level=1, epoch=1, seq=9, as_of_ms=1, agents=1, d=2, counts=total(1).counts,
            actions={}))[0]),
    ],
)  # fmt: skip
def test_what_is_no_news_is_not_passed_on(reason: str, body: bytes) -> None:
    view = FleetView()
    for good in said(7, seq=3):
        view.accept(good, NOW)
    assert not view.accept(body, NOW)
    assert view.refused == {reason: 1}
    assert view.read() == (total(7), GRID, 5)


@pytest.mark.parametrize("epoch", [0, 2, 1 << 31])
def test_a_grid_without_its_sum_changes_nothing(epoch: int) -> None:
    view = FleetView()
    for body in said(7, seq=3):
        view.accept(body, NOW)
    view.accept(said(9, seq=4, epoch=epoch)[0], NOW)
    assert view.read() == (total(7), GRID, 5)
    for body in said(8, seq=5):
        assert view.accept(body, NOW)
    assert view.read() == (total(8), GRID, 5)


def test_one_false_statement_keeps_true_ones_out_for_a_minute_at_most() -> None:
    view = FleetView()
    for body in said(9, seq=NOW + AHEAD_NS, epoch=1 << 31):
        assert view.accept(body, NOW)
    after = NOW + AHEAD_NS + 1
    for body in said(7, seq=after):
        assert view.accept(body, after)
    assert view.read() == (total(7), GRID, 5)
    assert not view.refused


def test_a_clock_that_is_set_back_does_not_silence_the_root() -> None:
    view = FleetView()
    for body in said(7, seq=10 * AHEAD_NS):
        view.accept(body, 10 * AHEAD_NS)
    assert view.next_seq(10 * AHEAD_NS) == 10 * AHEAD_NS + 1
    assert view.next_seq(SECOND) == SECOND
    for body in said(8, seq=SECOND):
        assert view.accept(body, SECOND)
    assert view.read() == (total(8), GRID, 5)


def test_a_sum_that_nobody_can_have_is_not_believed() -> None:
    broken = total(5)
    broken.counts[MomentLayout(2).size + BINS // 2] = 3
    view = FleetView()
    for body in statement(broken, GRID, level=3, seq=1, as_of_ms=5, agents=4):
        assert view.accept(body, NOW)
    assert view.read() is None
    assert view.refused == {"impossible": 1}


def test_every_leaf_hears_what_the_root_sums() -> None:
    agents = tuple(f"a{k}" for k in range(700))
    rng = np.random.default_rng(0)
    batch = EventBatch(
        offset=0, agents=agents, agent=np.arange(700, dtype=np.int32), t_ns=np.arange(700), session=np.zeros(700, int),
        phase=np.zeros(700, np.int8), kind=np.zeros(700, np.int8), actions=("x",), action=np.zeros(700, np.int32),
        effect=np.zeros(700, np.int8), feature_names=("f", "g"), values=rng.normal(size=(700, 2)),
    )  # fmt: skip
    hierarchy = Hierarchy(flush_ns=0)
    hierarchy.observe(batch)
    for second in range(1, 4):
        hierarchy.pump(second * SECOND)
        hierarchy.observe(batch)
        known = {hierarchy.fleet_known_to(a).seq for a in agents}
        assert known == {second * SECOND}
    view = hierarchy.fleet_known_to("a3").read()
    assert view is not None
    assert view[0] == hierarchy.nodes[hierarchy.tree.root].total
    assert not hierarchy.state()["refused"]
