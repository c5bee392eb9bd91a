"""Which agent belongs to which region, which region to which zone: a self-balancing tree of the fleet.

Regions hold 10-50 agents, zones 500-1000 agents, the global node the zones; above `FAN_OUT` zones it grows further
levels of at most `FAN_OUT` children as a B-tree does (Bayer & McCreight 1972), so the depth is O(log n). Overflow
splits a node in two, underflow merges it with a sibling (and splits the union again if that is too large): work stays
on one path.

Small fleets: the only region may have fewer than 10 agents and the only zone fewer than 500, since there is nobody to
merge with. The same sequence of calls gives the same tree on every machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tocsin.errors import InputError, InternalError, UnknownAgent

REGION_MIN, REGION_MAX = 10, 50
ZONE_MIN, ZONE_MAX = 500, 1000
FAN_OUT_MIN, FAN_OUT = 16, 64
MAX_GROUPS = 256  # group names come from telemetry; further ones share a home
REGION, ZONE = 1, 2


@dataclass(slots=True)
class Node:
    """`children` are agent ids in a region and node ids elsewhere, in order of arrival."""

    id: str
    level: int  # 1 region, 2 zone, 3 and above: global
    parent: str = ""
    children: dict[str, None] = field(default_factory=dict[str, None])
    agents: int = 0  # below this node


@dataclass(slots=True)
class Changes:
    """What moved since the last `drain`, by node id. Their number is what a restructuring costs in messages."""

    regions: dict[str, None] = field(default_factory=dict[str, None])  # membership changed
    parents: dict[str, None] = field(default_factory=dict[str, None])  # node created, re-parented or removed


def most_attachments(depth: int) -> int:
    """Children attached or detached by any one join or leave in a tree of `depth` levels, at most: O(log n).

    A region that splits or merges moves agents, at most as many as it may hold. Of a zone that is merged away every
    region moves, half of the union's should that be too large, and half a region's agents to even them out; of a node
    above, its children and half the union's. Each is detached and attached.
    """
    zone = (ZONE_MIN + (ZONE_MIN + ZONE_MAX) // 2) // REGION_MIN + REGION_MAX // 2
    above = FAN_OUT_MIN + (FAN_OUT_MIN + FAN_OUT) // 2
    return 2 * (REGION_MAX + zone + above * (depth - 2))


class Tree:
    """The assignment, and a counter `operations` of children attached or detached so far."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._levels: dict[int, dict[str, Node]] = {}
        self.root = ""
        self.operations = 0
        self._region_of: dict[str, str] = {}
        self._group_of: dict[str, str] = {}
        self._home: dict[str, str] = {}  # group -> the region its next member joins
        self._changes = Changes()
        self._made = 0
        self.root = self._new(3).id
        zone, region = self._new(ZONE), self._new(REGION)
        self._attach(zone.id, self.root)
        self._attach(region.id, zone.id)

    # ---- questions

    def __len__(self) -> int:
        return len(self._region_of)

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._region_of

    def region_of(self, agent_id: str) -> str:
        try:
            return self._region_of[agent_id]
        except KeyError:
            raise UnknownAgent(f"no agent {agent_id!r} in the tree") from None

    def group_of(self, agent_id: str) -> str:
        self.region_of(agent_id)
        return self._group_of[agent_id]

    def ancestor(self, agent_id: str, level: int) -> str:
        """The node at `level` (1..3, 3 = root) above an agent."""
        if level >= 3:
            return self.root
        region = self.region_of(agent_id)
        return region if level == REGION else self.nodes[region].parent

    def agents_below(self, node_id: str) -> list[str]:
        """Every agent below a node."""
        node = self.nodes[node_id]
        if node.level == REGION:
            return list(node.children)
        return [agent for child in node.children for agent in self.agents_below(child)]

    def at_level(self, level: int) -> list[Node]:
        """In order of creation."""
        return list(self._levels.get(level, {}).values())

    @property
    def depth(self) -> int:
        """Edges from an agent to the root."""
        return self.nodes[self.root].level

    def drain(self) -> Changes:
        """What changed since the last call."""
        out, self._changes = self._changes, Changes()
        return out

    # ---- operations

    def join(self, agent_id: str, group: str = "") -> str:
        """Place a new agent and return its region. Agents of one `group` (role, tenant, place) end up together."""
        if agent_id in self._region_of:
            raise InputError(f"agent {agent_id!r} is already in the tree")
        if group not in self._home and len(self._home) >= MAX_GROUPS:
            group = ""
        home = self._home.get(group)
        if home is None:
            home = self._home[group] = self._emptiest_region()
        self._group_of[agent_id] = group
        self._add_agent(agent_id, home)
        self._relieve(home)
        return self._region_of[agent_id]

    def leave(self, agent_id: str) -> None:
        region = self.region_of(agent_id)
        self._remove_agent(agent_id)
        del self._group_of[agent_id]
        self._refill(region)

    def move(self, agent_id: str, group: str) -> str:
        """Give an agent another group; it moves to where that group lives. Returns its region."""
        self.leave(agent_id)
        return self.join(agent_id, group)

    def check(self) -> None:
        """Raise `InternalError` unless every size bound and every link holds."""
        per_level = Counter(node.level for node in self.nodes.values())
        for node in self.nodes.values():
            only = per_level[node.level] == 1
            low, high = _BOUNDS[min(node.level, 3)]
            size = self._size(node)
            inner = sum(self.nodes[c].agents for c in node.children) if node.level > REGION else len(node.children)
            if size > high or (size < low and not only):
                raise InternalError(f"node {node.id} at level {node.level} has size {size}")
            if inner != node.agents:
                raise InternalError(f"node {node.id} counts {node.agents} agents but has {inner}")
            if node.level > REGION and any(self.nodes[c].parent != node.id for c in node.children):
                raise InternalError(f"a child of {node.id} does not know its parent")

    # ---- machinery

    def _size(self, node: Node) -> int:
        return node.agents if node.level <= ZONE else len(node.children)

    def _new(self, level: int) -> Node:
        self._made += 1
        node = Node(f"{'rzg'[min(level, 3) - 1]}{self._made}", level)
        self.nodes[node.id] = self._levels.setdefault(level, {})[node.id] = node
        self._changes.parents[node.id] = None
        return node

    def _emptiest_region(self) -> str:
        """For a group without a home: the smallest region (first of equals)."""
        return min(self.at_level(REGION), key=lambda n: n.agents).id

    def _count(self, node_id: str, by: int) -> None:
        while node_id:
            node = self.nodes[node_id]
            node.agents += by
            node_id = node.parent

    def _attach(self, child: str, parent: str) -> None:
        self.nodes[parent].children[child] = None
        self.nodes[child].parent = parent
        self._count(parent, self.nodes[child].agents)
        self._changes.parents[child] = None
        self.operations += 1

    def _detach(self, child: str) -> None:
        node = self.nodes[child]
        del self.nodes[node.parent].children[child]
        self._count(node.parent, -node.agents)
        node.parent = ""
        self._changes.parents[child] = None
        self.operations += 1

    def _add_agent(self, agent_id: str, region: str) -> None:
        self.nodes[region].children[agent_id] = None
        self._region_of[agent_id] = region
        self._count(region, 1)
        self._changes.regions[region] = None
        self.operations += 1

    def _remove_agent(self, agent_id: str) -> None:
        region = self._region_of.pop(agent_id)
        del self.nodes[region].children[agent_id]
        self._count(region, -1)
        self._changes.regions[region] = None
        self.operations += 1

    def _transfer(self, agent_id: str, region: str) -> None:
        self._remove_agent(agent_id)
        self._add_agent(agent_id, region)

    def _relieve(self, node_id: str) -> None:
        """Split on the way up wherever a node has become too large."""
        while node_id:
            node = self.nodes[node_id]
            if self._size(node) > _BOUNDS[min(node.level, 3)][1]:
                self._split(node)
            node_id = node.parent

    def _refill(self, node_id: str) -> None:
        """Merge on the way up wherever a node has become too small."""
        while node_id and node_id != self.root:
            node = self.nodes[node_id]
            parent = node.parent
            short = self._size(node) < _BOUNDS[min(node.level, 3)][0] and len(self.nodes[parent].children) > 1
            if short and not (node.level == ZONE and self._borrow(node)):
                self._merge(node)
            node_id = parent
        root = self.nodes[self.root]
        if root.level > 3 and len(root.children) == 1:  # the tree has become one level lower
            (child,) = root.children
            self._detach(child)
            self._forget(root)
            self.root = child

    def _forget(self, node: Node) -> None:
        del self.nodes[node.id], self._levels[node.level][node.id]
        self._changes.parents[node.id] = None

    def _split(self, node: Node) -> None:
        if node.id == self.root:
            root = self._new(node.level + 1)
            self.root = root.id
            self._attach(node.id, root.id)
        other = self._new(node.level)
        self._attach(other.id, node.parent)
        if node.level == REGION:
            self._split_region(node, other)
            return
        self._split_children(node, other)
        if node.level == ZONE:
            self._even_out(node, other)

    def _split_region(self, node: Node, other: Node) -> None:
        """Cut where two groups meet if both halves stay in range, else in the middle."""
        members = sorted(node.children, key=lambda a: self._group_of[a])  # stable: order of arrival within a group
        middle = len(members) // 2
        cuts = [
            i for i in range(REGION_MIN, len(members) - REGION_MIN + 1)
            if self._group_of[members[i - 1]] != self._group_of[members[i]]
        ]  # fmt: skip
        cut = min(cuts, key=lambda i: abs(i - middle), default=middle)
        for agent_id in members[cut:]:
            self._transfer(agent_id, other.id)
        for group in {self._group_of[a]: None for a in members[cut:]}:
            if self._home.get(group) == node.id:
                self._home[group] = other.id

    def _split_children(self, node: Node, other: Node) -> None:
        """Move the children past the middle, by size, to `other`."""
        weights = [(c, self.nodes[c].agents if node.level == ZONE else 1) for c in node.children]
        total, passed, cut = sum(w for _, w in weights), 0, len(weights)
        for i, (_, w) in enumerate(weights):
            if 2 * passed + w >= total:  # nearer to the middle without this one than with it
                cut = i
                break
            passed += w
        for child, _ in weights[max(cut, 1) :]:
            self._detach(child)
            self._attach(child, other.id)

    def _even_out(self, a: Node, b: Node) -> None:
        """Move single agents between two zones until both hold `ZONE_MIN`: at most half a region's, after a split."""
        small, large = (a, b) if a.agents < b.agents else (b, a)
        while small.agents < ZONE_MIN:
            source = max((self.nodes[r] for r in large.children), key=lambda n: n.agents)
            target = min((self.nodes[r] for r in small.children), key=lambda n: n.agents)
            if source.agents <= REGION_MIN or target.agents >= REGION_MAX:
                raise InternalError(f"zones of {small.agents} and {large.agents} agents cannot be evened out")
            self._transfer(next(reversed(source.children)), target.id)

    def _borrow(self, zone: Node) -> bool:
        """Take one region from the largest sibling, if it can spare one.

        Zones of 500 to 1000 leave no slack: two that have just been split from one of 1001 would merge at the next
        leave, and split at the next join, at a hundred messages each time.
        """
        siblings = [self.nodes[c] for c in self.nodes[zone.parent].children if c != zone.id]
        lender = max(siblings, key=lambda n: n.agents)
        spare = [r for r in map(self.nodes.__getitem__, lender.children) if r.agents <= lender.agents - ZONE_MIN]
        lent = max(spare, key=lambda r: r.agents, default=None)
        if lent is None or zone.agents + lent.agents < ZONE_MIN:
            return False
        self._detach(lent.id)
        self._attach(lent.id, zone.id)
        return True

    def _merge(self, node: Node) -> None:
        """Into the smallest sibling; `node` disappears, and the union is split again if it is too large."""
        siblings = (self.nodes[c] for c in self.nodes[node.parent].children if c != node.id)
        target = min(siblings, key=self._size)
        for child in list(node.children):
            if node.level == REGION:
                self._transfer(child, target.id)
            else:
                self._detach(child)
                self._attach(child, target.id)
        self._detach(node.id)
        self._forget(node)
        for group, home in self._home.items():
            if home == node.id:
                self._home[group] = target.id
        if self._size(target) > _BOUNDS[min(target.level, 3)][1]:
            self._split(target)


_BOUNDS = {REGION: (REGION_MIN, REGION_MAX), ZONE: (ZONE_MIN, ZONE_MAX), 3: (FAN_OUT_MIN, FAN_OUT)}
