"""What the columns of a table mean: TOML mappings, the shipped ones, and the choice among them by column names."""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from tocsin.errors import InputError


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A derived feature: column `left` minus column `minus`."""

    left: str
    minus: str


class Columns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column plays which part. '' = the table has none."""

    agent: str = "agent_id"
    seq: str = ""
    time: str = ""
    phase: str = ""
    session: str = ""
    kind: str = ""
    action: str = ""
    effect: str = ""
    group: str = ""
    context: tuple[str, ...] = ()
    arguments: str = ""
    prompt_words: str = ""

    def named(self) -> list[str]:
        """Every column named, in order, without repeats."""
        single = (self.agent, self.seq, self.time, self.phase, self.session, self.kind, self.action, self.effect)
        rest = (self.group, *self.context, self.arguments, self.prompt_words)
        return list(dict.fromkeys(name for name in (*single, *rest) if name))


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shipped mapping fits a table that has all of `columns` and a column like each of `patterns`."""

    columns: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table's meaning. `features` are column names or shell patterns; `derived` adds differences of columns."""

    name: str
    columns: Columns
    match: Match = Match()
    default_kind: str = "call"
    features: tuple[str, ...] = ()
    derived: dict[str, Difference] = {}


SEQ_NAMES = ("seq", "sequence", "event_number", "index", "step")
TIME_NAMES = ("t", "time", "timestamp", "ts", "event_time")
AGENT_NAMES = ("agent_id", "agent", "service", "host", "instance")
GROUP_NAMES = ("role", "group", "team", "tenant")


def load_mapping(path: Path) -> Mapping:
    """Read a mapping from a TOML file. Raises `InputError` naming what does not fit."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"mapping {path} cannot be read: {error}", remedy="give a UTF-8 TOML file") from error
    return parse_mapping(text, str(path))


def parse_mapping(text: str, origin: str) -> Mapping:
    """Mapping from TOML text; `origin` names it in errors."""
    try:
        return msgspec.convert(tomllib.loads(text), Mapping)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"mapping {origin} is not valid: {error}", remedy="see docs/detection.md, Tables") from error


def shipped_mappings() -> list[Mapping]:
    """The mappings that come with the package, in alphabetical order of their files."""
    folder = resources.files("tocsin.ingest").joinpath("mappings")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return [parse_mapping(entry.read_text(encoding="utf-8"), entry.name) for entry in files]


def check_columns(mapping: Mapping, columns: Sequence[str]) -> None:
    """Raise `InputError` if `mapping` names a column that is not among `columns`."""
    needed = mapping.columns.named()
    needed += [name for name in mapping.features if not any(mark in name for mark in "*?[")]
    needed += [name for part in mapping.derived.values() for name in (part.left, part.minus)]
    for name in needed:
        if name not in columns:
            raise InputError(
                f"mapping {mapping.name!r} names column {name!r}, which the table does not have",
                remedy=nearest(name, columns),
            )


def nearest(name: str, columns: Sequence[str]) -> str:
    """A remedy naming the nearest known column."""
    close = difflib.get_close_matches(name, list(columns), n=1, cutoff=0.4)
    known = ", ".join(columns[:12])
    return f"did you mean {close[0]!r}? columns: {known}" if close else f"columns: {known}"


def choose_mapping(columns: Sequence[str], kinds: dict[str, str]) -> Mapping:
    """The shipped mapping that asks for most and is satisfied by `columns`, else one guessed from names and `kinds`.

    `kinds` says for each column whether it is 'number', 'text' or 'other'.
    """
    fitting = [mapping for mapping in shipped_mappings() if _fits(mapping, columns)]
    if fitting:
        return max(fitting, key=lambda mapping: len(mapping.match.columns) + len(mapping.match.patterns))
    return guess_mapping(columns, kinds)


def _fits(mapping: Mapping, columns: Sequence[str]) -> bool:
    match = mapping.match
    has_all = all(name in columns for name in (*match.columns, mapping.columns.agent))
    return has_all and all(fnmatch.filter(columns, pattern) for pattern in match.patterns)


def guess_mapping(columns: Sequence[str], kinds: dict[str, str]) -> Mapping:
    """A mapping for a table of no known kind: number columns are features, the first free text column is the action."""

    def first(names: Sequence[str]) -> str:
        return next((name for name in names if name in columns), "")

    agent = first(AGENT_NAMES)
    if not agent:
        raise InputError(
            "the table has no column that names the agent", remedy=f"call it agent_id; {nearest('agent_id', columns)}"
        )
    seq, time, group = first(SEQ_NAMES), first(TIME_NAMES), first(GROUP_NAMES)
    if not seq and not time:
        raise InputError("the table orders nothing: it has neither seq nor a time column", remedy="add a column seq")
    phase = "phase" if "phase" in columns else ""
    session = first(("session", "session_id", "trace_id", "conversation"))
    taken = {agent, seq, time, group, phase, session}
    action = next((name for name in columns if name not in taken and kinds[name] == "text"), "")
    features = tuple(name for name in columns if name not in taken and kinds[name] == "number")
    if not features and not action:
        raise InputError(
            "the table has no number and no text column beside the agent and its order", remedy="add what to watch"
        )
    parts: dict[str, Any] = {"agent": agent, "seq": seq, "time": time, "phase": phase, "group": group}
    parts |= {"action": action, "session": session if action else ""}
    kind = "call" if action else "metric"
    return Mapping(name="guessed", columns=Columns(**parts), default_kind=kind, features=features)


def feature_columns(mapping: Mapping, columns: Sequence[str]) -> list[str]:
    """Column names that `mapping.features` stands for, patterns expanded, in table order."""
    wanted: list[str] = []
    for pattern in mapping.features:
        wanted += fnmatch.filter(columns, pattern) if any(mark in pattern for mark in "*?[") else [pattern]
    return [name for name in columns if name in wanted]
