"""Measurements, one topic a module: `python -m benchmarks.TOPIC [--json OUT]`. It reports; it never fails a build."""
