"""What goes wrong in one simulated run: drawn from the seed, listed, and removable one by one.

Each seed enables a random subset of the kinds of fault (swarm testing, Groce et al. 2012): a run in which everything
happens at once hides the bugs that need one thing to happen often. All faults of network, machines and clocks end when
the run's second half, the test of liveness, begins. Lies do not end.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec

from tocsin.consensus import journal
from tocsin.errors import InputError
from tocsin.sim.timeline import MILLISECOND_NS, Streams

HEAL_NS = 4_000 * MILLISECOND_NS  # until here anything may happen; from here on the network is sound
LIES = (
    "hide",  # time out without showing the lock
    "strip",  # propose against a lock, leaving out the certificate that proves it
    "defy",  # propose against a lock, with the certificate that proves it
    "two-faced",  # propose one value to some and another to the rest
    "shrink",  # propose a cut that gives up what is decided
    "posterior",  # propose a posterior that does not follow
    "eager",  # vote for everything that is proposed or prepared, in any view, after timeouts too
    "phase",  # votes for another phase or view
    "fake vote",  # votes whose signature does not hold
    "misjudge",  # claim of shares that one was asked about what is not so
    "spoil",  # states of another size, and chunks of them that do not hold
    "early",  # announce prepared values as decided
    "invent",  # announce a decision with made-up signatures
    "repeat signer",  # announce a decision that one monitor signed n - f times
    "few",  # announce a decision or timeout certificate that too few signed
    "forge",  # evidence in another monitor's name
    "flood",  # state far more than there is to say
    "tempt",  # propose another value to whoever comes back from a crash
    "replay",  # send old messages again
    "alter",  # flip a bit
    "mute",  # keep silent to some
)
ROLES = ("twins", "liar", "silent", "lying disk", "lost disk")
NETWORK = ("loss", "delay", "duplicate", "clog", "one way", "partition", "narrow")
RECORDS = (journal.VOTED, journal.LOCKED, journal.TIMED_OUT, journal.PROPOSED, journal.DECIDED, journal.EVIDENCE)
CRASHES_AT = {f"crash when {kind}": kind for kind in RECORDS}  # fault -> the record that its victim has just written
MACHINES = ("crash", *CRASHES_AT, "slow machine", "clock jump", "clock drift")
KINDS = (*NETWORK, *MACHINES)
_DRAWN = (*NETWORK, "crash", "crash when", "slow machine", "clock jump", "clock drift")


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong. What `amount` means depends on the kind; see `describe`."""

    kind: str
    start_ns: int = 0
    stop_ns: int = HEAL_NS
    who: tuple[int, ...] = ()  # monitors; for network faults the group that is cut off, or the senders
    amount: float = 0.0

    def active(self, now_ns: int) -> bool:
        """Whether it is going on."""
        return self.start_ns <= now_ns < self.stop_ns

    def describe(self) -> str:
        """One line for people."""
        amount = f" {self.amount:.3g}" if self.amount else ""
        who = f" of {', '.join(map(str, self.who))}" if self.who else ""
        start, stop = self.start_ns // MILLISECOND_NS, self.stop_ns // MILLISECOND_NS
        return f"{self.kind}{amount}{who}" + (f" at {start}..{stop} ms" if self.kind in KINDS else "")


class Schedule(msgspec.Struct, frozen=True):
    """All of a run's faults. `faulty`: the monitors of which nothing is expected, at most f."""

    seed: int
    monitors: int
    faulty: tuple[int, ...]
    faults: tuple[Fault, ...]

    def only(self, kept: Iterable[int]) -> Schedule:
        """The same run with the faults at these positions alone. Raises InputError for a position there is not."""
        positions = sorted(set(kept))
        if positions and not 0 <= positions[0] <= positions[-1] < len(self.faults):
            raise InputError(
                f"seed {self.seed} has faults 0..{len(self.faults) - 1}",
                remedy="take the numbers that a failure prints",
            )
        return msgspec.structs.replace(self, faults=tuple(self.faults[i] for i in positions))

    def of_kind(self, *kinds: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.kind in kinds]

    def role(self, monitor: int) -> str:
        """What a faulty monitor is; 'honest' for all others, and where the role was taken out."""
        return next((fault.kind for fault in self.of_kind(*ROLES) if monitor in fault.who), "honest")


def draw(seed: int, monitors: int) -> Schedule:
    """The schedule of a seed."""
    rng = Streams(seed).of("schedule", monitors)
    tolerated = (monitors - 1) // 3
    count = tolerated if rng.random() < 0.8 else rng.randint(0, tolerated)
    faulty = tuple(sorted(rng.sample(range(monitors), count)))
    faults: list[Fault] = []
    for monitor in faulty:
        (role,) = rng.choices(ROLES, (6, 2, 1, 1, 2))
        faults.append(Fault(role, who=(monitor,)))
        if role == "lost disk":  # when it crashes for the first time
            start = rng.randrange(HEAL_NS)
            stop = start + rng.randrange(5, 400) * MILLISECOND_NS
            faults.append(Fault(f"crash when {journal.VOTED}", start, min(HEAL_NS, stop), (monitor,)))
    if faulty:  # liars collude: what one tells, all tell
        for lie in LIES:
            told = rng.choice((0.0, 0.0, 0.2, 1.0))
            if told:
                faults.append(Fault(lie, stop_ns=1 << 62, amount=told))
    for kind in _DRAWN:
        if rng.random() < 0.5:
            faults.extend(_one(kind, rng, monitors) for _ in range(rng.choice((1, 1, 2, 4))))
    return Schedule(seed, monitors, faulty, tuple(faults))


def _one(kind: str, rng: Random, monitors: int) -> Fault:
    start = rng.randrange(HEAL_NS)
    stop = min(HEAL_NS, start + rng.randrange(50, 1500) * MILLISECOND_NS)
    who: tuple[int, ...] = ()
    amount = 0.0
    if kind == "loss":
        amount = rng.choice((0.02, 0.1, 0.3))
    elif kind == "delay":
        amount = rng.choice((20.0, 100.0, 400.0))  # mean, milliseconds
    elif kind == "duplicate":
        amount = rng.choice((0.05, 0.3))
    elif kind == "narrow":
        amount = rng.choice((5e3, 5e4, 1e6))  # bytes a second on each link, or on those of some
        if rng.random() < 0.5:
            who = (rng.randrange(monitors),)
    elif kind in ("clog", "one way", "partition"):
        who = tuple(sorted(rng.sample(range(monitors), rng.randint(1, max(1, monitors // 2)))))
    else:
        who = (rng.randrange(monitors),)
        if kind == "crash":
            amount = float(rng.randrange(6))  # effects of a step that still happen
            stop = min(HEAL_NS, start + rng.randrange(5, 400) * MILLISECOND_NS)
        elif kind == "crash when":
            kind = rng.choice(tuple(CRASHES_AT))
            amount = float(rng.randrange(4))  # effects after the record that still happen
            stop = min(HEAL_NS, start + rng.randrange(5, 400) * MILLISECOND_NS)
        elif kind == "slow machine":
            amount = rng.choice((3.0, 30.0, 300.0))  # times as slow
        elif kind == "clock jump":
            amount = rng.choice((0.2, 5.0, 3600.0))  # seconds, forward
        else:
            amount = rng.choice((0.8, 0.95, 1.05, 1.3))  # seconds its timers take for a second
    return Fault(kind, start, stop, who, amount)
