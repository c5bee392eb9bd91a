"""From the request that shows a hijack to the certified verdict, over real sockets into `tocsin up`.

A learned fleet; then sessions are posted one at a time, and after each the interface is polled until the session is
analysed and nothing is waiting. Where that brought a verdict, the time from the start of the request counts. It
contains parsing, fsync, four detectors, evidence, the leader's gathering delay (10 ms by default), two voting phases
with their fsyncs, the certificate's fsync, and up to one poll.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks._harness import Bench, main, percentile
from benchmarks.throughput import Service

AGENTS = 60
SETTLE_SECONDS = 0.5  # twice the time to certify, in the worst case seen


def measure(bench: Bench) -> None:
    """Verdicts over one fleet's live sessions."""
    from tocsin.demo.sender import Sender, prepare
    from tocsin.demo.spans import encode_session, requests_of
    from tocsin.sim.synthetic import SyntheticFleet

    salt = b"benchmark"
    fleet = SyntheticFleet(size=AGENTS, compromised_share=0.3, seed=2)
    wrong = {label.agent_id for label in fleet.labels() if label.compromised}
    sessions = [s for part in fleet.rounds(live=True) for s in part if s.agent_id in wrong]
    took: list[float] = []
    with tempfile.TemporaryDirectory() as data, Service(Path(data)) as service:
        learned = prepare(fleet, live=False, salt=salt, connections=1, report=lambda _: None)
        sender = Sender(service.url, report=lambda _: None)
        sender.send(learned)
        sent = sender.spans
        service.analysed(sent)
        service.ask("/api/v1/baseline/seal", b"{}")
        service.ask("/api/v1/agents?limit=1")
        known = 0
        for session in sessions[: 40 if bench.quick else 120]:
            lane = list(requests_of(encode_session(session, salt)))
            began = time.perf_counter()
            Sender(service.url, report=lambda _: None).send([lane])
            sent += sum(request.spans for request in lane)
            service.analysed(sent)
            give_up = time.perf_counter() + SETTLE_SECONDS
            while time.perf_counter() < give_up:
                verdicts = service.ask("/api/v1/status")["verdicts"]
                if verdicts > known:
                    took.append((time.perf_counter() - began) * 1e3)
                    known = verdicts
                    break
                time.sleep(0.002)
    bench.count(agents=AGENTS, verdicts=len(took))
    bench.record_all("request to certified verdict", took, unit="ms", requirement="R6.3", bound="< 1000")
    slow = percentile(took, 95)
    bench.record("request to certified verdict, p95", slow, unit="ms", requirement="R6.3", bound="< 1000")


if __name__ == "__main__":
    raise SystemExit(main("latency", measure))
