"""The effects of one step, in order."""

from __future__ import annotations

from typing import Any

from tocsin.consensus.lean import LEAN_FROM, Emptied, epoch_of
from tocsin.consensus.messages import ENVELOPE, AnyMessage, Cut, Lean
from tocsin.model.steps import EVERYONE, Effect, Emit, Persist, Send, SetTimer


class Outbox:
    """Collects effects during a step; `drain` hands them over."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self.persisted = 0  # bytes of records so far
        self._epoch = 0
        self._base: Cut = ()

    def begin(self, epoch: int, base: Cut) -> None:
        """An epoch begins; `base` is the cut decided before it, which everybody in it has."""
        self._epoch, self._base = epoch, base

    def send(self, to: int, message: AnyMessage) -> None:
        if len(self._base) >= LEAN_FROM and epoch_of(message) == self._epoch:
            emptied = Emptied(self._base)
            body = ENVELOPE.encode(emptied.message(message))
            message = Lean(self._epoch, tuple(emptied.lean), body)
        self._effects.append(Send(to, ENVELOPE.encode(message)))

    def broadcast(self, message: AnyMessage) -> None:
        self.send(EVERYONE, message)

    def persist(self, kind: str, record: bytes) -> None:
        self._effects.append(Persist(kind, record))
        self.persisted += len(record)

    def timer(self, token: str, delay_ns: int) -> None:
        self._effects.append(SetTimer(token, delay_ns))

    def cancel(self, token: str) -> None:
        self._effects.append(SetTimer(token, -1))

    def emit(self, kind: str, value: Any) -> None:
        self._effects.append(Emit(kind, value))

    def refuse(self, reason: str) -> None:
        """Something from outside was not accepted."""
        self.emit("refused", reason)

    def drain(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
