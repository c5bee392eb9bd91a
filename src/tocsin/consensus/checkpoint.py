"""Snapshots: writing one where the journal has grown, and starting from one."""

from __future__ import annotations

from collections.abc import Iterator

from tocsin.consensus import journal
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.learner import Learner
from tocsin.consensus.messages import Certified
from tocsin.consensus.pruning import CHECKPOINT_TIMER, Snapshot, decode_snapshot, encode_snapshot
from tocsin.errors import StorageCorrupt, WireError
from tocsin.model.verdict import Roster
from tocsin.trust.signing import Signer


class Checkpointer(Learner):
    """A learner whose journal does not grow for ever."""

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        super().__init__(roster, me, signer, fold, config)
        self._snapshot_at = 0  # bytes journaled when the latest snapshot was made
        self._snapshot_bytes = 0  # and its size
        self._checkpoint_set = False
        self._silent_below = 0  # first epoch in which anything may be signed, or LOST

    def spoken(self) -> Iterator[tuple[str, int, int]]:
        """(agent, kind of evidence, last number) that this monitor's chain speaks about, the later the newer."""
        yield from self._fold.spoken(self._me)
        for batch in self._evidence.log.batches(self._me):
            yield from ((item.agent_id, item.kind, item.last_seq) for item in batch.items)

    def _records(self) -> list[tuple[str, bytes]]:
        """What must survive of the current epoch, as records."""
        return [(journal.EVIDENCE, raw) for raw in self._evidence.log.beyond(self._cut)]

    def _watch_size(self) -> None:
        """Have a snapshot made when the journal has grown by twice the last one, so that writing it costs little."""
        grown = self._out.persisted - self._snapshot_at
        if not self._checkpoint_set and grown >= max(self._config.checkpoint_bytes, 2 * self._snapshot_bytes):
            self._checkpoint_set = True
            self._recent.timer_set()
            self._out.timer(CHECKPOINT_TIMER, 0)

    def _checkpoint(self, *, on_timer: bool) -> None:
        """Write a snapshot, after which the journal needs no record before it."""
        self._checkpoint_set = self._checkpoint_set and not on_timer
        folded = self._fold.folded()
        log = self._evidence.log
        snapshot = Snapshot(
            certified=self._last,
            state=tuple(folded.items(0, folded.size)),
            through_offset=log.through_offset(self._me),
            forks=tuple(fork for _, fork in sorted(log.forks.items())),
            recent=self._recent.in_doubt(on_timer=on_timer),
            silent_below=self._silent_below,
            records=tuple(self._records()),
        )
        record = encode_snapshot(snapshot)
        self._out.persist(journal.SNAPSHOT, record)
        self._snapshot_at, self._snapshot_bytes = self._out.persisted, len(record)

    def _restore(self, record: bytes) -> Snapshot:
        """Stand where a snapshot stands, but for its records. Raises StorageCorrupt."""
        snapshot = decode_snapshot(record)
        last = snapshot.certified
        try:
            self._fold.restore(snapshot.state)
        except WireError as error:
            raise StorageCorrupt(f"a snapshot's state does not hold: {error}") from None
        log = self._evidence.log
        if last is not None:
            if not self._is_decision(last) or last.votes.posterior_root != self._fold.root:
                cause = f"the snapshot after epoch {last.votes.epoch} does not hold"
                raise StorageCorrupt(cause, remedy="restore the journal from a copy")
            self._stand_at(last)
        for fork in snapshot.forks:
            log.learn_fork(fork)
        log.stated_through(self._me, snapshot.through_offset)
        self._silent_below = snapshot.silent_below
        self._recent.clear()
        for decision in snapshot.recent:
            self._recent.add(decision)
        self._snapshot_at, self._snapshot_bytes = self._out.persisted, len(record)
        return snapshot

    def _stand_at(self, certified: Certified) -> None:
        """Go on after a decision whose state was taken in whole, and keep nothing of what led to it."""
        self._decided.restart(certified.votes.epoch + 1, certified.cut)
        self._evidence.log.forget(certified.cut)
        self._stand_after(certified)
