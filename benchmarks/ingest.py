"""OTLP in: spans a second from bytes to rows, and the stored form of a batch.

    python -m benchmarks.ingest [--json OUT] [--quick]

The request is what an instrumented agent sends: tool spans of ten attributes, eight to a trace, 512 to a request. Rates
are of the processor's time of one thread, so that other work on the machine does not count as ours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks._harness import Bench, main
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.names import WANTED
from tocsin.wire import otlp, otlp_json
from tocsin.wire.events import decode_batch, encode_batch

SPANS = 512
PER_TRACE = 8
T0 = 1_700_000_000_000_000_000


def attributes(i: int) -> dict[str, str]:
    """Ten attributes of tool span `i`."""
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.agent.id": f"agent-{i // PER_TRACE % 100}",
        "gen_ai.agent.name": "clerk",
        "gen_ai.conversation.id": f"conversation-{i // PER_TRACE}",
        "gen_ai.tool.name": ("send_email", "read_file", "search_contacts")[i % 3],
        "gen_ai.tool.call.id": f"call_{i}",
        "gen_ai.tool.type": "function",
        "tocsin.tool.args": f"to:email:6af3aab6{i % 50:08x}:1:1:15|subject:short:198e2768aabbccdd:0:1:10",
        "server.address": "mcp.internal",
        "server.port": "443",
    }


def protobuf_request(seed: int) -> bytes:
    """One request, random ids."""
    draw = random.Random(seed)
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    spans = resource.scope_spans.add().spans
    trace_id, parent = draw.randbytes(16), draw.randbytes(8)
    for i in range(SPANS):
        if i % PER_TRACE == 0:
            trace_id, parent = draw.randbytes(16), draw.randbytes(8)
        span = spans.add(trace_id=trace_id, span_id=draw.randbytes(8), parent_span_id=parent, name="execute_tool")
        span.start_time_unix_nano, span.end_time_unix_nano = T0 + i, T0 + i + 5_000_000
        for key, value in attributes(i).items():
            span.attributes.add(key=key).value.string_value = value
    return message.SerializeToString()


def json_request(body: bytes) -> bytes:
    """The same request as OTLP/JSON."""
    message = ExportTraceServiceRequest.FromString(body)
    resources = [
        {
            "resource": {"attributes": [pair(one.key, one.value.string_value) for one in spans.resource.attributes]},
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": span.trace_id.hex(),
                            "spanId": span.span_id.hex(),
                            "parentSpanId": span.parent_span_id.hex(),
                            "name": span.name,
                            "startTimeUnixNano": str(span.start_time_unix_nano),
                            "endTimeUnixNano": str(span.end_time_unix_nano),
                            "attributes": [pair(one.key, one.value.string_value) for one in span.attributes],
                        }
                        for span in scope.spans
                    ]
                }
                for scope in spans.scope_spans
            ],
        }
        for spans in message.resource_spans
    ]
    return msgspec.json.encode({"resourceSpans": resources})


def pair(key: str, value: str) -> dict[str, object]:
    """An attribute in OTLP/JSON."""
    return {"key": key, "value": {"stringValue": value}}


def processor_rates(run: Callable[[], object], items: int, runs: int) -> list[float]:
    """Items per second of processor time, one value a run."""
    rates: list[float] = []
    for _ in range(runs):
        start = time.process_time()
        run()
        rates.append(items / (time.process_time() - start))
    return rates


def measure(bench: Bench) -> None:
    requests = 10 if bench.quick else 40
    runs = 3 if bench.quick else 9
    bodies = [protobuf_request(seed) for seed in range(requests)]
    texts = [json_request(body) for body in bodies]
    spans = requests * SPANS
    bench.count(requests=requests, spans_per_request=SPANS, bytes_per_span=round(len(bodies[0]) / SPANS))

    def whole(decode: Callable[[bytes, otlp.Wanted], otlp.SpanColumns], sent: list[bytes]) -> Callable[[], object]:
        def run() -> object:
            attributor = Attributor()
            return sum(len(attributor.attribute(decode(body, WANTED), T0)) for body in sent)

        return run

    def record(name: str, run: Callable[[], object], unit: str = "spans/s", bound: str = "") -> None:
        run()
        requirement = "R5.4" if bound else ""
        rates = processor_rates(run, spans, runs)
        bench.record_all(name, rates, unit=unit, requirement=requirement, bound=bound)

    record("protobuf to rows", whole(otlp.decode_traces, bodies), bound=">= 60000")
    record("protobuf to columns only", lambda: [otlp.decode_traces(body, WANTED) for body in bodies])
    record("JSON to rows", whole(otlp_json.decode_traces, texts))
    attributor = Attributor()
    batches = [attributor.attribute(otlp.decode_traces(body, WANTED), T0) for body in bodies]

    def admit() -> object:
        admission = Admission(AdmissionConfig(), lambda: T0)
        return [admission.admit(batch) for batch in batches]

    record("admission", admit, "rows/s")
    record("stored form, there and back", lambda: [decode_batch(encode_batch(batch)) for batch in batches], "rows/s")
    stored = sum(len(encode_batch(batch)) for batch in batches)
    bench.record("bytes a row in the log", stored / sum(map(len, batches)), unit="B")


if __name__ == "__main__":
    raise SystemExit(main("ingest", measure))
