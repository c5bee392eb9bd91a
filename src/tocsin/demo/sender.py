"""The demonstration's fleet as a process of its own: sends OTLP over HTTP as instrumented agents would.

    python -m tocsin.demo.sender --endpoint http://127.0.0.1:4318 --fleet agentdojo --part baseline

Progress goes to standard output, one JSON object a line:
`{"event": "preparing"|"sending"|"done"|"error", "part": ..., "spans": ..., "total": ..., ...}`.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tocsin.demo.fleets import FLEETS, FleetOptions, build_fleet
from tocsin.demo.spans import CONTENT_TYPE, SPANS_PER_REQUEST, EncodedSpan, Request, encode_session, requests_of
from tocsin.errors import InputError, TocsinError, Unreachable
from tocsin.sim.fleet import LabelledFleet

MAX_RETRY_AFTER_SECONDS = 30.0
TIMEOUT_SECONDS = 60.0
_RETRY_STATUS = (429, 503)

Report = Callable[[dict[str, Any]], None]


def prepare(fleet: LabelledFleet, *, live: bool, salt: bytes, connections: int, report: Report) -> list[list[Request]]:
    """All requests of a part, per connection. An agent's spans stay on one connection, so they arrive in order."""
    waiting: list[list[EncodedSpan]] = [[] for _ in range(connections)]
    prepared: list[list[Request]] = [[] for _ in range(connections)]
    spans = 0
    for sessions in fleet.rounds(live=live):
        lanes: list[list[EncodedSpan]] = [[] for _ in range(connections)]
        for session in sessions:
            encoded = encode_session(session, salt)
            lanes[zlib.crc32(session.agent_id.encode()) % connections].extend(encoded)
            spans += len(encoded)
        for lane, pending, ready in zip(lanes, waiting, prepared, strict=True):
            # Stable: spans of one agent that end together keep their order.
            pending.extend(sorted(lane, key=lambda span: span.end_ns))
            full = len(pending) - len(pending) % SPANS_PER_REQUEST
            ready.extend(requests_of(pending[:full]))
            del pending[:full]
        report({"event": "preparing", "spans": spans})
    for pending, ready in zip(waiting, prepared, strict=True):
        ready.extend(requests_of(pending))
    return prepared


class Sender:
    """Posts prepared requests, one thread a connection.

    `speed` is fleet seconds per second; 0 sends as fast as the receiver accepts. A receiver that is busy (429, 503)
    is obeyed: the same request goes again after its Retry-After. `patience_seconds` bounds how long one request is
    tried before Unreachable.
    """

    def __init__(
        self, endpoint: str, *, token: str = "", speed: float = 0.0, patience_seconds: float = 120.0, report: Report
    ) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{endpoint} is not an HTTP address", remedy="for example http://127.0.0.1:4318")
        self._parts = parts
        self._path = parts.path.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
        self._headers = {"Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._speed = speed
        self._patience = patience_seconds
        self._report = report
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._began = self._fleet_began_ns = 0.0
        self.spans = self.requests = self.retries = self.rejected = 0
        self.fleet_time_ns = 0

    def send(self, prepared: Sequence[Sequence[Request]]) -> float:
        """Send everything; returns the seconds it took. Raises what the first failing connection raised."""
        starts = [lane[0].first_ns for lane in prepared if lane]
        self._fleet_began_ns = min(starts, default=0)
        self._began = time.monotonic()
        threads = [threading.Thread(target=self._send_lane, args=(lane,)) for lane in prepared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return time.monotonic() - self._began

    def _send_lane(self, lane: Sequence[Request]) -> None:
        connection = self._connect()
        try:
            for request in lane:
                self._wait_for(request)
                connection, rejected = self._post(connection, request)
                with self._lock:
                    if self._failure is not None:
                        return
                    self.spans += request.spans
                    self.requests += 1
                    self.rejected += rejected
                    self.fleet_time_ns = max(self.fleet_time_ns, request.last_ns)
                    self._report({"event": "sending", **self.counts()})
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            with self._lock:
                self._failure = self._failure or error
        finally:
            connection.close()

    def counts(self) -> dict[str, int]:
        """What was sent so far."""
        return {
            "spans": self.spans,
            "requests": self.requests,
            "retries": self.retries,
            "rejected": self.rejected,
            "fleet_time_ns": self.fleet_time_ns,
        }

    def _wait_for(self, request: Request) -> None:
        if self._speed > 0:
            due = self._began + (request.first_ns - self._fleet_began_ns) / 1e9 / self._speed
            time.sleep(max(0.0, due - time.monotonic()))

    def _post(self, connection: http.client.HTTPConnection, request: Request) -> tuple[http.client.HTTPConnection, int]:
        """Post until accepted; returns the connection to go on with and the number of spans refused in it."""
        give_up = time.monotonic() + self._patience
        attempt = 0
        while True:
            try:
                connection.request("POST", self._path, request.body, self._headers)
                response = connection.getresponse()
                status, retry_after, body = response.status, response.getheader("Retry-After", ""), response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = self._connect()
                status, retry_after, body = 0, "", str(error).encode()
            if status == 200:
                return connection, _rejected(body)
            if status not in (0, *_RETRY_STATUS):
                raise InputError(f"the receiver refused a request with status {status}: {_shown(body)}")
            wait = _retry_seconds(retry_after, attempt)
            if time.monotonic() + wait > give_up or self._failure is not None:
                raise Unreachable(
                    f"{self._parts.netloc} did not accept a request for {self._patience:.0f} s: {_shown(body)}",
                    remedy="is tocsin running at that address?",
                )
            with self._lock:
                self.retries += 1
            time.sleep(wait)
            attempt += 1

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_SECONDS)


def _retry_seconds(retry_after: str, attempt: int) -> float:
    """Retry-After in seconds (RFC 9110, 10.2.3), else exponential from 50 ms to 2 s."""
    if retry_after.isascii() and retry_after.isdigit():
        return min(MAX_RETRY_AFTER_SECONDS, float(retry_after[:9]))
    return min(2.0, 0.05 * 2.0 ** min(attempt, 10))


def _rejected(body: bytes) -> int:
    """Spans refused by an otherwise accepted request (`ExportTracePartialSuccess.rejected_spans`)."""
    if not body:
        return 0
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return max(0, ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
    except DecodeError as error:
        raise InputError(f"the receiver's answer is not OTLP: {error}", remedy="is that address tocsin's?") from error


def _shown(body: bytes) -> str:
    text = body[:200].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text) or "no reason given"


def salt_of(options: FleetOptions) -> bytes:
    """The key of a demonstration's digests: equal in both parts, so that a value keeps its hash."""
    return hashlib.blake2b(f"tocsin demo {options.fleet} {options.seed}".encode(), digest_size=32).digest()


class JsonLines:
    """Prints at most one progress line a tenth of a second; other events always."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._last: dict[str, float] = {}

    def __call__(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        event = str(record["event"])
        if event in ("preparing", "sending", "reading"):
            if now - self._last.get(event, 0.0) < 0.1:
                return
            self._last[event] = now
        sys.stdout.write(json.dumps({**record, "part": self._part}) + "\n")
        sys.stdout.flush()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tocsin.demo.sender", description="Send a demonstration fleet.")
    parser.add_argument("--endpoint", required=True, help="OTLP/HTTP address, for example http://127.0.0.1:4318")
    parser.add_argument("--part", required=True, choices=("baseline", "live"))
    parser.add_argument("--fleet", default="agentdojo", choices=FLEETS)
    parser.add_argument("--size", type=int, default=150, help="agents")
    parser.add_argument("--share", type=float, default=0.17, help="share of them that gets compromised")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=0.0, help="fleet seconds per second; 0: as fast as accepted")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--token", default="", help="bearer token, where the receiver asks for one")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds to keep trying one request")
    parser.add_argument("--archive", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Send one part of a fleet. Returns the process's exit code."""
    args = _arguments(argv)
    report = JsonLines(args.part)
    options = FleetOptions(args.fleet, args.size, args.share, args.seed, args.archive, args.cache)
    try:
        sender = Sender(
            args.endpoint, token=args.token, speed=args.speed, patience_seconds=args.patience, report=report
        )
        fleet = build_fleet(options, lambda runs: report({"event": "reading", "runs": runs}))
        began = time.monotonic()
        connections = min(16, max(1, args.connections))
        live = args.part == "live"
        prepared = prepare(fleet, live=live, salt=salt_of(options), connections=connections, report=report)
        total = sum(request.spans for lane in prepared for request in lane)
        report({"event": "prepared", "spans": total, "seconds": round(time.monotonic() - began, 3)})
        seconds = sender.send(prepared)
    except TocsinError as error:
        report({"event": "error", "message": error.cause, "remedy": error.remedy})
        return error.exit_code
    report({"event": "done", **sender.counts(), "seconds": round(seconds, 3)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
