"""The sender against a real HTTP server that is sometimes busy."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tocsin.demo.sender import main
from tocsin.sim.synthetic import SyntheticFleet


class Receiver(ThreadingHTTPServer):
    """Remembers accepted bodies; answers the first `refusals` requests with those statuses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.refusals: list[tuple[int, str]] = []
        self.accepted: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.reply = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[tuple[str, str, int]]:
        """(agent, span name, end) in order of arrival."""
        out: list[tuple[str, str, int]] = []
        for body in self.accepted:
            for resource in ExportTraceServiceRequest.FromString(gzip.decompress(body)).resource_spans:
                for span in resource.scope_spans[0].spans:
                    agent = next(a.value.string_value for a in span.attributes if a.key == "gen_ai.agent.id")
                    out.append((agent, span.name, span.end_time_unix_nano))
        return out


class Handler(BaseHTTPRequestHandler):
    """One connection to a `Receiver`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, Receiver)
        with server.lock:
            server.headers.append({**dict(self.headers), "path": self.path})
            status, retry_after = server.refusals.pop(0) if server.refusals else (200, "")
            if status == 200:
                server.accepted.append(body)
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        reply = server.reply if status == 200 else b"\x1b[31mno"
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def arguments(url: str, part: str = "live", *more: str) -> list[str]:
    return ["--endpoint", url, "--fleet", "synthetic", "--part", part, "--size", "30", "--seed", "4", *more]


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def expected(part: str) -> dict[str, list[str]]:
    """Per agent, the names of the spans in the order in which it did things."""
    out: dict[str, list[str]] = defaultdict(list)
    for sessions in SyntheticFleet(size=30, seed=4).rounds(live=part == "live"):
        for session in sessions:
            for step in session.steps:
                name = f"execute_tool {step.tool}" if step.tool else f"invoke_agent {session.agent_id}"
                out[session.agent_id].append(name)
    return out


@pytest.mark.parametrize("part", ["baseline", "live"])
@pytest.mark.parametrize("connections", ["1", "3"])
def test_every_span_arrives_once_and_each_agents_in_order(receiver: Receiver, part: str, connections: str) -> None:
    assert main(arguments(receiver.url, part, "--connections", connections)) == 0
    got: dict[str, list[str]] = defaultdict(list)
    for agent, name, _ in receiver.spans():
        got[agent].append(name)
    assert got == expected(part)


def test_agents_interleave_in_fleet_time(receiver: Receiver) -> None:
    assert main(arguments(receiver.url, "live", "--connections", "1")) == 0
    ends = [end for _, _, end in receiver.spans()]
    assert ends == sorted(ends)
    agents = [agent for agent, _, _ in receiver.spans()]
    assert sum(a != b for a, b in pairwise(agents)) > len(agents) / 5


def test_a_busy_receiver_gets_the_same_request_again(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    receiver.refusals = [(503, "0"), (429, ""), (503, "0")]
    assert main(arguments(receiver.url)) == 0
    done = lines(capsys.readouterr().out)[-1]
    total = sum(map(len, expected("live").values()))
    assert done["event"] == "done"
    assert (done["retries"], done["spans"], done["rejected"]) == (3, total, 0)
    assert max(Counter(receiver.accepted).values()) == 1


def test_refused_spans_are_counted(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    reply = ExportTraceServiceResponse()
    reply.partial_success.rejected_spans = 2
    receiver.reply = reply.SerializeToString()
    assert main(arguments(receiver.url)) == 0
    done = lines(capsys.readouterr().out)[-1]
    assert done["rejected"] == 2 * len(receiver.accepted)


def test_a_refusal_for_good_is_an_error_with_a_printable_reason(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.refusals = [(401, "")] * 2
    assert main(arguments(receiver.url)) == 2
    error = lines(capsys.readouterr().out)[-1]
    assert error["event"] == "error"
    assert "401: ?[31mno" in str(error["message"])


def test_what_it_says_to_the_receiver(receiver: Receiver) -> None:
    assert main(arguments(receiver.url + "/v1/traces/", "live", "--token", "s3cret")) == 0
    header = receiver.headers[0]
    assert header["path"] == "/v1/traces"
    assert header["Content-Type"] == "application/x-protobuf"
    assert header["Content-Encoding"] == "gzip"
    assert header["Authorization"] == "Bearer s3cret"


def test_it_is_a_process_that_reports_in_json_lines(receiver: Receiver) -> None:
    command = [sys.executable, "-m", "tocsin.demo.sender", *arguments(receiver.url, "baseline")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    events = [line["event"] for line in lines(done.stdout)]
    assert events[0] == "preparing"
    assert events[-1] == "done"
    assert set(events) <= {"preparing", "prepared", "sending", "done"}
    assert sum(map(len, expected("baseline").values())) == len(receiver.spans())


def test_nobody_listening_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert main(arguments(url, "live", "--patience", "0.2")) == 4
    assert "did not accept" in str(lines(capsys.readouterr().out)[-1]["message"])


def test_an_accelerated_clock_takes_its_time(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    # Sixteen sessions a quarter of an hour apart are four hours; at 40,000 fleet seconds a second, a third of one.
    assert main(arguments(receiver.url, "live", "--speed", "40000")) == 0
    done = lines(capsys.readouterr().out)[-1]
    ends = [end for _, _, end in receiver.spans()]
    whole = (max(ends) - min(ends)) / 1e9 / 40_000
    assert float(str(done["seconds"])) > 0.5 * whole > 0.1


def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("ftp://127.0.0.1")) == 2
    assert "127.0.0.1:4318" in str(lines(capsys.readouterr().out)[-1]["remedy"])
