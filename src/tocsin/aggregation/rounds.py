"""A round: from every agent's windows to the coordinated groups among them, over regions, zones and the fleet.

    Region: commits, sends its factors up ─> zone ─> fleet: basis down, seed announced ─> statements
    ─> what nothing explains ─> pairs whose sketches agree, verified ─> less those that always did (`habits`)
    ─> groups, e-values

Every message crosses as bytes (`wire.correlation`, `aggregation.assembly`), so that what a node of another machine
would refuse is refused here. Whoever screens has what was stated and the factors that climbed, and asks for no more:
at 6 bits a sample a statement is the series, but for about a thousandth of its residual's variance. A round of 10,000
agents takes seconds of a core: its host runs it beside the stream of events. The same snapshots, placements and secret
give the same findings on one machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.activity import SERIES, Snapshot
from tocsin.aggregation.assembly import Assembly, FactorInbox, commitment
from tocsin.aggregation.coordination import Coordinated, Pair, Screening, candidate_pairs, coordinated, verified
from tocsin.aggregation.correlation import (
    BASIS_BITS,
    Basis,
    CorrelationMap,
    Region,
    global_basis,
    nested_residuals,
    zone_basis,
    zone_rows,
)
from tocsin.aggregation.habits import Habits
from tocsin.model.coordination import Bond, Findings
from tocsin.stats.correlation import innovations
from tocsin.stats.eprocess import mixture_calibrator
from tocsin.stats.factors import unit_rows
from tocsin.stats.simhash import WORDS, sketch_rows
from tocsin.wire import correlation as wire

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

BITS = 6  # a sample; with names of at most MAX_NAME a statement of 1024 samples still fits a packet
LEAST_AGENTS = 20  # below, there is nothing to take the fleet's own rhythm from
MAX_NAME = 64  # bytes of an agent's name in its statement
NAMED = 8  # members of a group that evidence names
_DIGEST = re.compile("[0-9a-f]{40}")
LAX_LOG_P = -10.0  # a pair as likely as this by chance is learnt, where it cannot be compared with what was


def stated_name(agent_id: str) -> str:
    """The agent's name as statements carry it: itself where it fits, else a digest of it.

    What looks like a digest does not fit: an agent could else be named as another one is stated.
    """
    raw = agent_id.encode("utf-8", "surrogatepass")
    fits = agent_id.isascii() and 0 < len(raw) <= MAX_NAME and not _DIGEST.fullmatch(agent_id)
    return agent_id if fits else blake2b(raw, digest_size=20).hexdigest()


@dataclass(frozen=True, slots=True)
class Correlated:
    """One series of a fleet worked out across regions and zones. Rows are in the order of the snapshot."""

    map: CorrelationMap
    nested: F64  # (m, T) what nothing above them explains of the series as stated; 0 of an agent without a statement
    removed: I64  # (m,) directions that were taken out of each
    sketches: U64  # (m, 8) of `nested`, at random in every round
    refused: Counter[str] = field(default_factory=Counter[str])  # by reason
    blamed: Counter[str] = field(default_factory=Counter[str])  # by region or zone
    bytes_sent: int = 0
    largest_packet: int = 0


@dataclass(slots=True)
class _Wire:
    """Counts what is sent."""

    sent: int = 0
    largest: int = 0

    def send(self, packets: Sequence[bytes], receivers: int = 1) -> Sequence[bytes]:
        self.sent += receivers * sum(map(len, packets))
        self.largest = max(self.largest, *map(len, packets))
        return packets


def correlate(
    series: F64, names: Sequence[str], regions: Sequence[str], zones: Mapping[str, str], window: int, secret: bytes
) -> Correlated:
    """Run one window of `series` (m, T) of agents `names` in `regions` (m,) through the tree; `zones`: region -> zone.

    `secret` is what nobody who can influence a series knows.
    """
    length, out = series.shape[1], _Wire()
    places: dict[str, list[int]] = {}
    for k, region in enumerate(regions):
        places.setdefault(region, []).append(k)
    said = [stated_name(name) for name in names]
    held: dict[str, Region] = {}
    for name in sorted(places):
        places[name].sort(key=lambda k: said[k])
        held[name] = Region(name, [said[k] for k in places[name]], series[places[name]])
    assembly = Assembly(window, length, {name: region.agents for name, region in held.items()})
    for name, region in held.items():
        assembly.commit(name, out.send([commitment(secret, name, window, region.z)])[0])
    of_zone, basis, refused, blamed = _factors(held, zones, window, length, out)
    seed = out.send([assembly.announce(secret, basis)], len(held))[0]
    for name, region in held.items():
        assembly.statements(name, out.send(wire.encode_all(region.statements(basis, window, seed, BITS))))
    known = assembly.map()
    refused += assembly.refused
    heard, row = unit_rows(known.series()), {agent: k for k, agent in enumerate(known.agents)}
    nested, sketches = np.zeros(series.shape), np.zeros((len(names), WORDS), np.uint64)
    removed = np.zeros(len(names), np.int64)
    # Fixed filters would let whoever knows them shape series that miss each other's sketches.
    filters = blake2b(seed, digest_size=32, person=b"sketch").digest()
    for name, members in places.items():
        here = [k for k in members if said[k] in row]
        if here:
            stated = heard[[row[said[k]] for k in here]]
            nested[here], removed[here] = nested_residuals(stated, basis, of_zone[zones[name]])
            sketches[here] = sketch_rows(nested[here], filters)
    sketches[~nested.any(axis=1)] = 0
    return Correlated(known, nested, removed, sketches, refused, blamed + assembly.blamed, out.sent, out.largest)


def _factors(
    held: Mapping[str, Region], zones: Mapping[str, str], window: int, length: int, out: _Wire
) -> tuple[dict[str, F64], Basis, Counter[str], Counter[str]]:
    """Factors up, basis down: (each zone's own factors, the fleet's, what was refused by reason, and by sender)."""
    below: dict[str, list[str]] = {}
    for name in held:
        below.setdefault(zones[name], []).append(name)
    members = {name: float(len(region.agents)) for name, region in held.items()}
    of_zone = {zone: sum(members[name] for name in children) for zone, children in below.items()}
    fleet = FactorInbox(wire.ZONE_FACTORS, window, length, of_zone)
    inboxes = [fleet]
    for zone, children in below.items():
        inbox = FactorInbox(wire.REGION_FACTORS, window, length, {name: members[name] for name in children})
        inboxes.append(inbox)
        for name in children:
            for raw in out.send(_packed(wire.REGION_FACTORS, name, window, held[name].rows)):
                inbox.take(raw, name)
        for raw in out.send(_packed(wire.ZONE_FACTORS, zone, window, zone_rows(inbox.rows()))):
            fleet.take(raw, zone)
    basis = global_basis(fleet.rows())
    packets = wire.encode_rows(
        wire.Rows(kind=wire.GLOBAL_BASIS, source="fleet", window=window, exponent=-BASIS_BITS, values=basis.q)
    )
    inboxes.append(down := FactorInbox(wire.GLOBAL_BASIS, window, length, {"fleet": wire.MAX_FACTORS}))
    for raw in out.send(packets, len(held)):
        down.take(raw, "fleet")
    own: dict[str, F64] = {}
    for zone in below:
        sent = fleet.of(zone)
        own[zone] = zone_basis(np.zeros((0, length)) if sent is None else sent.floats(), basis)
    refused, blamed = Counter[str](), Counter[str]()
    for inbox in inboxes:
        refused += inbox.refused
        blamed += inbox.blamed
    return own, basis, refused, blamed


def _packed(kind: int, source: str, window: int, rows: F64) -> list[bytes]:
    return wire.encode_rows(wire.rounded_rows(kind, source, window, rows))


@dataclass(slots=True)
class Outcome:
    """What a round leaves behind: findings for the monitors, and every correlation of the round by series."""

    findings: Findings
    names: tuple[str, ...]
    maps: dict[str, CorrelationMap] = field(default_factory=dict[str, CorrelationMap])
    refused: Counter[str] = field(default_factory=Counter[str])  # by reason
    blamed: Counter[str] = field(default_factory=Counter[str])  # by region or zone
    bytes_sent: int = 0
    excused: int = 0  # pairs that always moved together


class Rounds:
    """Screens snapshots, oldest first; remembers what was normal. `secret` must be unknown to those who are watched."""

    def __init__(self, length: int, secret: bytes, screening: Screening | None = None) -> None:
        self.screening = screening or Screening()
        self._secret = secret
        self._habits = [Habits(length) for _ in SERIES]

    def screen(self, snapshot: Snapshot, regions: Sequence[str], zones: Mapping[str, str]) -> Outcome:
        """One round; `regions` (m,) of the snapshot's agents, `zones` region -> zone."""
        outcome = Outcome(Findings(number=snapshot.number, agents=len(snapshot.names)), snapshot.names)
        if len(snapshot.names) < LEAST_AGENTS:
            return outcome
        bonds: dict[int, list[tuple[float, Bond]]] = {}
        for kind, name in enumerate(SERIES):
            series = snapshot.series[kind].astype(np.float64)
            broken = ~np.isfinite(series).all(axis=1)
            if broken.any():  # it says nothing, and must not keep others from being screened
                outcome.refused["series that is no number"] += int(broken.sum())
                series[broken] = 0.0
            fresh = innovations(series)
            if not fresh.any():
                continue
            window = snapshot.number * len(SERIES) + kind
            found = correlate(fresh, snapshot.names, regions, zones, window, self._secret)
            outcome.maps[name] = found.map
            outcome.refused += found.refused
            outcome.blamed += found.blamed
            outcome.bytes_sent += found.bytes_sent
            pairs = self._news(snapshot, regions, found, self._habits[kind], outcome)
            members = coordinated(pairs, len(snapshot.names), self.screening)
            certified = _certified(members, pairs, snapshot.names, found.map)
            for one, bond in zip(members, self._bonds(members, pairs, snapshot, name, certified), strict=True):
                bonds.setdefault(one.member, []).append((one.log_e, bond))
        merged = tuple(_merged(several) for _, several in sorted(bonds.items()))
        outcome.findings = Findings(number=snapshot.number, agents=len(snapshot.names), bonds=merged)
        return outcome

    def _news(
        self, snapshot: Snapshot, regions: Sequence[str], found: Correlated, habits: Habits, outcome: Outcome
    ) -> list[Pair]:
        """Pairs that move together and did not before, both of them judged."""
        region: I64 = np.unique(np.array(regions), return_inverse=True)[1].astype(np.int64)
        length = found.nested.shape[1]
        candidates = candidate_pairs(found.sketches, length, region, self.screening)
        agents = snapshot.agents
        learning = habits.learning(agents, snapshot.judged, snapshot.baseline)

        def residuals(numbers: I64) -> F64:
            return found.nested[numbers]

        met = candidates[learning[candidates[:, 0]] | learning[candidates[:, 1]]]
        lax = verified(met, len(agents), residuals, self.screening, removed=found.removed, log_p_at_most=LAX_LOG_P)
        habits.learn(snapshot.number, agents, learning, found.nested, found.removed, lax)
        apart = snapshot.judged & ~learning
        open_ = candidates[apart[candidates[:, 0]] & apart[candidates[:, 1]]]
        pairs = verified(open_, len(agents), residuals, self.screening, removed=found.removed)
        news = [pair for pair in pairs if not habits.excuses(agents, pair, self.screening)]
        outcome.excused += len(pairs) - len(news)
        return news

    def _bonds(
        self,
        members: Sequence[Coordinated],
        pairs: Sequence[Pair],
        snapshot: Snapshot,
        series: str,
        certified: Mapping[int, tuple[float, float]],
    ) -> list[Bond]:
        groups: dict[int, list[Coordinated]] = {}
        for one in members:
            groups.setdefault(one.group, []).append(one)
        least = {one: min(p.log_p for p in pairs if one in (p.left, p.right)) for one in (m.member for m in members)}
        tests = math.log(max(len(snapshot.names) - 1, 1)) + math.log(self.screening.lags) + math.log(len(SERIES))
        told: list[Bond] = []
        for one in members:
            group = sorted(groups[one.group], key=lambda m: (m.lag, m.member))
            told.append(
                Bond(
                    agent_id=snapshot.names[one.member],
                    log_e=one.log_e,
                    log_bf=mixture_calibrator(min(least[one.member] + tests, 0.0)),
                    series=series,
                    partner=snapshot.names[one.partner],
                    rho=one.rho,
                    certified=certified.get(one.member),
                    lag=one.lag,
                    members=tuple(snapshot.names[m.member] for m in group[:NAMED]),
                    size=len(group),
                )
            )
        return told


def _certified(
    members: Sequence[Coordinated], pairs: Sequence[Pair], names: Sequence[str], known: CorrelationMap
) -> dict[int, tuple[float, float]]:
    """Member -> (correlation of its whole series with its partner's, the bound it provably keeps).

    For partners that move at the same time: statements are of one window, and certify nothing about delays.
    """
    level = {frozenset((pair.left, pair.right)) for pair in pairs if pair.lag == 0}
    together = [one for one in members if frozenset((one.member, one.partner)) in level]
    if not together:
        return {}
    at = {agent: k for k, agent in enumerate(known.agents)}
    found: dict[int, tuple[float, float]] = {}
    for one in together:
        i, j = at.get(stated_name(names[one.member])), at.get(stated_name(names[one.partner]))
        if i is not None and j is not None:
            found[one.member] = known.pair(i, j)
    return found


def _merged(several: list[tuple[float, Bond]]) -> Bond:
    """The bond of the most certain series, with the mean of the e-values over all of them (silence counts as 0)."""
    strongest = max(several, key=lambda one: one[0])[1]
    top = strongest.log_e
    total = top + math.log(sum(math.exp(log_e - top) for log_e, _ in several))
    return msgspec.structs.replace(strongest, log_e=total - math.log(len(SERIES)))
