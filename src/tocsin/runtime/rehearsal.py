"""A small made-up fleet run through everything once, so that kernels are compiled before somebody waits for them.

The first event, the first sealed baseline and the first live event of a new installation would each wait for theirs
otherwise, and with them every sender. Compiled kernels stay on disk: later starts find them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.model.events import EventBatch, Kind, Phase
from tocsin.monitor.inputs import Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.kernels import mark_ready, ready
from tocsin.stats.correlation import autocorrelations
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire.otlp_scan import check_counts
from tocsin.wire.records import batch_from_records

NOTICE = "compiling for this machine: once, some 20 seconds"
PACKAGE = Path(__file__).resolve().parent.parent
AGENTS = 12
SESSIONS = 24  # an agent; the last eighth is live
TOOLS = (("search", "read"), ("read_mail", "read"), ("send_mail", "egress"), ("write_file", "write"))


def rehearse_once(before: Callable[[], None]) -> None:
    """Where kernels are missing: call `before` (to say that this takes a while), then make them."""
    if ready(PACKAGE):
        return
    before()
    rehearse()
    mark_ready(PACKAGE)


def rehearse() -> None:
    """Learn a baseline and judge live events of a fleet that never was."""
    signers = deterministic_signers(b"rehearsal", 4)
    engine = Engine(roster_of("rehearsal", signers), signers, VirtualClock())
    engine.start()
    live_from = SESSIONS - SESSIONS // 8
    offset = 0
    for session in range(SESSIONS):
        if session == live_from:
            engine.feed([Sealed(None, offset)])
        phase = Phase.LIVE if session >= live_from else Phase.BASELINE
        batch = _sessions(session, offset, phase)
        offset += len(batch)
        engine.feed([Observed(batch)])
        engine.cluster.settle()
    engine.establish([f"agent-{a}" for a in range(AGENTS)], 3)
    engine.witness.detector.explain("agent-0")
    autocorrelations(np.zeros((2, 64)), 4)  # of screening, which such a short history does not come to
    check_counts(b"\n\0", ExportTraceServiceRequest, 1)  # the decoder's, in a process of its own


def _sessions(session: int, offset: int, phase: Phase) -> EventBatch:
    """One session of every agent: five calls with arguments, the model's own spans, a measurement, an answer."""
    rows: list[tuple[str, dict[str, Any]]] = []
    random = np.random.default_rng(session)
    for agent in range(AGENTS):
        common = {"session": f"{agent} {session}", "group": f"role-{agent % 2}", "t": float(offset + len(rows))}
        for step in range(5):
            tool, effect = TOOLS[int(random.integers(len(TOOLS)))]
            if agent == 0 and session == SESSIONS - 1:
                tool, effect = "wire_money", "egress"  # something to explain
            rows.append((f"agent-{agent}", {**common, "action": tool, "effect": effect, "duration_ms": 5.0 + step}))
            rows.append((f"agent-{agent}", {**common, "kind": "chat", "input_tokens": 50.0, "output_tokens": 9.0}))
        rows.append((f"agent-{agent}", {**common, "kind": "metric", "accuracy": float(random.normal())}))
        rows.append((f"agent-{agent}", {**common, "kind": "final", "action": "_final", "effect": "final"}))
    batch = batch_from_records(rows, offset=offset, phases=[int(phase)] * len(rows))
    calls = batch.kind == int(Kind.CALL)
    per_row = np.where(calls, 2, 0)
    arguments = int(per_row.sum())
    words = np.where(batch.kind == int(Kind.FINAL), 0, 3)
    return replace(
        batch,
        arg_offset=np.concatenate(([0], np.cumsum(per_row))).astype(np.int32),
        arg_name=random.integers(0, 4, arguments),
        arg_hash=random.integers(0, 50, arguments),
        arg_type=random.integers(0, 5, arguments).astype(np.int8),
        arg_flags=random.integers(0, 4, arguments).astype(np.uint8),
        arg_len=random.integers(1, 60, arguments).astype(np.int32),
        prompt_offset=np.concatenate(([0], np.cumsum(words))).astype(np.int32),
        prompt_word=random.integers(0, 200, int(words.sum())).astype(np.int32),
        event_id=random.integers(1, 1 << 62, len(batch)),
    )
