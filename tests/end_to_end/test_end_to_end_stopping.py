"""Impatience at the end: further signals neither hang tocsin nor make it forget what it accepted."""

from __future__ import annotations

import json
import signal
import sys
import threading
import urllib.error
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import PATIENCE_SECONDS, Up

BETWEEN_SECONDS = 0.1
SPANS = 200


def _request(number: int) -> bytes:
    spans = [
        {
            "traceId": f"{number:032x}",
            "spanId": f"{i + 1:016x}",
            "name": f"execute_tool t{i % 5}",
            "endTimeUnixNano": str(1_700_000_000_000_000_000 + number * 1_000 + i),
            "attributes": [{"key": "tocsin.agent.id", "value": {"stringValue": f"a{i % 9}"}}],
        }
        for i in range(SPANS)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


class _Load:
    """Posts until the server is gone; `accepted` is set by the first 200."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self.accepted = threading.Event()
        self._thread = threading.Thread(target=self._post_forever)
        self._thread.start()

    def _post_forever(self) -> None:
        number = 1
        while True:
            try:
                status, _, _ = self._up.post("/v1/traces", _request(number))
            except (OSError, urllib.error.URLError):
                return
            number += 1
            if status == 200:
                self.accepted.set()

    def join(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_break_off_the_finishing(tmp_path: Path, loaded: bool, second: signal.Signals) -> None:
    with Up(tmp_path) as up:
        load = _Load(up) if loaded else None
        if load is not None:
            assert load.accepted.wait(PATIENCE_SECONDS)
        assert up.get("/api/v1/status")  # from here on signals are handled
        up.process.send_signal(signal.SIGINT)
        threading.Event().wait(BETWEEN_SECONDS)  # what is tested is the time between the two
        up.process.send_signal(second)
        assert up.process.wait(PATIENCE_SECONDS) == 0, "\n".join(up.lines)
        if load is not None:
            load.join()
    assert not any("Traceback" in line for line in up.lines)
    assert not (tmp_path / "endpoint.json").exists()
