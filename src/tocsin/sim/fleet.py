"""What a labelled fleet is: agents, their sessions in order, and the truth about each.

A fleet is read in *rounds*, one per quarter of an hour of its clock, so that a sender can interleave agents in fleet
time without holding a whole fleet in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

# Start of a fleet's clock: 2025-01-06 00:00 UTC, in nanoseconds. Fixed, so that equal seeds give equal bytes, and
# past, since a receiver does not believe the future.
FLEET_EPOCH_NS = 1_736_121_600 * 1_000_000_000
# Convention: an agent begins a session every quarter of an hour.
SESSION_SPACING_NS = 900 * 1_000_000_000

CLEAN, RESISTED, HIJACKED = "clean", "resisted", "hijacked"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session: a tool call, or the final answer (`tool == ''`) that ends it."""

    tool: str
    effect: int  # model.events.Effect
    args: dict[str, Any] = {}
    output: str = ""  # the tool's output, or the text of the final answer
    error: str = ""  # error class, '' where the call succeeded
    start_ns: int  # since the session's start
    duration_ns: int
    malicious: bool = False  # truth: carries out an attacker's goal
    input_tokens: int = -1  # -1: not known
    output_tokens: int = -1

    @property
    def is_final(self) -> bool:
        return not self.tool


class FleetSession(msgspec.Struct, frozen=True, kw_only=True):
    """One task of one agent. `steps` ends with the final answer; `label` is the truth about the session."""

    agent_id: str
    role: str
    number: int  # from 0, over baseline and live
    live: bool
    start_ns: int  # Unix epoch
    prompt: str
    steps: tuple[Step, ...]
    label: str = CLEAN
    model: str = ""


class AgentLabel(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about one agent. Event numbers count its steps from 0 over baseline and live; -1: there is none."""

    agent_id: str
    role: str
    compromised: bool
    attack: str = ""
    onset_seq: int = -1  # first event of its first hijacked session
    first_malicious_seq: int = -1
    live_start_seq: int
    events: int


class LabelledFleet(Protocol):
    """A fleet that can be sent and scored."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """Where the behaviour comes from, in a line for people."""
        ...

    def agent_ids(self) -> tuple[str, ...]: ...

    def labels(self) -> tuple[AgentLabel, ...]: ...

    def rounds(self, *, live: bool) -> Iterator[list[FleetSession]]: ...


def label_agent(sessions: list[FleetSession], *, attack: str = "") -> AgentLabel:
    """Derive an agent's label from all its sessions, in order."""
    seq = live_start = 0
    onset = first_malicious = -1
    for session in sessions:
        if not session.live:
            live_start = seq + len(session.steps)
        if session.label == HIJACKED and onset < 0:
            onset = seq
        for step in session.steps:
            if step.malicious and first_malicious < 0:
                first_malicious = seq
            seq += 1
    return AgentLabel(
        agent_id=sessions[0].agent_id,
        role=sessions[0].role,
        compromised=onset >= 0,
        attack=attack if onset >= 0 else "",
        onset_seq=onset,
        first_malicious_seq=first_malicious,
        live_start_seq=live_start,
        events=seq,
    )
