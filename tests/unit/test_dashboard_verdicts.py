"""What the interface says moved a verdict: a withdrawn alarm is not explained by what raised it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from tocsin.dashboard.api import WITHDRAWN, _Api
from tocsin.runtime.store import Store


def test_a_clearing_has_a_reason_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    body = b'{"reasons": [{"feature": "tools never used before"}]}'
    store.add_verdict("v1", "a", 1, "compromised", 1000, body)
    store.add_verdict("v2", "a", 2, "cleared", 2000, body)
    told = _Api(cast(Any, None), dict, dict)._told_verdicts(store, 10)
    assert [verdict["reasons"] for verdict in told] == [[WITHDRAWN], ["tools never used before"]]
    assert "no longer" in WITHDRAWN
