"""How long a user waits before tocsin does anything: importing the package, asking the command line for help."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks._harness import Bench, main

PYTHON = sys.executable
TOCSIN = str(Path(sys.executable).with_name("tocsin"))


def _milliseconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "NO_COLOR": "1"})
    return (time.perf_counter() - start) * 1e3


def measure(bench: Bench) -> None:
    """Medians over fresh interpreters; the bare interpreter's own start is measured beside and subtracted."""
    runs = 3 if bench.quick else 10
    _milliseconds(PYTHON, "-c", "import tocsin")  # the first run writes bytecode
    bare: list[float] = []
    imported: list[float] = []
    for _ in range(runs):
        bare.append(_milliseconds(PYTHON, "-c", "pass"))
        imported.append(_milliseconds(PYTHON, "-c", "import tocsin"))
    bench.record_all("interpreter alone", bare, unit="ms")
    own = [one - median(bare) for one in imported]
    bench.record_all("import tocsin, without the interpreter", own, unit="ms", bound="<= 150")
    _milliseconds(TOCSIN, "--help")
    helped = [_milliseconds(TOCSIN, "--help") for _ in range(runs)]
    bench.record_all("tocsin --help, whole process", helped, unit="ms", bound="<= 300")


if __name__ == "__main__":
    raise SystemExit(main("startup", measure))
