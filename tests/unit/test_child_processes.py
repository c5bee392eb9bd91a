"""What tocsin starts runs what was installed, whatever lies in the directory it was started in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tocsin
from tocsin.ingest.decoder import Decoder

T0 = 1_700_000_000_000_000_000


def test_the_decoder_executes_nothing_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tocsin", "msgspec", "numpy", "socket"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    decoder = Decoder()
    try:
        decoder.begin(b"salt", (), T0)
    finally:
        decoder.close()
    assert not (tmp_path / "executed").exists()


def test_every_child_is_started_without_the_current_directory_on_its_path() -> None:
    sources = Path(tocsin.__file__).parent.rglob("*.py")
    started = [
        (path.name, option)
        for path in sources
        for option in re.findall(r"sys\.executable,\s*\"([^\"]*)\"", path.read_text())
    ]
    assert len(started) >= 3
    assert {option for _, option in started} == {"-P"}, started
