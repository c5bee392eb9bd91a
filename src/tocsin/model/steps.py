"""Inputs and effects of every sans-I/O machine: `machine.step(now_ns, input) -> list[Effect]`.

Effects are executed in order. A `Persist` is a barrier: no later `Send` or `Emit` of the same list leaves before
the record is durable. Machines never see sockets, clocks, files or randomness.
"""

from __future__ import annotations

from typing import Any

import msgspec

EVERYONE = -1


class Received(msgspec.Struct, frozen=True):
    """Bytes from monitor `source`, as authenticated by the transport; content is not trusted."""

    source: int
    body: bytes


class Fired(msgspec.Struct, frozen=True):
    """A timer set earlier has expired."""

    token: str


class Send(msgspec.Struct, frozen=True):
    """Send `body` to monitor `to`, or to every other monitor (`EVERYONE`). May be lost."""

    to: int
    body: bytes


class Persist(msgspec.Struct, frozen=True):
    """Append `record` to the machine's journal, durably. Replayed in order at restart."""

    kind: str
    record: bytes


class SetTimer(msgspec.Struct, frozen=True):
    """Fire `token` after `delay_ns`. Setting the same token again moves it; a negative delay cancels it."""

    token: str
    delay_ns: int


class Emit(msgspec.Struct, frozen=True):
    """Something happened that the host wants to know: `kind` names it, `value` is a model struct or a dict."""

    kind: str
    value: Any


Effect = Send | Persist | SetTimer | Emit
