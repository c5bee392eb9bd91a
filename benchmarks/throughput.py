"""The whole line under load: OTLP requests over a socket into `tocsin up`, until every event is durable and judged.

A sender process's requests are encoded beforehand, so the figure is the receiver's: parse, attribute, admit, fsync,
four monitors' detectors, evidence, agreement. The first request to the moment when nothing is waiting any more.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks._harness import Bench, main

AGENTS = 1000
POLL_SECONDS = 0.02
READY_SECONDS = 120


class Service:
    """A `tocsin up` of its own; a context manager."""

    def __init__(self, data: Path) -> None:
        command = [
            str(Path(sys.executable).with_name("tocsin")), "up", "--data", str(data), "--port", "0",
            "--warmup", "10000000", "--accept-any-time",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, f"tocsin did not start: {first!r}"
        self.url = found.group()
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def ask(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def cpu_seconds(self) -> float:
        """Processor time of the service and its decoder so far, all threads."""
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        processes = [self._process.pid, *(int(pid) for file in children for pid in file.read_text().split())]
        spent = 0
        for pid in processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            spent += int(fields[11]) + int(fields[12])
        return spent / os.sysconf("SC_CLK_TCK")

    def analysed(self, events: int) -> float:
        """Seconds on the clock when `events` have been judged and nothing waits."""
        while True:
            status = self.ask("/api/v1/status")
            if status["events"] >= events and status["backlog_events"] == 0:
                return time.perf_counter()
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(READY_SECONDS)


def measure(bench: Bench) -> None:
    """One fleet, its baseline sessions and then its live ones; each run on a fresh service."""
    from tocsin.demo.sender import Sender, prepare
    from tocsin.sim.synthetic import SyntheticFleet

    agents = 100 if bench.quick else AGENTS
    fleet = SyntheticFleet(size=agents, compromised_share=0.1, seed=1)
    parts = [
        prepare(fleet, live=live, salt=b"benchmark", connections=4, report=lambda _: None) for live in (False, True)
    ]
    spans = [sum(request.spans for lane in part for request in lane) for part in parts]
    bench.count(agents=agents, learning_spans=spans[0], live_spans=spans[1], monitors=4)
    learning: list[float] = []
    judging: list[float] = []
    sealing: list[float] = []
    cost: list[float] = []
    for _ in range(1 if bench.quick else 3):
        with tempfile.TemporaryDirectory() as data, Service(Path(data)) as service:
            sent = 0
            for part, count, rates in zip(parts, spans, (learning, judging), strict=True):
                began, spent = time.perf_counter(), service.cpu_seconds()
                sender = Sender(service.url, report=lambda _: None)
                sender.send(part)
                sent += count
                assert sender.rejected == 0, f"{sender.rejected} spans rejected"
                rates.append(count / (service.analysed(sent) - began))
                if rates is judging:
                    cost.append((service.cpu_seconds() - spent) / count * 1e6)
                if rates is learning:
                    began = time.perf_counter()
                    service.ask("/api/v1/baseline/seal", b"{}")
                    service.ask("/api/v1/agents?limit=1")  # answered between steps: the fit is over
                    sealing.append(time.perf_counter() - began)
    bench.record_all("spans a second, learning, socket to judged", learning, unit="1/s", bound=">= 20000")
    bench.record_all("spans a second, live, socket to judged", judging, unit="1/s", bound=">= 20000")
    bench.record_all("processor time of the service, live", cost, unit="us/span")
    bench.record_all("sealing the fleet's baselines, all monitors", sealing, unit="s")


if __name__ == "__main__":
    raise SystemExit(main("throughput", measure))
