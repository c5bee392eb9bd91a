"""The effects of one step, in order."""

from __future__ import annotations

from typing import Any

from tocsin.consensus.messages import ENVELOPE, AnyMessage
from tocsin.model.steps import EVERYONE, Effect, Emit, Persist, Send, SetTimer


class Outbox:
    """Collects effects during a step; `drain` hands them over."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def send(self, to: int, message: AnyMessage) -> None:
        self._effects.append(Send(to, ENVELOPE.encode(message)))

    def broadcast(self, message: AnyMessage) -> None:
        self.send(EVERYONE, message)

    def persist(self, kind: str, record: bytes) -> None:
        self._effects.append(Persist(kind, record))

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
