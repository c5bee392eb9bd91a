"""Nodes of the aggregation tree on a machine of their own, talking over TCP; a silent machine is replaced.

Every machine is given the same plan: which node has which parent and children, and which machines may run it, in order
of preference. A node runs on the first of them that is up. A machine that stays silent for `patience_seconds` is given
up: the next one starts the node empty, its children state themselves anew, its parent keeps what the lost one had
contributed until the new one states itself. Only the parent, the children and the two machines take part. When the
preferred machine is back, the node returns to it the same way. Views of who is up may differ for a while; then a sum is
old, never wrong, since a parent takes a node's word only from the machine that it believes to run it, and a child its
parent's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tocsin.aggregation.aggregator import Aggregator
from tocsin.aggregation.messages import (
    Adopt,
    Arrived,
    AskResend,
    Attach,
    Downward,
    Flush,
    FromAbove,
    Input,
    Output,
    ResendAsked,
    Upward,
)
from tocsin.errors import TocsinError, WireError
from tocsin.runtime.tcp_bus import TcpBus

UP, DOWN, RESEND = 0, 1, 2
PATIENCE_SECONDS = 5.0  # shorter: a restart moves nodes about; longer: sums are old for longer
BEAT_SECONDS = 1.0  # how often nodes look whether they have been silent for too long
MAX_TARGETS = 255  # of one frame
LEAST_INTERVAL_SECONDS = 0.01  # between climbs: the first change after quiet leaves at once, a busy node sums up first

ToLeaf = Callable[[str, Input], None]


@dataclass(frozen=True, slots=True)
class Place:
    """One node of the tree. `hosts`: numbers of the machines that may run it, the preferred one first."""

    level: int
    parent: str
    children: tuple[str, ...]
    hosts: tuple[int, ...]


def neighbours(plan: Mapping[str, Place], leaves: Mapping[str, int], me: int) -> set[int]:
    """Machines that `me` is linked with: those of its nodes' parents and children, and other hosts of its own."""
    mine = {name for name, place in plan.items() if me in place.hosts}
    mine |= {name for name, host in leaves.items() if host == me}
    found: set[int] = set()
    for name, place in plan.items():
        if name in mine or place.parent in mine or mine.intersection(place.children):
            found.update(place.hosts)
    for name in mine:
        if name in plan:
            found.update(leaves[child] for child in plan[name].children if child in leaves)
    return found - {me}


class TreeHost:
    """Machine `me`. Call `attach` with its bus, then `changed` is the bus's `on_change`, `received` its `on_message`.

    `leaves`: leaf -> the machine it is on. `to_leaf` is told what arrives for leaves on this one. `now_ns`: a
    clock that all machines share within `fleet_view.AHEAD_NS`; a root whose clock is further ahead is not listened to.
    """

    def __init__(
        self,
        me: int,
        plan: Mapping[str, Place],
        leaves: Mapping[str, int],
        now_ns: Callable[[], int],
        *,
        to_leaf: ToLeaf | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.me = me
        self.nodes: dict[str, Aggregator] = {}
        self.refused: Counter[str] = Counter()
        self.messages = 0  # sent to other machines
        self.failovers = 0  # changes of which machine runs a node that this one has to do with
        mine = {leaf for leaf, host in leaves.items() if host == me}
        mine |= {name for name, place in plan.items() if me in place.hosts}
        self._parent_of = {c: name for name, place in plan.items() for c in place.children if c in mine}
        # Of the plan a machine keeps what is next to its own nodes and leaves: a constant, however large the fleet.
        near = mine.union(self._parent_of.values(), *(plan[name].children for name in mine if name in plan))
        self._plan = plan = {name: place for name, place in plan.items() if name in near}
        self._leaves = {leaf: host for leaf, host in leaves.items() if leaf in near}
        self._now_ns = now_ns
        self._to_leaf = to_leaf
        self._patience = patience_seconds
        self._bus: TcpBus | None = None
        self._up = {host for place in plan.values() for host in place.hosts} | {me}  # until proven silent
        self._linked: set[int] = set()  # at some time
        self._giving_up: dict[int, asyncio.TimerHandle] = {}
        self._flushing: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._flushed = 0.0
        self._runs = {name: place.hosts[0] for name, place in plan.items()}
        self._below: dict[str, list[tuple[int, bytes]]] = {}
        for name in plan:
            if self._runs[name] == me:
                self._begin(name)

    def attach(self, bus: TcpBus) -> None:
        """Send through `bus` from now on; machines that are not linked by the end of the patience count as silent."""
        self._bus = bus
        for host in bus.links():
            if host in self._up:
                self.changed(host, False)
        if any(self.me in place.hosts for place in self._plan.values()):
            self._beating = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self._beating = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)
        self.flush()

    def close(self) -> None:
        """Stop timers."""
        for timer in (*self._giving_up.values(), self._flushing, self._beating):
            if timer is not None:
                timer.cancel()

    def host_of(self, node: str) -> int:
        """The machine that runs `node`, this one's or next to them, as far as this one can tell."""
        return self._runs[node]

    # ---- in

    def received(self, peer: int, frame: bytes) -> None:
        """A frame from another machine, see `_frame`."""
        try:
            kind, names, bodies = _open(frame)
            if kind > RESEND or (kind == UP and len(names) != 2):
                raise WireError("a frame of no known kind")
        except (IndexError, UnicodeDecodeError, WireError):
            self.refused["malformed"] += 1
            return
        if kind == UP:
            target, child = names
            self._take_up(peer, target, child, bodies)
            return
        events: list[Input] = list(map(FromAbove, bodies)) if kind == DOWN else [ResendAsked()] * len(bodies)
        for target in names:
            parent = self._parent_of.get(target)
            if parent is None:
                self.refused["no such node here"] += 1
            elif self._runs[parent] != peer:
                self.refused["not from where the parent runs"] += 1
            elif target in self.nodes:
                self._step(target, events)
            elif target not in self._plan and self._to_leaf is not None:
                for event in events:
                    self._to_leaf(target, event)
            else:
                self.refused["no such node here"] += 1

    def _take_up(self, peer: int, target: str, child: str, bodies: list[bytes]) -> None:
        if target not in self.nodes:
            self.refused["no such node here"] += 1
        elif self._runs.get(child, self._leaves.get(child)) != peer:
            self.refused["not from where the child runs"] += 1
        else:
            self._step(target, [Arrived(body, child) for body in bodies])

    def send_up(self, leaf: str, region: str, packets: Iterable[bytes]) -> None:
        """State something for a leaf on this machine. Snapshots are numbered by the clock, deltas on from there."""
        assert self._leaves[leaf] == self.me
        self._send(self._runs[region], _frame(UP, [region, leaf], _packed(packets)))

    # ---- out

    def _step(self, name: str, events: list[Input]) -> None:
        now_ns, node = self._now_ns(), self.nodes[name]
        self._carry_out(name, [output for event in events for output in node.step(now_ns, event)])
        if any(isinstance(event, Arrived | ResendAsked | Adopt) for event in events):
            self._flush_soon()

    def _carry_out(self, name: str, outputs: list[Output]) -> None:
        """What a step of node `name` gave. What goes to one node, or unchanged to a machine, goes in one frame."""
        up: dict[str, list[bytes]] = {}
        down: list[bytes] = []
        for output in outputs:
            match output:
                case Upward(parent, body):
                    up.setdefault(parent, []).append(body)
                case Downward(body):
                    down.append(body)
                case AskResend(child):
                    host = self._runs[child] if child in self._runs else self._leaves[child]
                    self._send(host, _frame(RESEND, [child], _packed([b""])))
        for parent, bodies in up.items():
            self._send(self._runs[parent], _frame(UP, [parent, name], _packed(bodies)))
        if down:
            packed = _packed(down)
            for host, head in self._children_by_machine(name):
                self._send(host, head + packed)

    def _children_by_machine(self, name: str) -> list[tuple[int, bytes]]:
        """Machines below a node, and how a frame to the children there begins. At 1000 leaves, frames are the cost."""
        found = self._below.get(name)
        if found is None:
            there: dict[int, list[str]] = {}
            for child in self._plan[name].children:
                there.setdefault(self._runs[child] if child in self._runs else self._leaves[child], []).append(child)
            found = self._below[name] = [
                (host, _frame(DOWN, names[k : k + MAX_TARGETS], b""))
                for host, names in there.items()
                for k in range(0, len(names), MAX_TARGETS)
            ]
        return found

    def _send(self, host: int, frame: bytes) -> None:
        if host == self.me:
            self.received(host, frame)
        elif self._bus is not None:
            self.messages += 1
            self._bus.send(host, frame)

    def _flush_soon(self) -> None:
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_at(max(loop.time(), self._flushed + LEAST_INTERVAL_SECONDS), self.flush)

    def flush(self) -> None:
        """Let every node here state what has changed, lower ones first."""
        loop = asyncio.get_running_loop()
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushed, self._flushing = loop.time(), None
        for node in sorted(self.nodes.values(), key=lambda node: node.level):
            try:
                outputs = node.step(self._now_ns(), Flush())
            except TocsinError:  # one node that cannot state itself does not keep the others from it
                self.refused["cannot be stated"] += 1
            else:
                self._carry_out(node.id, outputs)

    # ---- machines come and go

    def changed(self, host: int, up: bool) -> None:
        """The link to a machine came up or went down."""
        if (timer := self._giving_up.pop(host, None)) is not None:
            timer.cancel()
        if up:
            self._decide(host, self._up | {host})
            if host in self._linked:  # it may have forgotten what it was told
                self._state_anew(host)
            self._linked.add(host)
        else:
            loop = asyncio.get_running_loop()
            self._giving_up[host] = loop.call_later(self._patience, self._give_up, host)

    def _state_anew(self, host: int) -> None:
        """To the nodes on machine `host`, for those below them that are on this one."""
        for child, parent in self._parent_of.items():
            if self._runs[parent] == host:
                self._begin_reporting(child, parent)

    def _begin_reporting(self, child: str, parent: str) -> None:
        if child in self.nodes:
            self._step(child, [Adopt(parent)])
        elif self._leaves.get(child) == self.me and self._to_leaf is not None:
            self._to_leaf(child, ResendAsked())

    def _give_up(self, host: int) -> None:
        del self._giving_up[host]
        self._decide(host, self._up - {host})

    def _decide(self, host: int, up: set[int]) -> None:
        self._up = up
        for name, place in self._plan.items():
            if host in place.hosts:
                runs = next((one for one in place.hosts if one in up), place.hosts[0])
                if runs != self._runs[name]:
                    self._move(name, runs)

    def _move(self, name: str, host: int) -> None:
        """Node `name` runs on `host` now: begin or end it here, and tell those of its neighbours that are here."""
        self._runs[name] = host
        self._below.clear()
        place = self._plan[name]
        if host == self.me:
            self._begin(name)
        else:
            self.nodes.pop(name, None)
        if place.parent in self.nodes:
            self._step(place.parent, [Attach(name)])
        for child in place.children:
            self._begin_reporting(child, name)
        self.failovers += 1

    def _begin(self, name: str) -> None:
        place = self._plan[name]
        node = self.nodes[name] = Aggregator(name, place.level)
        for child in place.children:
            node.step(self._now_ns(), Attach(child))
        if place.parent:
            node.step(self._now_ns(), Adopt(place.parent))


def _frame(kind: int, names: list[str], packed: bytes) -> bytes:
    """Kind, number of names, these, each behind its length in a byte, then packets.

    The names are targets; of a frame that goes up, the target and the child that states it.
    """
    return bytes((kind, len(names))) + b"".join(bytes((len(raw),)) + raw for raw in map(str.encode, names)) + packed


def _packed(bodies: Iterable[bytes]) -> bytes:
    """Packets, each behind its length in two bytes."""
    return b"".join(len(body).to_bytes(2) + body for body in bodies)


def _open(frame: bytes) -> tuple[int, list[str], list[bytes]]:
    kind, count, at, end = frame[0], frame[1], 2, len(frame)
    names: list[str] = []
    bodies: list[bytes] = []
    for _ in range(count):
        start, at = at + 1, at + 1 + frame[at]
        names.append(frame[start:at].decode())
    while at < end:
        start = at + 2
        at = start + (frame[at] << 8 | frame[at + 1])
        bodies.append(frame[start:at])
    if at != end:
        raise WireError("a frame that ends in the middle of a packet")
    return kind, names, bodies
