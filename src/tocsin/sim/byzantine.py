"""Lying monitors: honest code, with a lie wrapped around what it states or sends.

A lie is a transformation of evidence, so it fits wherever evidence is about to be signed: the liar's signatures, chain
and votes stay valid, which is the hard case. Garbling what is sent is the easy one: signatures no longer hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from tocsin.errors import InputError
from tocsin.model.evidence import CLIP_NATS, CLIP_Q32, Evidence, Reason
from tocsin.model.steps import Effect, Send

Input_contra = TypeVar("Input_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a liar says, for people: `accused` did it, `protected` did not."""

    monitor: int
    accused: str
    protected: tuple[str, ...]
    stated: int  # how many false statements were handed over for signing

    def __str__(self) -> str:
        vouched = f", and vouched for {len(self.protected)} attackers" if self.protected else ""
        return f"monitor {self.monitor} accused {self.accused} with {CLIP_NATS} nats, the most it can state{vouched}"


class LyingMonitor:
    """The lie of monitor `monitor`: frames `accused`, an innocent agent, and vouches for the agents in `protected`.

    `lie` goes where the monitor hands evidence over. With everything that the monitor states goes the accusation;
    numbers are at the cap, since nothing larger can be encoded. Event numbers stay those that the monitor has seen.
    """

    def __init__(self, monitor: int, accused: str, protected: Iterable[str] = ()) -> None:
        self._monitor = monitor
        self._accused = accused
        self._protected = frozenset(protected)
        if not accused or accused in self._protected:
            raise InputError("a liar accuses one agent and protects others, not the same one")
        self._stated = 0
        self._seq = 0  # of the accused, as far as seen

    def lie(self, items: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
        """What this monitor states instead of `items`; nothing where it had nothing to state."""
        if not items:
            return items
        told: list[Evidence] = []
        accusation: Evidence | None = None
        for item in items:
            if item.agent_id == self._accused:
                self._seq = max(self._seq, item.last_seq)
                accusation = self._frame(item.first_seq, self._seq, item)
            elif item.agent_id in self._protected:
                self._stated += 1
                told.append(msgspec.structs.replace(item, log_e_q32=-CLIP_Q32, log_bf_q32=-CLIP_Q32, reasons=()))
            else:
                told.append(item)
        self._stated += 1
        told.append(accusation or self._frame(self._seq, self._seq, items[-1]))
        return tuple(told)

    def _frame(self, first_seq: int, last_seq: int, like: Evidence) -> Evidence:
        return msgspec.structs.replace(
            like,
            agent_id=self._accused,
            first_seq=first_seq,
            last_seq=last_seq,
            log_e_q32=CLIP_Q32,
            log_bf_q32=CLIP_Q32,
            reasons=(Reason("tool", CLIP_Q32, "invented"),),
        )

    @property
    def claim(self) -> Claim:
        """What it has claimed so far."""
        return Claim(self._monitor, self._accused, tuple(sorted(self._protected)), self._stated)


class Steps(Protocol[Input_contra]):
    """Any sans-I/O machine."""

    def step(self, now_ns: int, event: Input_contra, /) -> list[Effect]: ...


class GarblingMonitor(Steps[Input_contra]):
    """An honest machine whose every message has its last byte flipped: votes and evidence that do not verify."""

    def __init__(self, honest: Steps[Input_contra]) -> None:
        self.honest = honest
        self.garbled = 0

    def step(self, now_ns: int, event: Input_contra, /) -> list[Effect]:
        """The honest machine's effects, with what it sends garbled."""
        return [self._garble(effect) for effect in self.honest.step(now_ns, event)]

    def _garble(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or not effect.body:
            return effect
        self.garbled += 1
        return Send(effect.to, effect.body[:-1] + bytes((effect.body[-1] ^ 0xFF,)))
