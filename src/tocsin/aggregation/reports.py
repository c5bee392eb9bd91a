"""What the leaves of each region tell it, and what they were told about the fleet.

Work follows what changed: of a fleet of any size only regions are looked at whose agents acted or moved, that asked, or
whose heartbeat is due.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tocsin.aggregation.fleet_view import FleetView
from tocsin.aggregation.messages import Upward
from tocsin.aggregation.summary import Summary
from tocsin.aggregation.tree import REGION, Tree
from tocsin.stats.moments import Grid
from tocsin.wire import update as wire

HEARTBEAT_NS = 10_000_000_000


@dataclass(slots=True)
class _Sent:
    """What a region has been told."""

    total: Summary
    seq: int = -1
    at_ns: int = 0
    snapshot_due: bool = True


def leaf_source(region: str) -> str:
    """Name under which the leaves of `region` report to it."""
    return f"leaves/{region}"


class LeafReports:
    """The leaves' end of the links to their regions, by the region's id."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._sent: dict[str, _Sent] = {}  # longest ago first
        self._asked: dict[str, None] = {}  # regions that want a snapshot
        self._epoch = -1  # that every region was told of
        self._views: dict[str, FleetView] = {}

    def view(self, region: str) -> FleetView:
        """What the leaves of `region` were told about the whole fleet."""
        view = self._views.get(region)
        if view is None:
            view = self._views[region] = FleetView()
        return view

    def refused(self) -> Counter[str]:
        """What was refused of what came from above, by reason."""
        refused = Counter[str]()
        for view in self._views.values():
            if view.refused:
                refused.update(view.refused)
        return refused

    def resend(self, region: str) -> None:
        """`region` has lost track: it is due, for a snapshot."""
        if region in self._sent:
            self._sent[region].snapshot_due = True
            self._asked[region] = None

    def due(self, now_ns: int, epoch: int) -> dict[str, None]:
        """Regions to `state` something to though none of their agents acted; of a new epoch, all."""
        found = self._asked
        for region, sent in self._sent.items():
            if 0 <= now_ns - sent.at_ns < HEARTBEAT_NS:  # what was said in the future: the clock has been set back
                break
            found[region] = None
        if self._epoch != epoch:
            found |= dict.fromkeys(node.id for node in self._tree.at_level(REGION))
        self._asked, self._epoch = {}, epoch
        return found

    def state(self, region: str, total: Summary, grid: Grid, agents: int, now_ns: int) -> list[Upward]:
        """Tell `region` what its `agents` agents add up to: the difference to what it knows, or everything."""
        sent = self._sent.pop(region, None) or _Sent(Summary.empty(total.epoch, total.d))
        self._sent[region] = sent
        snapshot = sent.snapshot_due or sent.total.epoch != total.epoch
        change = total if snapshot else total - sent.total
        sent.total, sent.at_ns, sent.snapshot_due = total, now_ns, False
        sent.seq = max(now_ns, sent.seq + 1) if snapshot else sent.seq + 1
        bodies = [wire.encode_grid(total.epoch, grid)] if snapshot else []
        source = leaf_source(region)
        bodies += wire.encode(
            wire.Update(
                kind=wire.SNAPSHOT if snapshot else wire.DELTA, source=source, level=0, epoch=total.epoch,
                seq=sent.seq, as_of_ms=now_ns // 1_000_000, agents=agents, d=change.d,
                counts=change.counts, actions=change.actions,
            )
        )  # fmt: skip
        return [Upward(region, body, source) for body in bodies]

    def forget(self, region: str) -> Counter[str]:
        """There is no such region any more. Returns what its leaves had refused."""
        self._sent.pop(region, None)
        self._asked.pop(region, None)
        view = self._views.pop(region, None)
        return view.refused if view is not None else Counter()
