"""Tree, leaves and aggregators of one monitor, wired together in memory. Packets still cross as bytes.

An update touches the nodes on its way to the root and no others: nobody is visited to see whether it has something to
say, and what the root says about the fleet is fetched, node by node, by who asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tocsin.aggregation.aggregator import HEARTBEAT_NS, Aggregator
from tocsin.aggregation.derive import ESTABLISHED_EVENTS, Scope, confidence, derive, derive_all, names_of, typical
from tocsin.aggregation.fleet_view import FleetView
from tocsin.aggregation.leaves import LeafSummaries
from tocsin.aggregation.messages import (
    Adopt,
    Arrived,
    AskResend,
    Attach,
    Detach,
    Downward,
    Flush,
    Output,
    ResendAsked,
    Upward,
)
from tocsin.aggregation.newcomers import Expectation, Newcomers
from tocsin.aggregation.placement import NetworkMap
from tocsin.aggregation.reports import leaf_source
from tocsin.aggregation.summary import Summary
from tocsin.aggregation.tree import REGION, Tree
from tocsin.errors import InputError
from tocsin.model.baseline import DistributedBaseline, Level
from tocsin.model.events import EventBatch

LEAST_REST_NS = 10_000_000  # after a climb, and 20 ms for each region that it was about: climbing costs about
REST_NS_PER_REGION = 20_000_000  # 0.3 ms a region, so it stays below 2 % of a core at any fleet size and load
EXPECTED_AT_ONCE = 256  # newcomers
AGENTS_AT_ONCE = 256  # whose vectors are copied together when the baselines of many agents are asked for


class Hierarchy:
    """`observe` batches, `pump` now and then, ask for baselines at any time."""

    def __init__(self, *, flush_ns: int | None = None, learn_live: bool = False) -> None:
        self.tree = Tree()
        self.network = NetworkMap()
        self.leaves = LeafSummaries(self.tree, self.network, learn_live=learn_live)
        self.nodes: dict[str, Aggregator] = {}
        self.packets = 0
        self.packets_down = 0  # fetched from the node above
        self.control = 0  # messages about who is whose parent or child, requests for snapshots among them
        self.bytes = 0
        self.largest_packet = 0
        self._refused: Counter[str] = Counter()  # by nodes that are no more
        self._moved: dict[str, None] = {}  # regions whose agents came or went since the last climb
        self._awake: dict[int, dict[str, None]] = {}  # level -> nodes that may have something to say
        self._spoke: dict[str, int] = {}  # node -> when it last stated something (ns), longest ago first
        self._flush_ns = flush_ns
        self._pumped_ns = -(1 << 62)
        self._rest_ns = 0  # from the last climb to the next
        self._changed = False  # since the last climb
        self._now_ns = 0

    def observe(self, batch: EventBatch) -> None:
        """Count a batch at the leaves."""
        self.leaves.accumulate(batch)
        self._changed = True

    def measured(self, agent_id: str, site: str, rtt_ms: float) -> None:
        """A round trip from an agent (or site) to `site` was measured: agents join, or move, where neighbours are.

        Sites have to measure each other too. Raises `InputError` for an impossible time.
        """
        self.network.measured(agent_id, site, rtt_ms)
        if agent_id in self.tree:
            nearest = self.network.place(agent_id, otherwise=self.tree.group_of(agent_id))
            if nearest != self.tree.group_of(agent_id):
                self.tree.move(agent_id, nearest)
                self._changed = True

    def leave(self, agent_id: str) -> None:
        """Take an agent out of the tree; until it acts again, its history counts towards no sum but its own."""
        self.tree.leave(agent_id)
        self._changed = True

    def retire(self, agent_ids: Sequence[str]) -> int:
        """`leave` for those of them that are in the tree; returns how many."""
        here = [agent_id for agent_id in dict.fromkeys(agent_ids) if agent_id in self.tree]
        for agent_id in here:
            self.leave(agent_id)
        return len(here)

    def refit(self) -> int:
        """Open a new epoch: origins and steps are fitted from the latest events, and every sum begins anew with them.

        For when `state()["saturating"]` names features. It costs what was learned, so it is for an operator to decide;
        nothing happens while there is no epoch yet. Returns how many samples that were.
        """
        before = self.leaves.samples
        self.leaves.refit()
        self._changed = True
        return before - self.leaves.samples

    def fail_over(self, node_id: str) -> None:
        """Replace a failed aggregator by an empty one. Its parent and children take part. Raises `InputError`."""
        self._follow()
        node = self.tree.nodes[self._known(node_id).id]
        self._changed = True
        self._forget(node_id)
        self.nodes[node_id] = Aggregator(node_id, node.level)
        self._spoke[node_id] = self._now_ns
        if node.level == REGION:
            self._tell(node_id, Attach(leaf_source(node_id)))
            self._ask_again(leaf_source(node_id))
        else:
            for child in node.children:
                self._tell(node_id, Attach(child))
                self._ask_again(child)
        self._tell(node_id, Adopt(node.parent))
        if node.parent:  # whatever the parent held from the failed one is stated anew
            self._tell(node.parent, Detach(node_id))
            self._tell(node.parent, Attach(node_id))

    def _tell(self, node_id: str, what: Attach | Detach | Adopt | ResendAsked) -> None:
        self.control += 1
        self._wake(node_id)
        for child in self._deliver(self._now_ns, self.nodes[node_id].step(self._now_ns, what)):
            self._ask_again(child)

    def _ask_again(self, child: str) -> None:
        """Ask an inner node, or the leaves of a region, for a snapshot."""
        if child in self.nodes:
            self._tell(child, ResendAsked())
        else:
            self.control += 1
            self.leaves.reports.resend(child.partition("/")[2])

    def region_of(self, agent_id: str) -> str:
        """Id of the agent's region. Raises `UnknownAgent`."""
        return self.tree.region_of(agent_id)

    def fleet_known_to(self, agent_id: str) -> FleetView:
        """What the root last said about the whole fleet, fetched down the agent's path. Raises `UnknownAgent`."""
        node_id = region = self.tree.region_of(agent_id)
        views = [self.leaves.reports.view(region)]
        while node_id:
            if node_id in self.nodes:  # a node made since the last climb is not there yet
                views.append(self.nodes[node_id].fleet)
            node_id = self.tree.nodes[node_id].parent
        for k in range(len(views) - 1, 0, -1):
            fetched = views[k - 1].follow(views[k], self._pumped_ns)
            self.packets_down += len(fetched)
            self.bytes += sum(map(len, fetched))
        return views[0]

    def pump(self, now_ns: int) -> None:
        """Send what has changed up the tree: after quiet at once, and then once the rest is over.

        That is the interval given, or as long as the last climb was large. Heartbeats do not count: they are rare.
        """
        self._now_ns = max(self._now_ns, now_ns)
        if not 0 <= now_ns - self._pumped_ns < self._rest_ns:  # or the clock has been set back
            self._climb(now_ns)

    def due_ns(self) -> int | None:
        """When `pump` is next called for: there are changes that have not climbed. None if there are not."""
        return self._pumped_ns + self._rest_ns if self._changed else None

    def _climb(self, now_ns: int) -> None:
        self._pumped_ns, self._changed, regions = now_ns, False, 0
        self._follow()
        moved, self._moved = self._moved, {}
        self._wake_the_long_silent(now_ns)
        for rounds in range(2):  # a second round answers requests for snapshots
            asked = self._deliver(now_ns, list(self.leaves.flush(now_ns, moved if not rounds else {})))
            regions += self.leaves.changed_regions
            for level in range(REGION, self.tree.depth):
                for node_id in self._awake.pop(level, {}):
                    asked += self._flush(now_ns, node_id)
            for child in asked:
                self._ask_again(child)
            if not asked:
                break
        self._flush(now_ns, self.tree.root)
        if self._flush_ns is None:
            self._rest_ns = max(LEAST_REST_NS, REST_NS_PER_REGION * regions)
        else:
            self._rest_ns = self._flush_ns

    def _flush(self, now_ns: int, node_id: str) -> list[str]:
        """Let a node state what has changed. Returns the children that were asked for a snapshot."""
        node = self.nodes.get(node_id)
        outputs = node.step(now_ns, Flush()) if node is not None else []
        if outputs:
            self._spoke.pop(node_id, None)
            self._spoke[node_id] = now_ns
        return self._deliver(now_ns, outputs)

    def _wake_the_long_silent(self, now_ns: int) -> None:
        """For their heartbeat. A clock that was set back makes them due as well."""
        for node_id, at in self._spoke.items():
            if 0 <= now_ns - at < HEARTBEAT_NS:
                break
            self._wake(node_id)

    def _wake(self, node_id: str) -> None:
        self._awake.setdefault(self.nodes[node_id].level, {})[node_id] = None

    def _follow(self) -> None:
        """Repeat the tree's restructuring on the aggregators: only nodes that changed are touched."""
        changes = self.tree.drain()
        self._moved |= changes.regions
        changed = changes.parents
        for node_id in changed:
            mine = self.nodes.get(node_id)
            node = self.tree.nodes.get(node_id)
            moved = mine is not None and (node is None or node.parent != mine.parent)
            if mine is not None and moved and mine.parent in self.nodes:
                self._tell(mine.parent, Detach(node_id))
            if node is None:
                self._forget(node_id)
            elif mine is None:
                self.nodes[node_id] = Aggregator(node_id, node.level)
                self._spoke[node_id] = self._now_ns
                if node.level == REGION:
                    self._tell(node_id, Attach(leaf_source(node_id)))
        for node_id in changed:
            node = self.tree.nodes.get(node_id)
            if node is not None and self.nodes[node_id].parent != node.parent:
                self._tell(node_id, Adopt(node.parent))
                if node.parent:
                    self._tell(node.parent, Attach(node_id))

    def _forget(self, node_id: str) -> None:
        """Remove a node; what it refused stays counted."""
        node = self.nodes.pop(node_id, None)
        self._spoke.pop(node_id, None)
        if node is not None:
            self._refused += node.refused + node.fleet.refused

    def _deliver(self, now_ns: int, outputs: list[Output] | list[Upward]) -> list[str]:
        """Returns the children that were asked for a snapshot."""
        asked: list[str] = []
        for output in outputs:
            if isinstance(output, AskResend):
                asked.append(output.child)
                continue
            self.largest_packet = max(self.largest_packet, len(output.body))
            if isinstance(output, Downward):  # waits to be fetched
                continue
            self.bytes += len(output.body)
            self.packets += 1
            self._wake(output.to)
            asked += self._deliver(now_ns, self.nodes[output.to].step(now_ns, Arrived(output.body, output.child)))
        return asked

    # ---- down

    def establish(
        self, agent_ids: Sequence[str], level: int = Level.GLOBAL, now_ns: int | None = None
    ) -> DistributedBaseline:
        """The baseline that covers `agent_ids` at `level`: the agents themselves, their regions, zones, or everything.

        `parts` holds one baseline per agent, region or zone where there are several. Raises `UnknownAgent`, and
        `InputError` for an empty list below `Level.GLOBAL` or an unknown level. Without `now_ns` it is as of the last
        `pump`.
        """
        if level not in tuple(Level):
            raise InputError(f"there is no level {level}", remedy="0 agent, 1 region, 2 zone, 3 global")
        if not agent_ids and level != Level.GLOBAL:
            raise InputError("a baseline below the global level needs at least one agent")
        agent_ids = list(dict.fromkeys(agent_ids))
        for agent_id in agent_ids:
            self.tree.region_of(agent_id)
        self._now_ns = max(self._now_ns, now_ns or 0)
        if not self.leaves.settled:
            return self._early().establish(agent_ids, level)
        self._climb(self._now_ns)
        if level == Level.AGENT:
            return self._of_agents(agent_ids)
        if level == Level.GLOBAL:
            return self.baseline(level, self.tree.root)
        scopes = list(dict.fromkeys(self.tree.ancestor(a, level) for a in agent_ids))
        parts = tuple(self.baseline(level, s) for s in scopes)
        if len(parts) == 1:
            return parts[0]
        total = Summary.empty(self.leaves.epoch, len(self.leaves.grid))
        for scope in scopes:
            total += self.nodes[scope].total
        agents, stale = sum(p.agents for p in parts), max(p.staleness_seconds for p in parts)
        below = [agent for scope in scopes for agent in self.tree.agents_below(scope)]
        return derive(total, self.leaves.grid, level, self._of(below, Scope(names_of(scopes), agents, stale, parts)))

    def _of_agents(self, agent_ids: list[str]) -> DistributedBaseline:
        parts = self.of_each(agent_ids)
        if len(parts) == 1:
            return parts[0]
        stale = max(part.staleness_seconds for part in parts)
        scope = self._of(agent_ids, Scope(names_of(agent_ids), len(agent_ids), stale, tuple(parts)))
        return derive(self.leaves.summary(agent_ids), self.leaves.grid, Level.AGENT, scope)

    def of_each(self, agent_ids: list[str]) -> list[DistributedBaseline]:
        """Every one's own baseline as of now; of those with few events, what peers let one expect stands beside it.

        Unless they are more than `EXPECTED_AT_ONCE`: each costs a millisecond. Ask for fewer at once then.
        Asking changes nothing: before there is a grid they are empty. Raises `UnknownAgent`.
        """
        found: list[DistributedBaseline] = []
        few = np.flatnonzero(self.leaves.members(agent_ids).events < ESTABLISHED_EVENTS).tolist()
        asked = [agent_ids[k] for k in few] if len(few) <= EXPECTED_AT_ONCE else []
        expected = Newcomers(self.tree, self.leaves).expect_each(asked)
        stale = (self._now_ns - self.leaves.as_of_ns(self._now_ns)) / 1e9
        for start in range(0, len(agent_ids), AGENTS_AT_ONCE):
            some = agent_ids[start : start + AGENTS_AT_ONCE]
            events = self.leaves.members(some).events
            scopes = [_of_one(a, events[k : k + 1], stale, expected.get(a)) for k, a in enumerate(some)]
            found += derive_all(self.leaves.each(some), self.leaves.grid, Level.AGENT, scopes)
        return found

    def _of(self, agent_ids: list[str], scope: Scope) -> Scope:
        """`scope` with what these agents, one vote each, say of it."""
        members = self.leaves.members(agent_ids)
        return replace(scope, confidence=confidence(members.events), typical=typical(self.leaves.grid, members))

    def baseline(self, level: int, scope: str) -> DistributedBaseline:
        """Of one inner node as it stands; `scope` is its id. Raises `InputError` if there is no such node.

        Its sums are as of the last climb; what is typical of its agents, and its confidence, as of now.
        """
        node = self._known(scope)
        stale = max(0.0, self._now_ns / 1e9 - node.as_of_ms / 1e3)
        name = "global" if level == Level.GLOBAL else scope
        described = Scope(name, node.agents, stale)
        if node.grid == self.leaves.grid:  # until the next climb a node may be on the grid of an epoch that is over
            described = self._of(self.tree.agents_below(scope), described)
        return derive(node.total, node.grid, level, described)

    def _known(self, node_id: str) -> Aggregator:
        if node_id not in self.nodes:
            raise InputError(f"there is no node {node_id!r} in the tree", remedy="region_of names an agent's region")
        return self.nodes[node_id]

    def expect(self, agent_id: str) -> Expectation:
        """What the agent's next sample should look like, from its own and its peers' (region, zone, then fleet).

        Raises `UnknownAgent`, and `InputError` while nobody is known well enough.
        """
        leaves = self.leaves if self.leaves.settled else self._early().leaves
        return Newcomers(self.tree, leaves).expect(agent_id)

    def _early(self) -> Hierarchy:
        """A copy with a grid fitted from the few events so far: asking must not change the epochs of who is asked."""
        copy = deepcopy(self)
        copy.leaves.conclude()
        return copy

    # ---- about itself

    def root_equals_leaf_sum(self) -> bool:
        """Climb, then compare the root with the direct sum over every agent, byte for byte."""
        if not self.leaves.settled:
            return self._early().root_equals_leaf_sum()
        self._climb(self._now_ns)
        direct = self.leaves.summary([a for n in self.tree.at_level(REGION) for a in n.children])
        root = self.nodes[self.tree.root].total
        return root == direct if self.leaves.epoch >= 0 else root.events == 0

    def state(self) -> dict[str, Any]:
        """Counts for display."""
        refused = self._refused + self.leaves.all_refused()
        for node in self.nodes.values():
            for counts in (node.refused, node.fleet.refused):
                if counts:
                    refused.update(counts)
        root = self.nodes.get(self.tree.root)
        return {
            "agents": len(self.tree), "regions": len(self.tree.at_level(1)), "zones": len(self.tree.at_level(2)),
            "depth": self.tree.depth, "epoch": self.leaves.epoch, "features": list(self.leaves.grid.features),
            "samples": root.total.events if root else 0, "packets": self.packets, "packets_down": self.packets_down,
            "control": self.control, "bytes": self.bytes, "largest_packet": self.largest_packet,
            "refused": dict(refused), "missing": self.leaves.missing,
            "saturating": list(self.leaves.saturating()), "tree_operations": self.tree.operations,
        }  # fmt: skip


def _of_one(agent_id: str, events: NDArray[np.int64], stale: float, peers: Expectation | None) -> Scope:
    own = Scope(agent_id, 1, stale, confidence=confidence(events))
    if peers is None:
        return own
    return replace(own, expected=peers.expected, expected_from=peers.scope, expected_peers=peers.peers)
