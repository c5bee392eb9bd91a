"""One simulated run: a fleet, its monitors, everything that goes wrong, and what must hold nevertheless.

The first half is for safety: faults of every kind. Then the network heals and crashed monitors come back, while liars
go on lying, and every honest monitor must decide everything that honest monitors stated. A run is a function of its
`Schedule`: the real `monitor.Monitor` with its replica, fold and ledger, on simulated everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import msgspec

from tocsin.consensus.replica import Replica
from tocsin.detection.fusion import FleetPosterior
from tocsin.model.steps import EVERYONE, Received
from tocsin.model.verdict import Roster
from tocsin.monitor.inputs import Observed
from tocsin.monitor.monitor import Monitor
from tocsin.sim.faults import CRASHES_AT, HEAL_NS, LIES, Schedule
from tocsin.sim.invariants import Invariants, Violation
from tocsin.sim.liar import Liar
from tocsin.sim.network import Network
from tocsin.sim.scripted import AGENTS, Script, ScriptedDetector, make_batch
from tocsin.sim.seat import Entry, Seat
from tocsin.sim.shape import shape_of
from tocsin.sim.timeline import MILLISECOND_NS, Streams, Timeline
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.trust.signing import Signer

BATCHES = 4  # of telemetry while things go wrong
BATCHES_AFTER = 1  # and after healing: the run ends when what they lead to is decided
EVENTS_PER_BATCH = 4
END_NS = 180_000 * MILLISECOND_NS
FLUSH_NS = HEAL_NS + 500 * MILLISECOND_NS  # everybody is up again and states what it held back
LOOK_NS = 20 * MILLISECOND_NS  # how often to look whether a run is over


class Result(msgspec.Struct, frozen=True):
    """What a run came to. `digest` is over everything that happened: equal runs, equal digests."""

    seed: int
    monitors: int
    decisions: int
    verdicts: int
    steps: int
    messages: int
    message_bytes: int
    healed_after_ms: int  # from the healing of the network to the end of the run
    digest: str


@dataclass(frozen=True, slots=True)
class Build:
    """What honest monitors are made of; changed only to plant errors."""

    replica: type[Replica] = Replica
    monitor: type[Monitor] = Monitor
    believed: Callable[[Roster], Roster] = lambda roster: roster
    admits_loss: bool = True  # of its journal


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to agree on. Of large fleets of monitors only `observers` see the agents, if it is not 0."""

    agents: int = len(AGENTS)
    batches: int = BATCHES
    observers: int = 0


@lru_cache(maxsize=16)
def committee(monitors: int, *, adds_up: bool = False) -> tuple[Roster, tuple[Signer, ...]]:
    """The roster and keys of every simulated run with this many monitors."""
    signers = deterministic_signers(b"simulation", monitors)
    return roster_of("simulation", signers, adds_up=adds_up), signers


class World:
    """`run()` raises Violation, or says what happened."""

    def __init__(self, schedule: Schedule, build: Build | None = None, size: Size | None = None) -> None:
        self.schedule = schedule
        self.size = size or Size()
        self.build = build or Build()
        self.streams = Streams(schedule.seed)
        self.timeline = Timeline()
        self.shape = shape_of(self.streams)
        self.roster, self._signers = committee(schedule.monitors, adds_up=self.shape.adds_up)
        self.invariants = Invariants(self.roster, schedule.faulty)
        self.ingest_log: list[Entry] = []
        self._lies = {fault.kind: fault.amount for fault in schedule.of_kind(*LIES)}
        events = (self.size.batches + BATCHES_AFTER) * EVENTS_PER_BATCH
        self._script = Script(self.streams.of("script"), events, self.size.agents)
        everybody = range(schedule.monitors)
        observers = self.size.observers or schedule.monitors
        self._observers = frozenset(self.streams.of("observers").sample(everybody, observers))
        self._digest = blake2b(digest_size=8)
        places = self._places()
        self.seats = [
            Seat(
                place,
                position,
                self._monitor,
                self.timeline,
                self.streams,
                schedule,
                self.ingest_log if place[0] in self._observers else (),
                self._send,
                self.invariants,
            )
            for position, place in enumerate(places)
        ]
        self.network = Network(self.timeline, self.streams, schedule, places, self._deliver)
        self.honest = [seat for seat in self.seats if seat.honest]
        self._reached: dict[tuple[int, int], list[int]] = {}
        self._events_so_far = 0
        self._over = False
        self._plan()

    def _places(self) -> list[tuple[int, int]]:
        """Who sits where: a silent monitor nowhere, twins twice."""
        copies = {"silent": 0, "twins": 2}
        everyone = range(self.schedule.monitors)
        return [(i, copy) for i in everyone for copy in range(copies.get(self.schedule.role(i), 1))]

    def _monitor(self, seat: Seat) -> Monitor:
        me, build = seat.index, self.build
        signer, detector = self._signers[me], ScriptedDetector(self._script)
        roster = build.believed(self.roster)
        if self.schedule.role(me) in ("twins", "liar"):
            rng = self.streams.of("lies", seat.position)
            replica = Liar(roster, me, signer, FleetPosterior(roster), self.shape.config, self._lies, rng)
            return Monitor(me, replica, detector)
        config = self.shape.config
        if seat.loses_disk and build.admits_loss and self.roster.f:
            config = msgspec.structs.replace(config, rejoin=True)
        return build.monitor(me, build.replica(roster, me, signer, FleetPosterior(roster), config), detector)

    # --- the plan

    def _plan(self) -> None:
        rng = self.streams.of("plan")
        for seat in self.seats:
            self.timeline.at(0, seat.boot)
        for fault in self.schedule.of_kind("crash", *CRASHES_AT):
            for seat in self.seats:
                if seat.index in fault.who:
                    down_ns, effects = fault.stop_ns - fault.start_ns, int(fault.amount)
                    if fault.kind == "crash":
                        self.timeline.at(fault.start_ns, seat.crash_in, effects, down_ns)
                    else:
                        self.timeline.at(fault.start_ns, seat.crash_when, fault.kind, effects, down_ns)
        times = sorted(rng.randrange(HEAL_NS) for _ in range(self.size.batches))
        times += [HEAL_NS + rng.randrange(100 * MILLISECOND_NS) for _ in range(BATCHES_AFTER)]
        for when in sorted(times):
            agents = [rng.randrange(self.size.agents) for _ in range(EVENTS_PER_BATCH)]
            self.timeline.at(when, self._telemetry, agents)
        self.timeline.at(HEAL_NS, self._calm)
        self.timeline.at(FLUSH_NS, self._flush)
        self.timeline.at(FLUSH_NS + LOOK_NS, self._look)

    def _telemetry(self, agents: Sequence[int]) -> None:
        self.ingest_log.append(Observed(make_batch(self._events_so_far, agents, self._script.names)))
        self._events_so_far += len(agents)
        rng = self.streams.of("telemetry")
        for seat in self.seats:
            self.timeline.at(self.timeline.now_ns + rng.randrange(30 * MILLISECOND_NS), seat.catch_up)

    def _calm(self) -> None:
        for seat in self.seats:
            seat.calm()

    def _flush(self) -> None:
        for seat in self.seats:
            seat.flush(self._events_so_far)

    # --- messages

    def _send(self, source: int, to: int, body: bytes, when_ns: int) -> None:
        for target in self._targets(source, to):
            self.network.send(source, target, body, when_ns)

    def _targets(self, source: int, to: int) -> list[int]:
        """Seats that a message from seat `source` to monitor `to` reaches; twins do not write to each other."""
        key = (source, to)
        if key not in self._reached:
            sender = self.seats[source].index
            self._reached[key] = [
                seat.position for seat in self.seats if seat.index != sender and to in (EVERYONE, seat.index)
            ]
        return self._reached[key]

    def _deliver(self, source: int, target: int, body: bytes) -> None:
        self._digest.update(b"%d %d %d %d " % (self.timeline.now_ns, source, target, len(body)) + body[-16:])
        self.seats[target].give(Received(self.seats[source].index, body))

    # --- the end

    def _look(self) -> None:
        self._over = self.done()
        if not self._over:
            self.timeline.at(self.timeline.now_ns + LOOK_NS, self._look)

    def done(self) -> bool:
        """Every honest monitor is up, in one epoch, and all that honest monitors stated is decided."""
        if len({self.invariants.epoch_of(seat.index) for seat in self.honest}) > 1:
            return False
        if not all(seat.caught_up for seat in self.honest):
            return False
        for seat in self.honest:
            assert seat.monitor is not None
            tip = seat.monitor.replica.evidence_log.tip(seat.index)
            if any(self.invariants.cut_of(other.index)[seat.index] != tip for other in self.honest):
                return False
        return True

    def run(self) -> Result:
        """Let everything happen. Raises Violation."""
        with self.shape.in_force(self.schedule.seed):
            while not self._over and self.timeline.now_ns < END_NS and self.timeline.advance():
                pass
        if not self._over:
            epochs = [self.invariants.epoch_of(seat.index) for seat in self.honest]
            raise Violation("no progress after healing", f"epochs {epochs}")
        self._check_end()
        return Result(
            seed=self.schedule.seed,
            monitors=self.schedule.monitors,
            decisions=len(self.invariants.values),
            verdicts=len(self.invariants.verdict_ids),
            steps=self.timeline.steps,
            messages=self.network.sent,
            message_bytes=self.network.sent_bytes,
            healed_after_ms=(self.timeline.now_ns - HEAL_NS) // MILLISECOND_NS,
            digest=self._digest.hexdigest(),
        )

    def _check_end(self) -> None:
        for seat in self.honest:
            self.invariants.check_authorship(seat)
            if not self.invariants.leapt(seat.index) and set(seat.store) != self.invariants.verdict_ids:
                raise Violation("a verdict that not all honest monitors have", f"monitor {seat.index}")
        events: Counter[int] = Counter()
        for entry in self.ingest_log:
            if isinstance(entry, Observed):
                events.update(entry.batch.agent.tolist())
        for agent, often in sorted(events.items()):
            self._check_stated(self._script.names[agent], self._script.total(agent, often))

    def _check_stated(self, name: str, expected: float) -> None:
        """Every observer's statements add up to what its detector said, each event once, crashes or not."""
        stated = {row["monitor"]: row["log_bf_nats"] for row in self.invariants.posterior.stated_about(name)}
        for seat in self.honest:
            if seat.index in self._observers and stated.get(seat.index, 0.0) != expected:
                raise Violation(
                    "evidence that does not add up", f"monitor {seat.index} about {name}: {stated.get(seat.index, 0.0)}"
                )
        if stated and len(self._observers) == self.roster.n:  # whoever had watched alone would believe the same
            self.invariants.check_belief(name, self.invariants.central.prior + expected)
