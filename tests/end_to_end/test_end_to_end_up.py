"""A real service, a real OpenTelemetry SDK, a hijacked agent, and a certificate that a stranger can check."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).parent))

from running import Up, run

AGENTS = 24
TASKS = {
    "invoices": (("read", "read_invoice"), ("read", "lookup_supplier"), ("write", "book_invoice")),
    "mail": (("read", "read_inbox"), ("read", "search_contacts"), ("egress", "send_reply")),
    "reports": (("read", "query_sales"), ("read", "query_costs"), ("write", "write_report")),
}


class Fleet:
    """Agents that work through the official SDK, as an instrumented program does."""

    def __init__(self, url: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "office"}))
        exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces", compression=None)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000))
        self._tracer = self._provider.get_tracer("test")
        self._rng = random.Random(7)
        self.sent = 0

    def session(self, agent: str, *, hijacked: bool = False) -> None:
        task = self._rng.choice(sorted(TASKS))
        calls = [*TASKS[task]]
        if hijacked:
            calls += [("read", "list_secrets"), ("egress", "upload_archive"), ("egress", "transfer_money")]
        name = {"gen_ai.agent.id": agent, "gen_ai.conversation.id": f"{agent}/{self.sent}"}
        with self._tracer.start_as_current_span(f"invoke_agent {agent}") as root:
            root.set_attributes({"gen_ai.operation.name": "invoke_agent", **name})
            for effect, tool in calls:
                with self._tracer.start_as_current_span(f"execute_tool {tool}") as span:
                    span.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, **name})
                    span.set_attribute("tocsin.tool.effect", effect)
                self.sent += 1
        self.sent += 1

    def work(self, sessions: int) -> None:
        for _ in range(sessions):
            for i in range(AGENTS):
                self.session(f"clerk-{i:02d}")
        self.flush()

    def flush(self) -> None:
        assert self._provider.force_flush(120_000)

    def close(self) -> None:
        self._provider.shutdown()


def test_a_hijacked_agent_is_certified_and_the_certificate_holds_offline(tmp_path):
    data = tmp_path / "data"
    with Up(data, "--warmup", 10_000) as up:
        fleet = Fleet(up.url)
        fleet.work(sessions=25)
        status, _, _ = up.post("/api/v1/baseline/seal", b"{}")
        assert status == 200
        fleet.work(sessions=2)
        for _ in range(6):
            fleet.session("clerk-03", hijacked=True)
        fleet.flush()
        fleet.close()
        up.wait_for_line(r"verdict: clerk-03 compromised .*signed by monitors")
        told = run("explain", "clerk-03", "--data", data)
        assert told.returncode == 0, told.stderr
        assert "certified as compromised" in told.stdout
        verdicts = up.get("/api/v1/verdicts")
        assert {v["agent_id"] for v in verdicts} == {"clerk-03"}
        status = up.get("/api/v1/status")
        assert status["ingested_events"] == fleet.sent
        assert status["received"]["spans"] == fleet.sent
        up.wait_for_line(f"{AGENTS} of {AGENTS} agents judged now")
        assert "certified from log e" in run("agents", "--data", data).stdout
        assert up.interrupt() == 0

    (certificate,) = (data / "certificates").glob("*.cert.json")
    held = run("verify", certificate, "--roster", data, "--json")
    assert held.returncode == 0, held.stderr
    checked = json.loads(held.stdout)
    assert checked["pinned"]
    assert checked["agent_id"] == "clerk-03"
    assert len(checked["signers"]) >= 3

    after = run("agents", "--data", data, "--limit", 100, "--json")
    assert after.returncode == 0, after.stderr
    rows = json.loads(after.stdout)
    assert len(rows) == AGENTS
    assert [row["agent_id"] for row in rows if row["flagged"]] == ["clerk-03"]

    body = bytearray(certificate.read_bytes())
    flips = range(0, len(body), max(1, len(body) // 40))
    for flip in flips:
        forged = bytearray(body)
        forged[flip] ^= 0x01
        (tmp_path / "forged.cert.json").write_bytes(forged)
        refused = _verified(tmp_path / "forged.cert.json", data)
        assert refused != "certified" or _says_the_same(bytes(forged), bytes(body)), f"a bit flipped in byte {flip}"


def test_any_name_can_be_asked_about(tmp_path):
    strange = "line\nbreak/slash ?query#%41 \u202e"
    with Up(tmp_path) as up:
        fleet = Fleet(up.url)
        fleet.session(strange)
        fleet.close()
        up.wait_for_line("first events, of 1 agent")
        told = run("explain", strange, "--data", tmp_path, "--json")
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["agent_id"] == strange
        assert r"line\nbreak/slash ?query#%41 \u202e" in run("agents", "--data", tmp_path).stdout
        assert up.interrupt() == 0


def _verified(certificate: Path, data: Path) -> str:
    """In this process: forty processes would take a minute."""
    from tocsin.consensus.certificate import verify_verdict
    from tocsin.errors import TocsinError
    from tocsin.runtime.datadir import read_roster
    from tocsin.wire.certificate import decode_certificate

    try:
        verdict, claimed = decode_certificate(certificate.read_bytes())
        verify_verdict(verdict, read_roster(data))
        if claimed != read_roster(data):
            return "another roster"
    except TocsinError as error:
        return type(error).__name__
    return "certified"


def _says_the_same(forged: bytes, original: bytes) -> bool:
    """A flip may hit white space, or what tells people what one monitor saw: only that is not signed."""
    one, other = json.loads(forged), json.loads(original)
    unsigned = ("decided_ms", "reasons", "dissent")
    return all(one[key] == other[key] for key in other if key not in unsigned)


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_nothing_acknowledged_is_lost_and_the_store_opens_again(tmp_path, how):
    data = tmp_path / "data"
    with Up(data, "--warmup", 10_000) as up:
        fleet = Fleet(up.url)
        fleet.work(sessions=5)
        fleet.close()
        getattr(up, how)()
    with Up(data, "--warmup", 10_000) as again:
        status = again.get("/api/v1/status")
        assert status["ingested_events"] == fleet.sent
        assert status["events"] == fleet.sent
        assert status["agents"] == AGENTS
        more = Fleet(again.url)
        more.work(sessions=1)
        more.close()
        assert again.interrupt() == 0
