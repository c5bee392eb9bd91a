"""Every error tocsin raises on purpose, in one tree, so that a caller can catch one thing.

    TocsinError
     +-- UserError                what the caller gave is wrong: fix the input and call again
     |    +-- ConfigError         a setting is unknown, missing or out of range
     |    +-- InputError          a file, table or argument does not fit
     |    +-- UnknownAgent        no agent of that name has been observed
     +-- WireError                bytes from outside do not decode, or break a limit
     |    +-- TooLarge            ... because they exceed a stated limit
     +-- VerificationError        a signature, hash or proof does not hold
     +-- Unavailable              right input, wrong moment: retry later
     |    +-- QuorumUnavailable   fewer than n - f monitors answered; carries the local evidence
     |    +-- Overloaded          a bounded queue is full
     |    +-- Unreachable         no tocsin answers at that address
     +-- StorageError             the data directory cannot be read or written
          +-- StorageCorrupt      what was read is not what was written
     +-- InternalError            a broken invariant of tocsin's own: a bug, please report it

The message of each names the cause and, in `remedy`, what to do about it.
"""

from __future__ import annotations

from typing import Any


class TocsinError(Exception):
    """Root of the tree. `remedy` is a sentence an operator can act on ('' where there is none)."""

    exit_code = 1

    def __init__(self, cause: str, *, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} ({self.remedy})" if self.remedy else self.cause


class UserError(TocsinError):
    """The caller's input is wrong."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, missing or out of range."""


class InputError(UserError):
    """A file, table or argument does not fit what was asked."""


class UnknownAgent(UserError):
    """No agent of that name has been observed."""


class WireError(TocsinError):
    """Bytes from outside do not decode. The only error a decoder lets escape."""


class TooLarge(WireError):
    """Bytes from outside exceed a stated limit."""


class VerificationError(TocsinError):
    """A signature, hash or proof does not hold."""

    exit_code = 3


class Unavailable(TocsinError):
    """Right input, wrong moment."""

    exit_code = 4


class QuorumUnavailable(Unavailable):
    """Fewer than n - f monitors answered in time.

    `local_evidence` is what this side of the network could state by itself: provisional, never certified.
    """

    def __init__(self, cause: str, *, remedy: str = "", local_evidence: tuple[Any, ...] = ()) -> None:
        super().__init__(cause, remedy=remedy)
        self.local_evidence = local_evidence


class Overloaded(Unavailable):
    """A bounded queue is full. `retry_after_seconds` says when to come back."""

    def __init__(self, cause: str, *, remedy: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(cause, remedy=remedy)
        self.retry_after_seconds = retry_after_seconds


class Unreachable(Unavailable):
    """No tocsin answers at that address."""


class StorageError(TocsinError):
    """The data directory cannot be read or written."""


class StorageCorrupt(StorageError):
    """What was read is not what was written."""


class InternalError(TocsinError):
    """A broken invariant of tocsin's own."""
