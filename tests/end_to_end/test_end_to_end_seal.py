"""Ending the learning phase: of whom it cannot be, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from running import Up


def test_sealing_strangers_is_refused_and_the_store_opens_again(tmp_path):
    with Up(tmp_path) as up:
        status, body, _ = up.post("/api/v1/baseline/seal", b'{"agents": ["nobody"]}')
        assert (status, json.loads(body)["error"]) == (404, "UnknownAgent")
        status, body, _ = up.post("/api/v1/baseline/seal", b'{"agents": 7}')
        assert (status, json.loads(body)["error"]) == (400, "InputError")
        status, _, _ = up.post("/api/v1/baseline/seal", b"{}", {"content-type": "text/plain"})
        assert status == 400, "what a foreign page can make a browser send"
        status, _, _ = up.post("/api/v1/baseline/seal", b"")
        assert status == 200
        assert up.get("/healthz") == {"ok": True}
        assert up.interrupt() == 0
    with Up(tmp_path) as again:
        assert again.get("/api/v1/status")["agents"] == 0


def test_limits_that_are_no_numbers(tmp_path):
    with Up(tmp_path) as up:
        for limit in ("0", "-1", "x", "20001", "00000000199999999999999999999999", "%D9%A1"):
            status, _, _ = up.post(f"/api/v1/verdicts?limit={limit}", b"")
            assert status == 405
            status = _get(up, f"/api/v1/verdicts?limit={limit}")
            assert status == 400, limit


def _get(up: Up, path: str) -> int:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(up.url + path) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
