"""`tocsin up`."""

from __future__ import annotations

import queue
import sys
import threading
import urllib.parse
from pathlib import Path

from tocsin.cli.milestones import Milestones, announce
from tocsin.cli.options import settings
from tocsin.cli.out import bold, decided_by, note, percent, safe, say
from tocsin.model.evidence import Q32
from tocsin.model.verdict import Verdict
from tocsin.runtime.hints import explain_command


def run_up(flags: dict[str, str | int | None], *, accelerated: bool) -> None:
    """Serve until interrupted; exit code 0 after an orderly stop."""
    from tocsin.runtime.rehearsal import NOTICE, rehearse_once
    from tocsin.serve import open_server

    chosen = settings(flags).settings
    rehearse_once(lambda: note(NOTICE))
    server = open_server(chosen, accelerated=accelerated)
    try:
        named = flags.get("data.dir")
        announcer = Announcer(Path(str(named)) if named else None)
        server.service.on_verdict(announcer.put)
        if server.service.logged_events:
            note(f"recovering: replaying {server.service.logged_events:,} events from {chosen.data.dir}")
        server.start(_progress)
        roster = server.data.roster
        say(bold(f"tocsin is listening on {server.url}"))
        say(f"  telemetry   OTLP/HTTP at {server.url}/v1/traces   (protobuf or JSON, gzip)")
        say(f"  status      {server.url}/   and {server.url}/api/v1/status, {server.url}/metrics")
        say(f"  data        {chosen.data.dir}   (keys, log, certificates)")
        say(f"  monitors    {roster.n} in this one process: {roster.f} may lie, but the machine must not be lost")
        say(f"  learning    {chosen.learning.warmup_events} events of an agent before it is judged")
        say()
        say("point your agents at it:")
        say(f"  export OTEL_EXPORTER_OTLP_ENDPOINT={server.url}")
        say("  export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
        if chosen.server.token:
            token = urllib.parse.quote(chosen.server.token)
            say(f'  export OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20{token}"')
        say()
        say("then: tocsin agents · tocsin explain AGENT · tocsin verify CERTIFICATE      (stop with Ctrl-C)")
        sys.stdout.flush()
        quiet = announce(Milestones(chosen.learning.warmup_events), server.status)
        server.run_until_signalled()
        quiet()
        note("stopping: finishing what was accepted")
    finally:
        server.close()


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r  {done:,} of {total:,} events", end=end, file=sys.stderr, flush=True)


class Announcer:
    """Prints verdicts on a thread of its own: a terminal or pipe that nobody reads must not hold up the monitors."""

    def __init__(self, data: Path | None) -> None:
        """`data`: the data directory, where it is not the default one."""
        self._data = data
        self._waiting: queue.Queue[Verdict] = queue.Queue()
        threading.Thread(target=self._print_forever, name="tocsin-announce", daemon=True).start()

    def put(self, verdict: Verdict) -> None:
        """Announce a verdict, soon."""
        self._waiting.put(verdict)

    def _print_forever(self) -> None:
        while True:
            verdict = self._waiting.get()
            say(verdict_line(verdict, self._data))
            sys.stdout.flush()


def verdict_line(verdict: Verdict, data: Path | None) -> str:
    """What was decided, on what, by whom, and what to ask next. The belief comes after: it is about now."""
    entry = verdict.entry
    why = decided_by(entry.log_e_q32 / Q32, entry.fleet_size, entry.alpha_ppm)
    signers = ", ".join(map(str, verdict.certificate.monitors))
    return (
        f"verdict: {safe(verdict.agent_id)} {verdict.decision} ({why}; belief now {percent(verdict.confidence)}; "
        f"epoch {verdict.epoch}, signed by monitors {signers}); next: {explain_command(verdict.agent_id, data)}"
    )
