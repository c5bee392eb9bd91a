"""Feedback over HTTP and the command line: its token, its refusals, and that kill -9 does not lose it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from running import Up, run

SECRET = "s3cret"
AUTHORISED = {"authorization": f"Bearer {SECRET}"}


def span(name: str, number: int) -> bytes:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "read_mail", "gen_ai.agent.id": name}
    one = {
        "traceId": f"{number << 70 | 7:032x}",
        "spanId": f"{number + 99:016x}",
        "name": "execute_tool read_mail",
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000000000000000",
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
    }
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}).encode()


def test_feedback_needs_the_token_is_checked_and_survives(tmp_path):
    data = tmp_path / "data"
    with Up(data, "--token", SECRET, "--accept-any-time") as up:
        empty = run("agents", "--data", data, "--token", SECRET)
        assert "gen_ai.agent.id" in empty.stdout
        for number in (1, 2):  # once the second is acknowledged, the first is before any later question
            status, body, _ = up.post("/v1/traces", span("quiet", number), AUTHORISED)
            assert (status, body) == (200, b"{}")
        said = b'{"agent_id": "quiet", "outcome": "confirmed", "note": "<b>found</b> by hand"}'
        assert up.post("/api/v1/feedback", said)[0] == 401
        assert up.post("/api/v1/feedback", said, {**AUTHORISED, "content-type": "text/plain"})[0] == 400
        for body, status in (
            (b'{"agent_id": "quiet", "outcome": "perhaps"}', 400),
            (b'{"agent_id": "quiet", "outcome": "benign"}', 400),
            (b'{"agent_id": "nobody", "outcome": "confirmed"}', 404),
            (b'{"agent_id": 7}', 400),
            (b"[" * 70_000, 400),
            (b'{"agent_id": "\xff\xfe", "outcome": "confirmed"}', 400),
        ):
            assert up.post("/api/v1/feedback", body, AUTHORISED)[0] == status, body[:60]
        told = run("feedback", "quiet", "confirmed", "--note", "by hand", "--data", data, "--token", SECRET)
        assert told.returncode == 0, told.stderr
        assert "counted as missed" in told.stdout
        listed = json.loads(run("agents", "--data", data, "--token", SECRET, "--json").stdout)
        assert listed[0]["learning_events_left"] == 198
        up.kill()
    with Up(data, "--token", SECRET, "--accept-any-time") as again:
        shown = run("quality", "--data", data, "--token", SECRET, "--json")
        assert json.loads(shown.stdout)["missed"] == 1
        explained = run("explain", "quiet", "--data", data, "--token", SECRET)
        assert "confirmed: by hand" in explained.stdout
        assert again.interrupt() == 0
    after = run("quality", "--data", data)
    assert after.returncode == 0, after.stderr
    assert "1 compromised agent that raised no alarm was reported" in after.stdout
    assert "of 0 alarms none is labelled" in after.stdout


def test_the_doctor_checks_the_port_that_is_asked_about(tmp_path):
    with Up(tmp_path / "data") as up:
        port = up.url.rpartition(":")[2]
        told = run("doctor", "--data", tmp_path, "--port", port, "--json")
        checks = {check["check"]: check["ok"] for check in json.loads(told.stdout)}
        assert told.returncode == 1
        assert not checks["port"]
        told = run("doctor", "--data", tmp_path / "data", "--port", port, "--json")
        assert told.returncode == 0, told.stdout  # its own tocsin is no obstacle
    told = run("doctor", "--data", tmp_path, "--port", 0, "--json")
    assert json.loads(told.stdout)[5] == {"check": "port", "ok": True, "found": "the system chooses"}
