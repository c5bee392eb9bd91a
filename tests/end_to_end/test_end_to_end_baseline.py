"""What operators order about baselines, through a running tocsin: its token, what it costs, and that it is durable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from running import Up, run

SECRET = "s3cret"
AUTHORISED = {"authorization": f"Bearer {SECRET}"}
KNOWN = [f"agent-{k:02}" for k in range(12)]


def spans(agent: str, first: int, values: list[object]) -> bytes:
    """One measurement a span, and how long a tool call took."""
    told = [
        {
            "traceId": f"{(first + k) << 70 | 7:032x}",
            "spanId": f"{first + k + 1:016x}",
            "name": "execute_tool read_mail",
            "startTimeUnixNano": str(1_700_000_000_000_000_000 + k),
            "endTimeUnixNano": str(1_700_000_000_000_000_000 + 1_000_000 + k),
            "attributes": [
                {"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}},
                {"key": "gen_ai.tool.name", "value": {"stringValue": "read_mail"}},
                {"key": "gen_ai.agent.id", "value": {"stringValue": agent}},
                {"key": "tocsin.metric.speed", "value": {"doubleValue": value}},
            ],
        }
        for k, value in enumerate(values)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": told}]}]}).encode()


class Sender:
    def __init__(self, up: Up, first: int) -> None:
        self.up, self.sent = up, first

    def send(self, agent: str, values: list[object]) -> None:
        status, body, _ = self.up.post("/v1/traces", spans(agent, self.sent, values), AUTHORISED)
        assert status == 200, body
        self.sent += len(values)


def told(up: Up, path: str) -> dict:
    import urllib.request

    request = urllib.request.Request(up.url + path, headers=AUTHORISED)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def metrics(up: Up) -> str:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(up.url + "/metrics", headers=AUTHORISED)) as answer:
        return answer.read().decode()


def feature(baseline: dict, name: str) -> dict:
    return next(f for f in baseline["features"] if f["name"] == name)


def test_newcomers_retirement_and_a_new_epoch_through_the_service_and_a_restart(tmp_path):
    data = tmp_path / "data"
    rng = np.random.default_rng(3)
    options = ("--token", SECRET, "--accept-any-time")
    with Up(data, *options) as up:
        sender = Sender(up, 1)
        for name in KNOWN:
            sender.send(name, (rng.normal(50, 1) + rng.normal(0, 2, 60)).tolist())
        sender.send("new", [58.0, 58.0, "NaN", "Infinity"])  # protobuf's JSON spells them so
        sender.send("new", [])

        # a newcomer: own sums, and beside them, marked, what peers let one expect
        own = told(up, "/api/v1/baseline?level=0&agent=new")
        assert own["schema"] == "tocsin.baseline/2"
        assert (own["samples"], own["expected_peers"]) == (4, 12)
        speed = feature(own, "speed")
        assert (speed["count"], round(speed["mean"])) == (2, 58)
        assert 48 < speed["expected"]["mean"] < 57
        assert 0 < speed["expected"]["own_share"] < 0.9
        explained = run("explain", "new", "--data", data, "--token", SECRET)
        assert "newcomer: 4 events of its own; an estimate, no measurement" in explained.stdout, explained.stderr
        assert "peers weigh as samples" in explained.stdout
        as_json = json.loads(run("explain", "new", "--data", data, "--token", SECRET, "--json").stdout)
        assert as_json["newcomer"]["peers"] == 12
        assert told(up, f"/api/v1/agents/{KNOWN[0]}")["newcomer"] is not None  # 60 events: not established yet
        text = metrics(up)
        assert 'tocsin_received_total{kind="value_nan"} 1.0' in text
        assert 'tocsin_received_total{kind="value_infinite"} 1.0' in text

        # retirement: the sums are those of the others, bit for bit
        before = told(up, "/api/v1/baseline?level=3")
        assert before["agents"] == 13
        assert feature(before, "speed")["typical"]["agents"] == 12
        body = json.dumps({"agents": ["new"]}).encode()
        assert up.post("/api/v1/baseline/retire", body)[0] == 401
        assert up.post("/api/v1/baseline/retire", b'{"agents": ["nobody"]}', AUTHORISED)[0] == 404
        assert up.post("/api/v1/baseline/retire", b'{"agents": []}', AUTHORISED)[0] == 400
        done = run("baseline", "retire", "new", "--data", data, "--token", SECRET)
        assert "the fleet's sums: 720 samples of 12 agents" in done.stdout, done.stderr
        without = told(up, "/api/v1/baseline?level=3")
        assert without["samples"] == before["samples"] - 4
        each = told(up, "/api/v1/baseline?level=0&" + "&".join(f"agent={name}" for name in KNOWN))
        assert without["summary_hash"] == each["summary_hash"]
        assert told(up, "/api/v1/agents/new")["region"] == "(retired)"
        assert {row["agent_id"]: row["region"] for row in told(up, "/api/v1/agents")}["new"] == "(retired)"

        # a new epoch: refused without consent, with what it would cost
        for name in KNOWN:
            sender.send(name, (5e6 + rng.normal(0, 2, 60)).tolist())
        assert told(up, "/api/v1/baseline?level=3")["samples"] == 1440
        assert told(up, "/api/v1/status")["tree"]["saturating"] == ["speed"]
        refused = run("baseline", "refit", "--data", data, "--token", SECRET)
        assert refused.returncode != 0
        assert "discards what is learned: 1,440 samples of 12 agents" in refused.stderr
        assert "say --discard" in refused.stderr
        assert "send {" not in refused.stderr  # that is for programs
        assert up.post("/api/v1/baseline/refit", b'{"discard": true}')[0] == 401
        assert told(up, "/api/v1/status")["refits"] == 0
        done = run("baseline", "refit", "--discard", "--data", data, "--token", SECRET, "--json")
        answer = json.loads(done.stdout)
        assert answer["after"]["epoch"] == answer["before"]["epoch"] + 1
        anew = told(up, "/api/v1/baseline?level=3")
        assert 512 <= anew["samples"] < 1440
        assert feature(anew, "speed")["saturated"] < anew["samples"] / 2
        assert told(up, "/api/v1/status")["tree"]["saturating"] == []
        discarded = 1440 + 4 - anew["samples"]  # what the retired one had shown among it
        for line in ("tocsin_baseline_refits_total 1.0", "tocsin_agents_retired_total 1.0",
                     f"tocsin_baseline_samples_discarded_total {float(discarded)}"):  # fmt: skip
            assert line in metrics(up)
        up.kill()

    with Up(data, *options) as again:  # both orders are in the log
        assert told(again, "/api/v1/baseline?level=3")["summary_hash"] == anew["summary_hash"]
        status = told(again, "/api/v1/status")
        assert (status["refits"], status["agents_retired"], status["samples_discarded"]) == (1, 1, discarded)
        Sender(again, 50_000).send("new", [5e6])  # whoever acts again is back
        assert told(again, "/api/v1/baseline?level=3")["agents"] == 13
        assert again.interrupt() == 0
