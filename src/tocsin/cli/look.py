"""`tocsin agents` and `tocsin explain`: from a running tocsin, or from the picture its data directory keeps."""

from __future__ import annotations

import json
import time
import urllib.parse
from pathlib import Path
from typing import Any

from tocsin.cli.options import data_dir
from tocsin.cli.out import bold, counted, decided_by, note, percent, safe, say, say_json, table, utc
from tocsin.errors import TocsinError, UnknownAgent, Unreachable
from tocsin.model.evidence import Q32
from tocsin.runtime.certificates import certificate_name
from tocsin.runtime.client import ask
from tocsin.runtime.hints import explain_command, verify_command

FEATURES_SHOWN = 3
NEWCOMER_FEATURES_SHOWN = 8


def running(directory: Path) -> str | None:
    """The address of the tocsin that is using `directory`, if one is."""
    try:
        url = str(json.loads((directory / "endpoint.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        ask(url, "/healthz")
    except TocsinError:
        return None
    return url


def stored_picture(directory: Path) -> Any:
    """The latest picture kept in a data directory. Raises Unreachable where there is none."""
    from tocsin.runtime.store import Store

    file = directory / "store.db"
    if not file.exists():
        raise Unreachable(
            f"no tocsin is running on {directory}, and it holds no earlier picture",
            remedy="start one with `tocsin up`, try `tocsin demo`, or name another directory with --data",
        )
    store = Store(file, read_only=True)
    try:
        kept = store.picture("fleet")
    finally:
        store.close()
    if kept is None:
        raise Unreachable(f"{directory} holds no picture yet", remedy="send it telemetry first")
    taken_ms, picture = kept
    age = max(0.0, time.time() - taken_ms / 1000)
    note(f"not running; this is the fleet as it was {_age(age)} ago")
    return picture


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"


def run_agents(data: Path | None, url: str | None, token: str | None, *, limit: int, as_json: bool) -> None:
    """Print the agents."""
    directory = data_dir(data)
    live = url or running(directory)
    if live:
        rows = ask(live, f"/api/v1/agents?limit={limit}", token=token or "")
        status: Any = {} if as_json else ask(live, "/api/v1/status", token=token or "")
    else:
        picture = stored_picture(directory)
        rows, status = picture["agents"][:limit], picture["status"]
    if as_json:
        say_json(rows)
        return
    if not rows:
        say("no agents observed yet")
        say("An agent appears with its first span that says what it does and who it is:")
        say("  gen_ai.operation.name = execute_tool (or chat, invoke_agent), and for a tool gen_ai.tool.name;")
        say("  gen_ai.agent.id or gen_ai.agent.name, on the span or on the invoke_agent span above it.")
        say("Without any of these an agent gets the name of its service, or of the trace's root span.")
        return
    lines = [
        [
            safe(row["agent_id"], 60),
            safe(str(row["region"]), 24),
            f"{row['events']:>7}",
            f"{percent(row['confidence']):>11}",
            f"{row['log_e_nats']:>7.1f}",
            _standing(row),
        ]
        for row in rows
    ]
    say(table(lines, ["agent", "region", " events", "     belief", "  log e", "certified verdict"]))
    say()
    if "alarm_log_e_nats" in status:  # a picture of an earlier version lacks it
        level = f"{status['alarm_log_e_nats']:.1f}"
        say(f"An agent that stands out alone is certified from log e {level} on; several together need less.")
    say(f"{len(rows):,} of {status['agents']:,} shown, {status['agents_flagged']:,} certified: --limit")
    say(f"next: {explain_command(rows[0]['agent_id'], directory if data else None, url)}")


def _standing(row: dict[str, Any]) -> str:
    """What was certified, what people said about it, how much is still to be learned."""
    parts = ["compromised"] if row["flagged"] else ["cleared"] if row.get("cleared") else []
    if row.get("feedback"):
        parts.append(f"people say: {row['feedback']}")
    left = row.get("learning_events_left", 0)
    if left and not parts:
        parts.append(f"learning, {counted(left, 'event')} to go")
    return "; ".join(parts)


def run_explain(agent: str, data: Path | None, url: str | None, token: str | None, *, as_json: bool) -> None:
    """Print why."""
    directory = data_dir(data)
    live = url or running(directory)
    if live:
        told = ask(live, f"/api/v1/agents/{urllib.parse.quote(agent, safe='')}", token=token or "")
    else:
        picture = stored_picture(directory)
        known = {row["agent_id"]: row for row in picture["agents"]}
        told = picture["explanations"].get(agent)
        if told is not None:
            told["learning_events_left"] = known[agent].get("learning_events_left", 0)
        if told is None and agent in known:
            raise UnknownAgent(
                f"the stored picture explains only its most suspicious agents, and {agent!r:.80} is not one of them",
                remedy="start tocsin on this data directory to ask about any agent",
            )
        if told is None:
            raise UnknownAgent(f"agent {agent!r:.80} has never been observed", remedy="`tocsin agents` lists them")
    if as_json:
        say_json(told)
        return
    _print_explanation(agent, told)
    if told["verdicts"]:
        _print_certificate(told["verdicts"][0], directory, url)


def _print_certificate(verdict: dict[str, Any], directory: Path, url: str | None) -> None:
    """How to check the latest verdict about the agent."""
    file = directory / "certificates" / certificate_name(verdict["epoch"], verdict["verdict_id"])
    if url is None and file.exists():
        say(f"next: {verify_command(file, directory)}")
    elif url:
        say(f"its certificate: {url.rstrip('/')}/api/v1/verdicts/{verdict['verdict_id']}/certificate")


def _region(told: dict[str, Any]) -> str:
    """What the agent's region normally does, in the features that moved, or in its first ones."""
    peers = told["region_baseline"]
    moved = {reason["feature"] for reason in told["reasons"]}
    known = peers["features"]
    shown = [f for f in known if f["name"] in moved][:FEATURES_SHOWN] or known[:FEATURES_SHOWN]
    parts = [
        f"{safe(f['name'], 40)} {f['mean']:.4g} ± {f['std']:.3g} "
        f"(5-95 %: {f['p05']:.4g} to {f['p95']:.4g}{_typical(f)})"
        for f in shown
    ]
    if not peers["agents"]:
        return f"its region {peers['region']}: nothing learned yet"
    learned = f"{counted(peers['agents'], 'agent')}, {counted(peers['samples'], 'event')} learned"
    start = f"its region {peers['region']}: {learned}"
    return "; ".join([start, *parts])


def _typical(feature: dict[str, Any]) -> str:
    typical = feature.get("typical")
    return f"; median agent {typical['median']:.4g}" if typical else ""


def _print_newcomer(told: dict[str, Any]) -> None:
    """What is expected of an agent of whom little is known, marked as no measurement of its own."""
    peers = f"{counted(told['peers'], 'peer')} of {told['scope']}"
    own = counted(told["samples"], "event")
    say(f"newcomer: {own} of its own; an estimate, no measurement, from these and {peers}:")
    rows: list[list[str]] = []
    for f in told["features"][:NEWCOMER_FEATURES_SHOWN]:
        own, expected = f["own"], f["expected"]
        rows.append(
            [
                safe(f["name"], 40),
                f"{expected['mean']:.4g} ± {expected['std']:.3g}",
                f"{own['mean']:.4g} of {own['count']}" if own["count"] else "none",
                percent(expected["own_share"]),
                f"{expected['prior_samples']:.3g}",
            ]
        )
    say(table(rows, ["  feature", "expected", "own samples", "own weight", "peers weigh as samples"]))


def _print_standing(agent: str, told: dict[str, Any], agreed: dict[str, Any] | None, *, flagged: bool) -> None:
    """What was decided and on what; then the belief, which is about now."""
    standing = "certified as compromised" if flagged else "cleared" if _was_cleared(told) else "not flagged"
    why = ""
    if agreed:
        why = f" ({decided_by(agreed['log_e_q32'] / Q32, agreed['fleet_size'], agreed['alpha_ppm'])})"
    say(bold(f"{safe(agent)}: {standing}{why}"))
    say(safe(told["why"], 600))
    own = percent(told["probability"])
    say(f"belief now: {percent(told['agreed_confidence'])} as agreed, {own} by one monitor's latest sight")
    if flagged and told["agreed_confidence"] < 0.5:
        say("Log e decides: it is evidence over time and does not fade; the belief is about now alone.")


def _was_cleared(told: dict[str, Any]) -> bool:
    return bool(told["verdicts"]) and told["verdicts"][0]["decision"] == "cleared"


def _print_explanation(agent: str, told: dict[str, Any]) -> None:
    agreed = told["agreed"]
    flagged = bool(agreed and agreed["flagged"])
    left = told.get("learning_events_left", 0)
    if left and not flagged:
        say(bold(f"{safe(agent)}: still being learned, {counted(left, 'event')} to go; nothing is judged yet"))
    else:
        _print_standing(agent, told, agreed, flagged=flagged)
    say()
    if told["reasons"]:
        rows = [[safe(r["feature"], 48), f"{r['nats']:+8.2f}", safe(r["detail"], 90)] for r in told["reasons"]]
        say(table(rows, ["what stood out", "    nats", "how"]))
        say()
    if told["evidence"]:
        rows = [
            [
                str(e["monitor"]),
                f"{e['log_bf_nats']:+8.2f}",
                f"{e['log_e_nats']:7.2f}",
                str(e["last_seq"]),
                "outvoted" if e["trimmed"] else "",
            ]
            for e in told["evidence"]
        ]
        say(table(rows, ["monitor", "log odds", "  log e", "through event", ""]))
        say()
    say(_region(told))
    if told.get("newcomer"):
        _print_newcomer(told["newcomer"])
    if told["peers"]:
        say(f"peers: {safe(told['peers'], 400)}")
    if told["would_change"] and (flagged or not left):
        say(f"what would change this: {safe(told['would_change'], 400)}")
    for verdict in told["verdicts"]:
        at = utc(verdict["decided_ms"])
        say(f"verdict {verdict['verdict_id']} of {at}, epoch {verdict['epoch']}: {verdict['decision']}")
    for said in told.get("feedback", []):
        about = f"verdict {said['verdict_id']}" if said["verdict_id"] else "no verdict: it was missed"
        note_text = f": {safe(said['note'], 300)}" if said["note"] else ""
        say(f"feedback of {utc(said['told_ms'])} on {about}: {said['outcome']}{note_text}")
