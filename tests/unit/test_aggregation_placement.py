"""R1.1: placement by predicted round trips against random placement, in a synthetic world of known round trips."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.aggregation.placement import LEAST_HEIGHT_MS, Coordinate, NetworkMap, moved
from tocsin.errors import InputError

SITES = [f"site-{k}" for k in range(12)]


def world(seed: int, nodes: int = 200) -> tuple[list[str], dict[tuple[str, str], float]]:
    """Round trips in ms between every node and site: three continents, access links, 10 % noise that is not metric."""
    rng = np.random.default_rng(seed)
    names = [*SITES, *(f"n{k}" for k in range(nodes))]
    continents = np.array([[0.0, 0.0], [80.0, 0.0], [40.0, 120.0]])
    point = {n: continents[k % 3] + rng.normal(0, 8, 2) for k, n in enumerate(names)}
    access = {n: rng.exponential(3) for n in names}
    rtt = {
        (a, b): float((np.hypot(*(point[a] - point[b])) + access[a] + access[b]) * rng.uniform(0.9, 1.1)) + 0.1
        for a in names for b in SITES
    }  # fmt: skip
    return names, rtt


def mapped(seed: int) -> tuple[NetworkMap, list[str], dict[tuple[str, str], float]]:
    names, rtt = world(seed)
    network, rng = NetworkMap(), np.random.default_rng(seed + 1)
    for _ in range(120):
        for name in names:
            site = SITES[int(rng.integers(len(SITES)))]
            if site != name:
                network.measured(name, site, rtt[name, site])
    return network, names, rtt


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nearest_site_beats_random_placement_on_mean_and_p99(seed: int) -> None:
    network, names, rtt = mapped(seed)
    rng = np.random.default_rng(seed + 2)
    nodes = names[len(SITES) :]
    ours = [rtt[n, network.nearest(n, SITES)] for n in nodes]
    chance = [rtt[n, SITES[int(rng.integers(len(SITES)))]] for n in nodes]
    assert np.mean(ours) < 0.5 * np.mean(chance)
    assert np.quantile(ours, 0.99) < 0.8 * np.quantile(chance, 0.99)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_node_runs_where_its_children_are_near(seed: int) -> None:
    network, names, rtt = mapped(seed)
    nodes = names[len(SITES) :]
    for continent in range(3):
        members = nodes[continent::3][:30]
        truth = {site: sum(rtt[one, site] for one in members) for site in SITES}
        chosen = network.central(SITES, members)
        assert truth[chosen] < 1.3 * min(truth.values())
        assert truth[chosen] < 0.5 * float(np.mean(list(truth.values())))


def test_predictions_come_close_to_round_trips_that_were_measured_with_noise() -> None:
    network, names, rtt = mapped(5)
    off = [abs(network.rtt_ms(n, s) / rtt[n, s] - 1) for n in names[len(SITES) :] for s in SITES]
    assert np.median(off) < 0.2


def test_a_sample_moves_towards_what_was_measured() -> None:
    own, other = Coordinate(0.0, 0.0), Coordinate(10.0, 0.0, error=0.1)
    for rtt in (2.0, 50.0):
        after = moved(own, other, rtt, "")
        assert abs(after.rtt_ms(other) - rtt) < abs(own.rtt_ms(other) - rtt)
        assert after.height >= LEAST_HEIGHT_MS


def test_nodes_at_one_point_part_in_the_same_direction_every_time() -> None:
    a = moved(Coordinate(), Coordinate(), 10.0, "a>b")
    assert a == moved(Coordinate(), Coordinate(), 10.0, "a>b")
    assert a != moved(Coordinate(), Coordinate(), 10.0, "b>a")
    assert a.rtt_ms(Coordinate()) > Coordinate().rtt_ms(Coordinate())


def test_times_that_nobody_can_measure_are_refused() -> None:
    for rtt in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(InputError):
            NetworkMap().measured("a", "b", rtt)
    with pytest.raises(InputError):
        NetworkMap().rtt_ms("a", "b")
