"""Talking to people and to programs: results on standard output, everything else on standard error.

Strings that agents chose are hostile: control characters could move the cursor or forge a line, so they are shown
escaped.
"""

from __future__ import annotations

import math
import os
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

from tocsin.errors import TocsinError


def safe(text: str, limit: int = 120) -> str:
    """`text` with everything that is not plainly printable escaped; on a terminal cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= limit or not sys.stdout.isatty() else shown[: limit - 1] + "…"


def counted(number: int, noun: str) -> str:
    """`1 agent`, `2 agents`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def alone_nats(fleet_size: int, alpha_ppm: int) -> float:
    """The log e-value at which one agent of `fleet_size` is in the alarm set by itself (e-BH)."""
    return math.log(max(1, fleet_size) * 1e6 / alpha_ppm)


def decided_by(log_e_nats: float, fleet_size: int, alpha_ppm: int) -> str:
    """What a verdict rests on, beside what it takes."""
    return f"log e {log_e_nats:.1f}; alone an agent needs {alone_nats(fleet_size, alpha_ppm):.1f}"


def colour_wanted() -> bool:
    """Whether standard output is a terminal whose owner did not ask for plain text (NO_COLOR)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, code: str) -> str:
    """`text` in an ANSI style, where that is wanted."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour_wanted() else text


def bold(text: str) -> str:
    """`text` in bold."""
    return style(text, "1")


def percent(share: float) -> str:
    """A probability for people; certainty is never claimed by rounding."""
    if share > 0.9999:  # at 64 nats a float is 1.0 already
        return "> 99.99 %"
    return "< 0.01 %" if share < 0.0001 else f"{100 * share:.2f} %"


def utc(milliseconds: int) -> str:
    """A moment, to the second."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def say(text: str = "") -> None:
    """A line of the result."""
    print(text)


def note(text: str) -> None:
    """A line for people who watch; never part of the result."""
    print(text, file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """The result, for programs."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def fail(error: TocsinError, *, as_json: bool = False) -> NoReturn:
    """Say what went wrong and what to do about it; exit with the error's code."""
    if as_json:
        say_json({"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy})
    note(f"tocsin: {safe(error.cause, 1000)}")
    if error.remedy:
        note(f"        {safe(error.remedy, 1000)}")
    sys.exit(error.exit_code)


def table(rows: list[list[str]], header: list[str]) -> str:
    """Columns padded to their widest cell; numbers are right-aligned by whoever formats them."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *rows]
    ]
    return "\n".join([bold(lines[0]), *lines[1:]])
