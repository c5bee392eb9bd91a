"""The demonstration: a running tocsin, a fleet sent to it by another process, one monitor that lies, and the score.

server thread (n monitors, one lying) <──OTLP/HTTP── sender process (baseline, then live)
"""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tocsin.config import Consensus, Data, Learning, Limits, Server, Settings
from tocsin.demo.display import DemoState, Display, LieLine, VerdictLine
from tocsin.demo.fleets import FleetOptions, build_fleet
from tocsin.demo.score import Score
from tocsin.errors import StorageError, TocsinError, Unreachable
from tocsin.model.verdict import Verdict
from tocsin.runtime.certificates import certificate_file
from tocsin.runtime.client import ask
from tocsin.runtime.hints import agents_command, explain_command, verify_command
from tocsin.runtime.rehearsal import NOTICE, rehearse_once
from tocsin.serve import TocsinServer, open_server
from tocsin.sim.byzantine import LyingMonitor
from tocsin.sim.fleet import AgentLabel, LabelledFleet

MONITORS = 4
LIAR = 3
POLL_SECONDS = 0.1
QUIET_SECONDS = 1.0  # no new epoch and nothing waiting for so long: the fleet has nothing more to say
DRAIN_SECONDS = 120.0
MARKER = "this-is-a-demo"
NEVER = 10_000_000  # the demonstration ends the learning phase itself


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to show, and where to keep it."""

    fleet: FleetOptions
    data: Path
    browser: bool = False


@dataclass(slots=True)
class DemoResult:
    """What happened; `to_json` is the scripted form's output."""

    data: Path
    source: str
    agents: int
    compromised: int
    baseline_events: int = 0
    live_events: int = 0
    seconds: float = 0.0
    spans_per_second: float = 0.0
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    certificates: list[Path] = field(default_factory=list[Path])
    score: Score | None = None
    lie: LieLine | None = None
    liar_dissents: int = 0
    regions: int = 0
    zones: int = 0

    def to_json(self) -> dict[str, Any]:
        score = self.score
        assert score is not None
        return {
            "source": self.source,
            "agents": self.agents,
            "compromised": self.compromised,
            "events": {"baseline": self.baseline_events, "live": self.live_events},
            "tree": {"regions": self.regions, "zones": self.zones},
            "seconds": round(self.seconds, 2),
            "verdicts": [
                {
                    "verdict_id": v.verdict_id,
                    "agent_id": v.agent_id,
                    "decision": v.decision,
                    "confidence": v.confidence,
                    "epoch": v.epoch,
                    "signers": list(v.certificate.monitors),
                    "dissent": list(v.dissent),
                }
                for v in self.verdicts
            ],
            "certificates": [str(path) for path in self.certificates],
            "roster": str(self.data / "roster.json"),
            "precision": _proportion(score.precision),
            "recall": _proportion(score.recall),
            "recall_by_attack": {kind: _proportion(found) for kind, found in score.recall_by_attack().items()},
            "median_delay_events": score.median_delay_events(),
            "missed": list(score.missed),
            "lying_monitor": None
            if self.lie is None
            else {
                "monitor": LIAR,
                "accused": self.lie.accused,
                "believed": self.lie.believed,
                "dissents_in_verdicts": self.liar_dissents,
            },
        }


def _proportion(found: Any) -> dict[str, Any]:
    low, high = found.interval
    return {
        "hits": found.hits,
        "total": found.total,
        "value": found.value,
        "wilson_95": [round(low, 4), round(high, 4)],
    }


def prepare_directory(path: Path) -> None:
    """An empty directory for a demonstration. Only what an earlier demonstration left is ever removed."""
    try:
        if path.exists() and any(path.iterdir()):
            if not (path / MARKER).exists():
                raise StorageError(
                    f"{path} is not empty and was not made by a demo", remedy="choose another directory with --data"
                )
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / MARKER).touch()
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror}", remedy="choose a writable directory") from error


def run_demo(options: DemoOptions, state: DemoState, display: Display) -> DemoResult:
    """Run it from start to end. Raises what the fleet, the directory, the port or the sender raise."""
    rehearse_once(_staged(state, display, NOTICE))
    _staged(state, display, "reading the fleet")()
    fleet = build_fleet(options.fleet, _told(state, display, "runs read"))
    labels = fleet.labels()
    liar = _liar(labels)
    prepare_directory(options.data)
    settings = Settings(
        server=Server(port=0),
        data=Data(dir=str(options.data)),
        learning=Learning(warmup_events=NEVER),
        consensus=Consensus(monitors=MONITORS),
        limits=Limits(max_agents=len(labels) + 1000),
    )
    server = open_server(settings, alter={LIAR: liar.lie}, accelerated=True)
    try:
        run = _Run(options, fleet, labels, liar, server, state, display)
        return run.through()
    finally:
        server.close()


def _staged(state: DemoState, display: Display, stage: str) -> Callable[[], None]:
    def begin() -> None:
        state.stage = stage
        display.update(state)

    return begin


def _told(state: DemoState, display: Display, what: str) -> Any:
    def progress(done: int) -> None:
        state.stage = f"reading the fleet: {done:,} {what}"
        display.update(state)

    return progress


def _liar(labels: tuple[AgentLabel, ...]) -> LyingMonitor:
    """Frames the first innocent agent, vouches for every attacker."""
    innocent = next(label.agent_id for label in labels if not label.compromised)
    return LyingMonitor(LIAR, innocent, [label.agent_id for label in labels if label.compromised])


class _Run:
    """One demonstration in progress."""

    def __init__(
        self,
        options: DemoOptions,
        fleet: LabelledFleet,
        labels: tuple[AgentLabel, ...],
        liar: LyingMonitor,
        server: TocsinServer,
        state: DemoState,
        display: Display,
    ) -> None:
        self._options = options
        self._server = server
        self._liar = liar
        self._state = state
        self._display = display
        self._arrived: queue.Queue[Verdict] = queue.Queue()
        self._result = DemoResult(
            data=options.data,
            source=fleet.source,
            agents=len(labels),
            compromised=sum(label.compromised for label in labels),
            score=Score(labels),
        )
        state.agents = len(labels)
        state.monitors = MONITORS
        state.score = self._result.score

    def through(self) -> DemoResult:
        started = time.monotonic()
        self._server.service.on_verdict(self._arrived.put)
        self._server.start()
        self._server.run_in_thread()
        self._wait_until_answering()
        self._note(f"tocsin listens on {self._server.url}; status page at {self._server.url}/")
        if self._options.browser:
            self._open_browser()
        self._stage("learning: the fleet at its normal work")
        self._result.baseline_events = self._send("baseline")
        self._wait_until_quiet()
        self._seal()
        self._stage(f"live: some agents get hijacked, monitor {LIAR} lies")
        self._result.live_events = self._send("live")
        self._wait_until_quiet()
        self._finish()
        self._result.seconds = time.monotonic() - started
        return self._result

    # -- the running tocsin -----------------------------------------------------------------------------------------

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        return ask(self._server.url, path, body=body)

    def _wait_until_answering(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self._ask("/healthz")
                return
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def _seal(self) -> None:
        self._ask("/api/v1/baseline/seal", b"{}")
        status = self._ask("/api/v1/status")
        self._state.learned_agents = status["agents"]
        tree = status["tree"]
        self._result.regions, self._result.zones = tree["regions"], tree["zones"]
        zones = "1 zone" if tree["zones"] == 1 else f"{tree['zones']} zones"
        self._note(f"baselines of {status['agents']} agents in {tree['regions']} regions and {zones} are sealed")

    def _look(self) -> dict[str, Any]:
        """Poll the service, show what is new."""
        status = self._ask("/api/v1/status")
        state = self._state
        state.analysed_events = status["events"]
        state.windows = status["windows"]
        state.evidence = status["evidence_stated"]
        if not state.learned_agents or state.stage.startswith("learning"):
            state.learned_agents = status["agents"]
        while True:
            try:
                self._take(self._arrived.get_nowait())
            except queue.Empty:
                break
        self._display.update(state)
        return status

    def _take(self, verdict: Verdict) -> None:
        result = self._result
        assert result.score is not None
        result.verdicts.append(verdict)
        result.liar_dissents += LIAR in verdict.dissent
        if verdict.decision == "compromised":
            judged = result.score.add(verdict)
            if judged is not None:
                self._state.verdicts.append(VerdictLine.of(verdict, MONITORS, judged))

    def _wait_until_quiet(self) -> None:
        """Everything sent is analysed and no new epoch was certified for a while."""
        deadline = time.monotonic() + DRAIN_SECONDS
        epoch, since = -2, time.monotonic()
        while time.monotonic() < deadline:
            status = self._look()
            if status["backlog_events"] or status["epoch"] != epoch:
                epoch, since = status["epoch"], time.monotonic()
            elif time.monotonic() - since >= QUIET_SECONDS:
                return
            time.sleep(POLL_SECONDS)
        raise Unreachable("the demo's monitors did not come to rest", remedy="try a smaller fleet with --agents")

    # -- the sender -------------------------------------------------------------------------------------------------

    def _send(self, part: str) -> int:
        """Run the sender process for one part; returns the number of spans it sent."""
        fleet = self._options.fleet
        command = [
            sys.executable, "-P", "-m", "tocsin.demo.sender", "--endpoint", self._server.url, "--part", part,
            "--fleet", fleet.fleet, "--size", str(fleet.size), "--share", str(fleet.compromised_share),
            "--seed", str(fleet.seed),
        ]  # fmt: skip
        command += ["--archive", str(fleet.archive)] if fleet.archive else []
        command += ["--cache", str(fleet.cache)] if fleet.cache else []
        self._state.sent_events = self._state.total_events = 0
        process = subprocess.Popen(  # noqa: S603 - our own module, arguments from our own options
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            return self._follow(process, part)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _follow(self, process: subprocess.Popen[str], part: str) -> int:
        """Show the sender's progress until it is done."""
        lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        reader = threading.Thread(target=_read_lines, args=(process, lines), daemon=True)
        reader.start()
        sent = -1
        while (record := _next(lines)) is not None:
            if record:
                event = record["event"]
                if event == "prepared":
                    self._state.total_events = record["spans"]
                elif event in ("sending", "done"):
                    self._state.sent_events = record["spans"]
                    sent = record["spans"] if event == "done" else sent
                elif event == "error":
                    raise TocsinError(f"the sender failed: {record['message']}", remedy=record.get("remedy", ""))
            self._look()
        if sent < 0:
            _, errors = process.communicate()
            raise TocsinError(f"the sender of the {part} part ended early: {errors.strip()[-500:]}")
        return sent

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        result = self._result
        claim = self._liar.claim
        certified = {v.agent_id for v in result.verdicts if v.decision == "compromised"}
        result.lie = LieLine(str(claim), claim.accused, MONITORS - 1, believed=claim.accused in certified)
        self._state.lies.append(result.lie)
        directory = self._server.data.certificates
        result.certificates = [certificate_file(directory, verdict) for verdict in result.verdicts]
        self._stage("done")

    def _stage(self, name: str) -> None:
        self._state.stage = name
        self._display.update(self._state)

    def _note(self, text: str) -> None:
        self._state.notes.append(text)
        self._display.update(self._state)

    def _open_browser(self) -> None:
        import webbrowser

        webbrowser.open(self._server.url + "/")


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[dict[str, Any] | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            lines.put(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.MsgspecError:
            continue  # a warning some library printed
    lines.put(None)


def _next(lines: queue.Queue[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The next line; {} when there was none for a moment; None at the end."""
    try:
        return lines.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return {}


def iter_next_commands(result: DemoResult) -> Iterator[str]:
    """What to try after the demonstration, ready to paste."""
    flagged = [v.agent_id for v in result.verdicts if v.decision == "compromised"]
    yield agents_command(result.data)
    if flagged:
        yield explain_command(flagged[0], result.data)
    if result.certificates:
        yield verify_command(result.certificates[0], result.data)
    yield "tocsin up        # then: export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
