"""Where the outside world is: clocks, threads, files. Everything below this layer is sans-I/O."""

from __future__ import annotations

from pathlib import Path

from tocsin.runtime.kernels import discard_stale

discard_stale(Path(__file__).resolve().parent.parent)  # before anything that is imported from here loads a kernel
