"""One node of the tree: what it adds up, what it refuses, how it recovers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tocsin.aggregation.aggregator import HEARTBEAT_NS, Aggregator
from tocsin.aggregation.messages import Adopt, Arrived, AskResend, Attach, Detach, Flush, ResendAsked, Upward
from tocsin.aggregation.summary import MAX_ACTIONS, MAX_TOTAL, OVERFLOW_ACTION, Summary
from tocsin.errors import InputError
from tocsin.stats.histogram import BIN_OF, BINS, accumulate_histograms
from tocsin.stats.moments import Q_MAX, Grid, MomentLayout, accumulate_moments
from tocsin.wire import update as wire

GRID = Grid(("a", "b"), (0, 0), (-8, -8))
EPOCH = 2


def summary(n: int, seed: int = 0) -> Summary:
    q = np.random.default_rng(seed).integers(-2000, 2000, (n, 2)).astype(np.int32)
    moments, cells = np.zeros((1, MomentLayout(2).open_size), np.int64), np.zeros((1, 2 * BINS), np.int32)
    accumulate_moments(q, np.zeros(n, np.int64), moments)
    accumulate_histograms(q, np.zeros(n, np.int64), cells)
    return Summary(EPOCH, 2, np.concatenate([MomentLayout(2).closed(moments)[0], cells[0]]), {"act": n})


def arrived(content: Summary, seq: int = 0, **changes: object) -> Arrived:
    update = wire.Update(
        kind=wire.SNAPSHOT if seq == 0 else wire.DELTA, source="r1", level=1, epoch=EPOCH, seq=seq,
        as_of_ms=1000 + seq, agents=3, d=2, counts=content.counts, actions=content.actions,
    )  # fmt: skip
    (packet,) = wire.encode(msgspec.structs.replace(update, **changes))
    return Arrived(packet)


def announced(child: str, epoch: int, grid: Grid = GRID) -> Arrived:
    return Arrived(wire.encode_grid(epoch, grid), child)


@pytest.fixture
def zone() -> Aggregator:
    node = Aggregator("z1", 2)
    node.step(0, Adopt("g1"))
    node.step(0, Attach("r1"))
    node.step(0, announced("r1", EPOCH))
    return node


def test_snapshots_and_deltas_add_up(zone: Aggregator) -> None:
    zone.step(0, arrived(summary(5)))
    zone.step(0, arrived(summary(7, 1), seq=1))
    assert zone.total == summary(5) + summary(7, 1)
    assert (zone.agents, zone.as_of_ms) == (3, 1001)
    zone.step(0, arrived(summary(2, 2), seq=2, kind=wire.SNAPSHOT))
    assert zone.total == summary(2, 2)
    assert not zone.refused


def test_a_child_that_leaves_takes_exactly_its_share(zone: Aggregator) -> None:
    zone.step(0, Attach("r2"))
    zone.step(0, arrived(summary(5)))
    zone.step(0, arrived(summary(9, 1), source="r2"))
    zone.step(0, Detach("r1"))
    assert zone.total == summary(9, 1)
    zone.step(0, Detach("r2"))
    assert zone.total.is_zero()


@pytest.mark.parametrize(
    ("reason", "packet", "asks"),
    [
        ("duplicate", arrived(summary(5)), False),
        ("gap", arrived(summary(1), seq=2), True),
        ("old epoch", arrived(summary(1), seq=1, epoch=EPOCH - 1), False),
        ("unknown epoch", arrived(summary(1), seq=1, epoch=EPOCH + 1), True),
        ("not a child", arrived(summary(1), seq=1, source="r9"), False),
        ("wrong level", arrived(summary(1), seq=1, level=0), False),
        ("wrong dimension", arrived(Summary.empty(EPOCH, 1), seq=1, d=1), False),
        ("impossible", arrived(Summary.empty(EPOCH, 2) - summary(9, 4), seq=1), True),
        ("malformed", Arrived(b"TU\x01\x00garbage"), False),
        ("conflicting grid", announced("r1", EPOCH, Grid(("a", "b"), (1, 0), (-8, -8))), False),
        ("old epoch", announced("r1", EPOCH - 1), False),
        ("not a child", announced("r9", EPOCH + 1), False),
        ("not a child", announced("", EPOCH + 1), False),
        ("not a child", Arrived(arrived(summary(1), seq=1).body, "r9"), False),
    ],
)
def test_refusals_are_counted_and_change_nothing(zone: Aggregator, reason: str, packet: Arrived, asks: bool) -> None:
    zone.step(0, arrived(summary(5)))
    before = zone.total
    assert zone.step(0, packet) == ([AskResend("r1")] if asks else [])
    assert zone.refused == {reason: 1}
    assert zone.total == before


def test_parts_apply_only_together(zone: Aggregator) -> None:
    many = {f"{'long' * 20}{k}": 1 + k for k in range(40)}
    update = wire.Update(
        kind=wire.SNAPSHOT, source="r1", level=1, epoch=EPOCH, seq=0, as_of_ms=1, agents=1, d=2,
        counts=summary(820).counts, actions=many,
    )  # fmt: skip
    packets = wire.encode(update)
    assert len(packets) > 2
    for packet in [packets[1], *packets[1:]]:
        zone.step(0, Arrived(packet))
    assert zone.total.is_zero()
    assert zone.refused == {"duplicate": 1}
    zone.step(0, Arrived(packets[0]))
    assert zone.total.actions == many


def test_a_newer_epoch_empties_the_slots(zone: Aggregator) -> None:
    zone.step(0, arrived(summary(5)))
    zone.step(0, announced("r1", EPOCH + 1, Grid(("a",), (0,), (-8,))))
    assert zone.total == Summary.empty(EPOCH + 1, 1)


@pytest.fixture
def three(zone: Aggregator) -> Aggregator:
    """A zone whose three regions are on the same grid and have stated something."""
    for k in (2, 3):
        zone.step(0, Attach(f"r{k}"))
        zone.step(0, announced(f"r{k}", EPOCH))
    for k in (1, 2, 3):
        zone.step(0, arrived(summary(k, k), source=f"r{k}"))
    return zone


@pytest.mark.parametrize("epoch", [EPOCH + 1, EPOCH + 2, 1 << 31])
def test_one_child_does_not_move_the_epoch_more_than_half_do(three: Aggregator, epoch: int) -> None:
    before = three.total
    for _ in range(5):
        assert three.step(0, announced("r3", epoch)) == []
        assert three.step(0, arrived(summary(9), seq=1, source="r3", epoch=epoch)) == []  # not asked again and again
    assert (three.epoch, three.total) == (EPOCH, before)
    assert three.refused == {"unknown epoch": 5}
    other = Grid(("a", "b"), (7, 7), (0, 0))
    assert three.step(0, announced("r1", epoch, other)) == []  # the same number is not the same grid
    assert (three.epoch, three.total) == (EPOCH, before)
    assert three.step(0, announced("r2", epoch)) == [AskResend("r3")]  # its snapshot was not listened to
    assert (three.epoch, three.grid, three.total) == (epoch, GRID, Summary.empty(epoch, 2))


def test_a_child_that_leaves_may_make_the_others_a_majority(three: Aggregator) -> None:
    three.step(0, Attach("r4"))
    for child in ("r3", "r4"):
        three.step(0, announced(child, EPOCH + 1))
    assert three.epoch == EPOCH
    assert three.step(0, Detach("r1")) == [AskResend("r3"), AskResend("r4")]
    assert three.epoch == EPOCH + 1


def test_the_first_word_to_an_empty_node_is_taken_back_when_most_say_otherwise() -> None:
    node = Aggregator("z1", 2)
    for child in ("r1", "r2", "r3"):
        node.step(0, Attach(child))
    node.step(0, announced("r1", 1 << 31))
    assert node.epoch == 1 << 31
    node.step(0, announced("r2", EPOCH))
    assert node.step(0, announced("r3", EPOCH)) == [AskResend("r2")]
    assert node.epoch == EPOCH
    assert not node.refused
    node.step(0, announced("r1", EPOCH - 1))
    assert node.refused == {"old epoch": 1}


def upward(node: Aggregator, now_ns: int = 0) -> list[bytes]:
    out = node.step(now_ns, Flush())
    assert all(isinstance(o, Upward) and o.to == "g1" for o in out)
    return [o.body for o in out if isinstance(o, Upward)]


def test_upwards_goes_a_snapshot_then_differences_then_a_heartbeat(zone: Aggregator) -> None:
    zone.step(0, arrived(summary(5)))
    grid, first = upward(zone)
    assert wire.decode_grid(grid) == (EPOCH, GRID)
    assert wire.decode(first).kind == wire.SNAPSHOT
    assert upward(zone, 1) == []
    zone.step(0, arrived(summary(7, 1), seq=1))
    (second,) = upward(zone, 2)
    told = wire.join([wire.decode(second)])
    assert (told.kind, told.seq, told.agents) == (wire.DELTA, wire.decode(first).seq + 1, 3)
    assert np.array_equal(told.counts, summary(7, 1).counts)
    (beat,) = upward(zone, 2 + HEARTBEAT_NS)
    assert not wire.join([wire.decode(beat)]).counts.any()
    zone.step(0, ResendAsked())
    _, again = upward(zone, 3 + HEARTBEAT_NS)
    assert wire.decode(again).kind == wire.SNAPSHOT


def test_groups_add_and_subtract_exactly() -> None:
    a, b, c = summary(5), summary(7, 1), summary(11, 2)
    assert (a + b) + c == c + (b + a)
    assert a + b - b == a
    assert (a - a).is_zero()
    assert (a + b).digest() != a.digest()
    assert hash(a + b) == hash(b + a)


def test_what_does_not_add_up_is_refused() -> None:
    a = summary(5)
    for other in (Summary.empty(EPOCH + 1, 2), Summary.empty(EPOCH, 3)):
        with pytest.raises(InputError):
            a + other
    huge = Summary(EPOCH, 2, np.full_like(a.counts, (1 << 62) - 1))
    with pytest.raises(InputError, match="epoch"):
        huge + huge
    with pytest.raises(InputError):
        Summary(EPOCH, 2, a.counts.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Summary(EPOCH, 3, a.counts)


AT = MomentLayout(2)
IMPOSSIBLE = {
    "negative count": (0, -1),
    "than there were events": (0, 1),
    "sum beyond the grid": (AT.sums, 1 << 40),
    "negative variance": (AT.products, 0),
    "saturated": (1, 9),
    "histogram": (AT.size + 63, 40),
    "square beyond the grid": (AT.products, 1 << 59),
    "product larger": (AT.products + 1, 1 << 31),
    "sum or product larger": (AT.sums + 1, 5 * Q_MAX),
    "reached": (AT.products, MAX_TOTAL),
}


@pytest.mark.parametrize(("problem", "change"), IMPOSSIBLE.items())
def test_impossible_summaries_are_named(problem: str, change: tuple[int, int]) -> None:
    counts = summary(5).counts.copy()
    summary(5).refuse_impossible()
    counts[change[0]] = change[1]
    with pytest.raises(InputError, match=problem):
        Summary(EPOCH, 2, counts).refuse_impossible()


def test_impossible_actions_are_named() -> None:
    with pytest.raises(InputError, match="negative"):
        Summary(EPOCH, 2, summary(5).counts, {"x": -1}).refuse_impossible()
    with pytest.raises(InputError, match="more than"):
        Summary(EPOCH, 2, summary(5).counts, {str(k): 1 for k in range(MAX_ACTIONS + 2)}).refuse_impossible()


def test_histograms_whose_cells_overflow_are_named() -> None:
    counts = summary(5).counts.copy()
    counts[AT.size + 20 : AT.size + 28] += (1 << 60) - 5  # and the sum of 16 of 2**60 is 0 in 64 bits
    counts[AT.size + 28 : AT.size + 36] += (1 << 60) - 5
    counts[AT.size + 40] += 80
    with pytest.raises(InputError, match="histogram"):
        Summary(EPOCH, 2, counts).refuse_impossible()


def test_more_actions_than_events_are_named() -> None:
    Summary(EPOCH, 2, summary(5).counts, {"x": 5}).refuse_impossible()
    with pytest.raises(InputError, match="more actions than events"):
        Summary(EPOCH, 2, summary(5).counts, {"x": 3, "y": 3}).refuse_impossible()


def test_a_sender_that_begins_anew_is_listened_to_and_never_added_to_what_it_said_before(zone: Aggregator) -> None:
    def region(content: Summary, now_ns: int) -> tuple[Aggregator, list[bytes]]:
        node = Aggregator("r1", 1)
        for event in (Adopt("z1"), Attach("l"), announced("l", EPOCH)):
            node.step(now_ns, event)
        node.step(now_ns, arrived(content, source="l", level=0))
        return node, [o.body for o in node.step(now_ns, Flush()) if isinstance(o, Upward)]

    old, bodies = region(summary(5), 100)
    old.step(200, arrived(summary(2, 1), source="l", level=0, seq=1))
    for body in (*bodies, *(o.body for o in old.step(200, Flush()) if isinstance(o, Upward))):
        zone.step(0, Arrived(body, "r1"))
    assert zone.total == summary(5) + summary(2, 1)

    new, bodies = region(summary(3, 2), 300)
    new.step(400, arrived(summary(4, 3), source="l", level=0, seq=1))
    (delta,) = (o.body for o in new.step(400, Flush()) if isinstance(o, Upward))
    assert zone.step(0, Arrived(delta, "r1")) == [AskResend("r1")]  # its snapshot was lost
    assert zone.total == summary(5) + summary(2, 1)
    for body in (*bodies, delta):
        zone.step(0, Arrived(body, "r1"))
    assert zone.total == summary(3, 2) + summary(4, 3)


def test_a_child_that_is_attached_again_counts_until_its_next_snapshot(zone: Aggregator) -> None:
    zone.step(0, arrived(summary(5), seq=9, kind=wire.SNAPSHOT))
    zone.step(0, Attach("r1"))
    assert (zone.total, zone.as_of_ms) == (summary(5), 1009)
    zone.step(0, arrived(summary(3, 1)))  # another machine, whose clock is behind
    assert zone.total == summary(3, 1)


def large(events: int) -> Summary:
    """So many samples at the middle of the grid."""
    one = summary(1)
    counts = np.zeros_like(one.counts)
    counts[[0, AT.counts, AT.counts + 1, AT.counts + 2]] = events
    counts[[AT.size + int(BIN_OF[Q_MAX]), AT.size + BINS + int(BIN_OF[Q_MAX])]] = events
    whole = Summary(EPOCH, 2, counts)
    whole.refuse_impossible()
    return whole


@pytest.mark.parametrize("share", [1, 2, 1000])
def test_no_child_uses_up_what_the_others_need(zone: Aggregator, share: int) -> None:
    zone.step(0, Attach("r2"))
    most = MAX_TOTAL >> Aggregator.share(1)
    zone.step(0, arrived(large(most // share), agents=1))
    zone.step(0, arrived(summary(7), source="r2"))
    assert zone.total.events == (7 if share == 1 else most // share + 7)
    assert zone.refused == ({"impossible": 1} if share == 1 else {})
    (_, *packets) = upward(zone)
    wire.join([wire.decode(body) for body in packets])


def test_a_sum_that_no_longer_fits_refuses_who_would_break_it_and_can_still_be_stated(zone: Aggregator) -> None:
    most = MAX_TOTAL >> Aggregator.share(1)
    for k in range(2, 5):
        zone.step(0, Attach(f"r{k}"))
        zone.step(0, arrived(large(most - 9), source=f"r{k}"))
    assert zone.refused == {"impossible": 1}
    assert zone.total.events == 2 * most - 18
    (_, *packets) = upward(zone)
    wire.join([wire.decode(body) for body in packets])
    zone.step(0, Detach("r2"))
    assert zone.step(HEARTBEAT_NS, arrived(summary(1), source="r4", seq=5)) == [AskResend("r4")]
    zone.step(0, arrived(large(most - 9), source="r4", seq=7, kind=wire.SNAPSHOT))
    assert zone.total.events == 2 * most - 18


def test_agents_beyond_what_can_be_said_are_refused(zone: Aggregator) -> None:
    most = wire.MAX_AGENTS >> Aggregator.share(1)
    for k in range(2, 6):
        zone.step(0, Attach(f"r{k}"))
    zone.step(0, arrived(summary(5), agents=most + 1))
    assert zone.agents == 0
    for k in range(2, 5):
        zone.step(0, arrived(summary(5), source=f"r{k}", agents=most))
    assert (zone.agents, zone.refused) == (2 * most, {"impossible": 2})
    (_, *packets) = upward(zone)
    assert wire.decode(packets[0]).agents == 2 * most


def test_who_states_what_is_refused_is_not_asked_again_at_once(zone: Aggregator) -> None:
    bad = Summary(EPOCH, 2, summary(5).counts, {"x": 6})
    assert zone.step(0, arrived(bad)) == []
    assert zone.step(1, arrived(summary(1), seq=3)) == []
    assert zone.step(HEARTBEAT_NS, arrived(summary(1), seq=4)) == [AskResend("r1")]
    zone.step(HEARTBEAT_NS, arrived(summary(5), seq=5, kind=wire.SNAPSHOT))
    assert zone.step(HEARTBEAT_NS + 1, arrived(summary(1), seq=9)) == [AskResend("r1")]


def with_actions(names: range, each: int) -> Summary:
    content = summary(len(names) * each, names.start)
    return Summary(EPOCH, 2, content.counts, {f"tool{k}": each for k in names})


@pytest.mark.parametrize("seed", range(3))
def test_folding_actions_gives_the_same_before_adding_and_after_and_keeps_exact_counts(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    parts = [with_actions(range(start, start + 250), 1 + start % 3) for start in (0, 100, 200, 700, 900, 901)]
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    stepwise = parts[order[0]].folded()
    for k in order[1:]:
        stepwise = (stepwise + parts[k].folded()).folded()
    assert stepwise == whole.folded()
    named = {name: n for name, n in stepwise.actions.items() if name != OVERFLOW_ACTION}
    assert len(named) == MAX_ACTIONS
    assert named.items() <= whole.actions.items()
    assert sum(stepwise.actions.values()) == whole.events


def test_honest_machines_with_many_tools_do_not_silence_each_other(zone: Aggregator) -> None:
    zone.step(0, Attach("r2"))
    whole = Summary.empty(EPOCH, 2)
    above = Aggregator("g1", 3)
    for event in (Attach("z1"), announced("z1", EPOCH)):
        above.step(0, event)
    for seq, child in enumerate(["r1", "r2", "r1"]):
        change = with_actions(range(300 * seq, 300 * seq + 120), 1)
        whole += change
        packets = wire.encode(wire.Update(
            kind=wire.DELTA if seq == 2 else wire.SNAPSHOT, source=child, level=1, epoch=EPOCH, seq=seq // 2,
            as_of_ms=1, agents=3, d=2, counts=change.counts, actions=change.actions))  # fmt: skip
        for packet in packets:
            zone.step(0, Arrived(packet, child))
        for body in upward(zone, seq):
            above.step(0, Arrived(body, "z1"))
        assert above.total == whole.folded()
    assert not above.refused
    assert len(above.total.actions) == MAX_ACTIONS + 1


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_an_update_of_another_size_than_its_features_is_not_encoded(size: int) -> None:
    update = wire.Update(
        kind=wire.SNAPSHOT, source="r1", level=1, epoch=EPOCH, seq=0, as_of_ms=1, agents=1, d=2,
        counts=np.zeros(size, np.int64), actions={},
    )  # fmt: skip
    with pytest.raises(InputError, match="2 features"):
        wire.encode(update)


def test_a_sum_is_as_old_as_the_child_that_is_furthest_behind(zone: Aggregator) -> None:
    zone.step(0, Attach("r2"))
    assert zone.as_of_ms == 0
    zone.step(0, arrived(summary(5), as_of_ms=9000))
    assert zone.as_of_ms == 0  # the other has not said a thing: nobody knows how much is missing
    zone.step(0, arrived(summary(5), source="r2", as_of_ms=4000))
    assert zone.as_of_ms == 4000
    zone.step(0, arrived(summary(5), seq=1, as_of_ms=9500))
    assert zone.as_of_ms == 4000
    zone.step(0, Detach("r2"))
    assert zone.as_of_ms == 9500


def test_a_new_epoch_begins_with_nothing_complete(zone: Aggregator) -> None:
    zone.step(0, arrived(summary(5), as_of_ms=9000))
    zone.step(0, announced("r1", EPOCH + 1))
    assert (zone.epoch, zone.total.events, zone.as_of_ms) == (EPOCH + 1, 0, 0)
