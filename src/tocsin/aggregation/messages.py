"""Inputs and effects of an aggregator. Node ids are strings, unlike monitors, which are numbers."""

from __future__ import annotations

import msgspec


class Arrived(msgspec.Struct, frozen=True):
    """A packet from below (see wire/update.py); its content is not trusted.

    `child` is whom the host saw it come from, "" where it cannot tell: such a packet may add to a sum, by the name
    that is in it, but not announce an epoch.
    """

    body: bytes
    child: str = ""


class Attach(msgspec.Struct, frozen=True):
    """The tree has placed `child` below this node: accept its updates.

    If it is there already, it has begun anew elsewhere: what it said before stays until its first snapshot.
    """

    child: str


class Detach(msgspec.Struct, frozen=True):
    """`child` is no longer below this node: remove exactly what it contributed."""

    child: str


class Adopt(msgspec.Struct, frozen=True):
    """Report to `parent` from now on, beginning with a snapshot."""

    parent: str


class ResendAsked(msgspec.Struct, frozen=True):
    """The parent has lost track of this node: send a snapshot at the next flush."""


class Flush(msgspec.Struct, frozen=True):
    """Send upwards what has changed since the last flush."""


class Upward(msgspec.Struct, frozen=True):
    """Effect: deliver `body` as `Arrived` from `child`, which states it, to node `to`, one level up."""

    to: str
    body: bytes
    child: str


class FromAbove(msgspec.Struct, frozen=True):
    """A packet about the whole fleet, on its way down (see aggregation/fleet_view.py); its content is not trusted."""

    body: bytes


class Downward(msgspec.Struct, frozen=True):
    """Effect: deliver `body` as `FromAbove` to every child, one level down."""

    body: bytes


class AskResend(msgspec.Struct, frozen=True):
    """Effect: deliver `ResendAsked` to `child`."""

    child: str


Input = Arrived | Attach | Detach | Adopt | ResendAsked | Flush | FromAbove
Output = Upward | Downward | AskResend
