"""`tocsin up`."""

from __future__ import annotations

import sys
import urllib.parse

from tocsin.cli.options import settings
from tocsin.cli.out import bold, note, percent, safe, say
from tocsin.model.verdict import Verdict


def run_up(flags: dict[str, str | int | None], *, accelerated: bool) -> None:
    """Serve until interrupted; exit code 0 after an orderly stop."""
    from tocsin.serve import open_server

    chosen = settings(flags).settings
    server = open_server(chosen, accelerated=accelerated)
    try:
        server.service.on_verdict(_announce)
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
        server.run_until_signalled()
        note("stopping: finishing what was accepted")
    finally:
        server.close()


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r  {done:,} of {total:,} events", end=end, file=sys.stderr, flush=True)


def _announce(verdict: Verdict) -> None:
    signers = ", ".join(map(str, sorted(verdict.certificate.signatures)))
    say(
        f"verdict: {safe(verdict.agent_id)} {verdict.decision} "
        f"(confidence {percent(verdict.confidence)}, epoch {verdict.epoch}, signed by monitors {signers})"
    )
    sys.stdout.flush()
