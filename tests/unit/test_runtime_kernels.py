"""Compiled kernels do not outlive the sources they were made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tocsin
from tocsin.runtime import rehearsal
from tocsin.runtime.kernels import ROOMS, discard_stale, mark_ready, ready


def _package(path):
    for room in ROOMS:
        (path / room / "__pycache__").mkdir(parents=True)
        (path / room / "source.py").write_text("one = 1\n")
        for kind in ("nbi", "nbc"):
            (path / room / "__pycache__" / f"source.kernel.{kind}").write_bytes(b"compiled")
    return path


def _compiled(path):
    return sorted(file.suffix for file in path.rglob("*.nb?"))


def test_kernels_go_when_any_source_changes_and_stay_otherwise(tmp_path):
    package = _package(tmp_path)
    assert discard_stale(package)
    assert _compiled(package) == []
    (package / "detection" / "__pycache__" / "source.kernel.nbi").write_bytes(b"compiled")
    assert not discard_stale(package)
    assert _compiled(package) == [".nbi"]
    (package / "stats" / "source.py").write_text("one = 2\n")
    assert discard_stale(package)
    assert _compiled(package) == []


def test_a_package_without_caches_is_no_problem(tmp_path):
    for room in ROOMS:
        (tmp_path / room).mkdir()
    assert discard_stale(tmp_path)
    assert not discard_stale(tmp_path)


def test_what_is_ready_is_so_until_a_source_changes(tmp_path):
    package = _package(tmp_path)
    assert not ready(package)
    discard_stale(package)
    mark_ready(package)
    assert ready(package)
    (package / "wire" / "source.py").write_text("one = 2\n")
    assert not ready(package)


def test_a_rehearsal_is_announced_and_held_once(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "PACKAGE", _package(tmp_path))
    said = []
    for _ in range(2):
        rehearsal.rehearse_once(lambda: said.append("said"))
    assert said == ["said"]


def test_after_a_rehearsal_a_service_compiles_nothing():
    """Learning and judging a fleet with everything in it, in a process that has rehearsed before."""
    program = """
from numba.core import event
from tocsin.runtime.rehearsal import rehearse
rehearse()
compiled = []
class Listener(event.Listener):
    def on_start(self, one): compiled.append(one.data["dispatcher"].py_func.__qualname__)
    def on_end(self, one): pass
event.register("numba:compile", Listener())
import gzip
from tocsin.demo.sender import prepare
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.ingest.attribution import Attributor
from tocsin.ingest.names import WANTED
from tocsin.monitor.inputs import Observed, Sealed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.sim.synthetic import SyntheticFleet
from tocsin.trust.keyring import deterministic_signers, roster_of
from tocsin.wire import otlp
from tocsin.wire.events import decode_batch, encode_batch
fleet = SyntheticFleet(size=30, compromised_share=0.1, seed=1)
signers = deterministic_signers(b"k", 4)
engine = Engine(roster_of("k", signers), signers, VirtualClock())
engine.start()
attributor, admission = Attributor(), Admission(AdmissionConfig(warmup_events=10**8))
for live in (False, True):
    for request in prepare(fleet, live=live, salt=b"k", connections=1, report=lambda _: None)[0]:
        columns = otlp.decode_traces(gzip.decompress(request.body), WANTED)
        rows = decode_batch(encode_batch(attributor.attribute(columns, 0)))
        engine.feed([Observed(admission.admit(rows)[0])])
        engine.cluster.settle()
    if not live:
        admission.seal(None)
        engine.feed([Sealed(None, admission.next_offset)])
assert engine.events > 1000, engine.events
print(" ".join(sorted(set(compiled))))
"""
    environment = {"PYTHONPATH": str(Path(tocsin.__file__).parent.parent), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ""
