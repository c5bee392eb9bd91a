"""`tocsin quality` and `tocsin feedback`: how good the alarms are, and telling tocsin whether one was right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tocsin.cli.look import running, stored_picture
from tocsin.cli.options import data_dir
from tocsin.cli.out import bold, counted, percent, safe, say, say_json, table
from tocsin.errors import Unreachable
from tocsin.runtime.client import ask
from tocsin.runtime.hints import quality_command
from tocsin.runtime.quality import known_power


def run_feedback(
    agent: str, outcome: str, note: str, data: Path | None, url: str | None, token: str | None, *, as_json: bool
) -> None:
    """Tell the running tocsin; print what was stored. Raises Unreachable where none runs: it alone writes its store."""
    directory = data_dir(data)
    live = url or running(directory)
    if live is None:
        raise Unreachable(f"no tocsin is running on {directory}", remedy="start it with `tocsin up`, or name its --url")
    body = json.dumps({"agent_id": agent, "outcome": outcome, "note": note}).encode()
    stored = ask(live, "/api/v1/feedback", token=token or "", body=body)
    if as_json:
        say_json(stored)
        return
    about = f"verdict {stored['verdict_id']}" if stored["verdict_id"] else "no alarm: counted as missed"
    say(f"{safe(stored['agent_id'])}: {stored['outcome']} ({about})")
    say(f"next: {quality_command(directory if data else None, url)}")


def run_quality(data: Path | None, url: str | None, token: str | None, *, as_json: bool) -> None:
    """Print target and realised share of false alarms, then power by kind."""
    directory = data_dir(data)
    live = url or running(directory)
    told = ask(live, "/api/v1/quality", token=token or "") if live else _stored(directory)
    if as_json:
        say_json(told)
        return
    _print_shares(told["false_share"], told["missed"])
    _print_power(told["known_power"])


def _stored(directory: Path) -> Any:
    picture = stored_picture(directory)
    if "quality" not in picture:
        raise Unreachable(f"the picture in {directory} is of an older tocsin", remedy="start tocsin on it once")
    return {**picture["quality"], "known_power": known_power()}


def _print_shares(shares: dict[str, Any], missed: int) -> None:
    say(bold("false alarms among alarms"))
    say(f"  target    {percent(shares['target'])} on average, over the whole fleet")
    if shares["realised"] is None:
        say(f"  realised  not known: of {counted(shares['alarms'], 'alarm')} none is labelled")
    else:
        low, high = (f"{100 * end:.1f}" for end in shares["interval"])
        counts = f"{shares['false']} of {shares['labelled']} labelled alarms"
        say(f"  realised  {100 * shares['realised']:.1f} %: {counts}, 95 % interval {low} to {high} %")
        rest = shares["alarms"] - shares["labelled"]
        if rest:
            ends = [f"{100 * shares[key]:.1f} %" for key in ("if_rest_right", "if_rest_false")]
            say(f"            of all {shares['alarms']}: {ends[0]} if the {rest} others are right, {ends[1]} if false")
    if shares["realised"] is not None:  # else the line above says the same
        say(f"  {shares['judgement']}")
    if missed:
        was = "was" if missed == 1 else "were"
        say(f"  {counted(missed, 'compromised agent')} that raised no alarm {was} reported")
    say("  label an alarm: tocsin feedback AGENT benign|confirmed")


def _print_power(power: dict[str, Any]) -> None:
    say()
    say(bold(f"found on labelled fleets beforehand ({power['source']})"))
    rows = [
        [row["fleet"], row["kind"], f"{row['found']:>4} of {row['total']:<4}", f"{low:.2f} to {high:.2f}"]
        for row in power["rows"]
        for low, high in [row["interval"]]
    ]
    say(table(rows, ["fleet", "kind", "found", "95 %"]))
    delays = ", ".join(f"{fleet}: {events:.0f}" for fleet, events in power["median_delay_events"].items())
    say(f"median events from the first harmful one to the alarm: {delays}")
    verdict_ms, source = power["median_request_to_verdict_ms"], power["latency_source"]
    say(f"median from a request to its certified verdict: {verdict_ms} ms ({source})")
