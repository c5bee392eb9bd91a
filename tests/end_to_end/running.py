"""A real `tocsin up` in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE_SECONDS = 120


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from tocsin.cli import main; main()", *map(str, arguments)]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `tocsin` command to its end."""
    whole = command(*arguments)
    return subprocess.run(
        whole, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=cwd, env=environment()
    )


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOCSIN_", "OTEL_"))}
    return {**kept, "NO_COLOR": "1"}


class Up:
    """`tocsin up --port 0`; a context manager that never leaves the process behind."""

    def __init__(self, data: Path, *options: object) -> None:
        self.data = data
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            command("up", "--data", data, "--port", 0, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for_line(r"listening on (http://\S+)").group(1)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self.lines.append("<end of output>")
            self._news.notify_all()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The first line, past or future, that matches; fails with everything printed when the process ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self.lines)
                assert "<end of output>" not in self.lines, "tocsin ended:\n" + "\n".join(self.lines)
                assert self._news.wait(deadline - time.monotonic()), f"no {pattern!r} in:\n" + "\n".join(self.lines)

    def get(self, path: str) -> object:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) whatever the status."""
        given = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data=body, headers=given)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
