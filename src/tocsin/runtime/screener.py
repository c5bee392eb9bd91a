"""Rounds of screening beside the stream of events: on a thread of their own, or at once where time is virtual.

A round of a large fleet takes seconds, an event microseconds. The engine hands over a snapshot and asks later whether
there is an outcome. What an outcome says does not depend on when it is asked for. A round that is due while the one
before still runs waits for it, so memory is bounded by two snapshots.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from tocsin.aggregation.activity import Snapshot
from tocsin.aggregation.rounds import Outcome, Rounds
from tocsin.errors import TocsinError
from tocsin.model.coordination import Findings


class Screener:
    """Hand over with `submit`, in order; fetch with `outcomes`."""

    def __init__(self, rounds: Rounds, *, background: bool) -> None:
        self._rounds = rounds
        self._background = background
        self._thread: threading.Thread | None = None
        self._done: list[Outcome] = []
        self._error: BaseException | None = None

    def submit(self, snapshot: Snapshot, regions: Sequence[str], zones: Mapping[str, str]) -> None:
        """Begin a round; waits until the one before is over."""
        self.join()
        if not self._background:
            self._run(snapshot, regions, zones)
            return
        # Nothing is lost with it if the process ends: the ingest log gives the same round again.
        self._thread = threading.Thread(
            target=self._run, args=(snapshot, regions, zones), name="tocsin-screening", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Wait for the round that runs, if one does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def outcomes(self) -> list[Outcome]:
        """Those that came since the last call. Raises what a round raised."""
        if self._thread is not None and not self._thread.is_alive():
            self.join()
        if self._error is not None:
            raise self._error
        if self._thread is not None:
            return []
        done, self._done = self._done, []
        return done

    def _run(self, snapshot: Snapshot, regions: Sequence[str], zones: Mapping[str, str]) -> None:
        try:
            self._done.append(self._rounds.screen(snapshot, regions, zones))
        except TocsinError:  # what agents did must not end the service, and would again after each restart
            nothing = Findings(number=snapshot.number, agents=len(snapshot.names))
            self._done.append(Outcome(nothing, snapshot.names, refused=Counter({"round of screening failed": 1})))
        except BaseException as error:  # noqa: BLE001 - raised again on the engine's thread, which ends the service
            self._error = error
