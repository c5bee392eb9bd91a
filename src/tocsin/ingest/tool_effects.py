"""Which side effect a call of a tool has: what the operator says, else the span, else MCP annotations, else its name.

The operator comes first because the rest is told by whoever sends the span: a hijacked agent that calls its upload a
read would not be judged by it. The file is TOML, patterns may hold `*`, the longest that fits wins:

    [effects]
    lookup_invoice = "read"
    "crm.*" = "write"
    "*.export" = "egress"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

from tocsin.errors import ConfigError
from tocsin.ingest import names
from tocsin.ingest.catalogue import EFFECTS, effect_of
from tocsin.model.events import Effect

MAX_TOOLS: Final = 10_000
MAX_PATTERNS: Final = 200  # with a `*`: each unknown tool is compared with all of them once
_REMEMBERED: Final = 16_384  # tools; agents choose the names
_STATABLE: Final = ("read", "write", "egress")
_ANNOTATIONS: Final = (
    (names.MCP_READ_ONLY[0], int(Effect.READ)),
    (names.MCP_OPEN_WORLD[0], int(Effect.EGRESS)),
    (names.MCP_DESTRUCTIVE[0], int(Effect.WRITE)),
)


class ToolEffects:
    """Side effects by tool. `stated`: tool or pattern -> 'read', 'write' or 'egress', as `read_effects` gives them."""

    def __init__(self, stated: Mapping[str, str] | None = None) -> None:
        known: Mapping[str, str] = stated or {}
        self._exact = {tool: int(EFFECTS[effect]) for tool, effect in known.items() if "*" not in tool}
        patterns = sorted((tool for tool in known if "*" in tool), key=lambda tool: (-len(tool), tool))
        self._patterns = [(_compiled(tool), int(EFFECTS[known[tool]])) for tool in patterns]
        self._by_operator = lru_cache(_REMEMBERED)(self._look_up)

    def of(self, attributes: Mapping[str, Any], tool: str) -> int:
        """Number of the `Effect` of a call of `tool` by a span with these attributes."""
        if self._exact or self._patterns:
            decided = self._by_operator(tool)
            if decided is not None:
                return decided
        stated = attributes.get(names.TOOL_EFFECT[0])
        if isinstance(stated, str) and stated in EFFECTS:
            return int(EFFECTS[stated])
        for name, effect in _ANNOTATIONS:
            if attributes.get(name) is True:
                return effect
        return _guessed(tool)

    def _look_up(self, tool: str) -> int | None:
        if tool in self._exact:
            return self._exact[tool]
        return next((effect for pattern, effect in self._patterns if pattern.fullmatch(tool)), None)


def read_effects(text: str, file: str) -> dict[str, str]:
    """What a file of effects says. Raises ConfigError; `file` is named in it."""
    remedy = 'write lines such as  send_invoice = "egress"  under [effects]'
    try:
        body: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}", remedy=remedy) from error
    stated = body.pop("effects", None)
    if body or not isinstance(stated, dict):
        raise ConfigError(f"{file} does not consist of one table [effects]", remedy=remedy)
    found: dict[str, str] = {}
    for tool, effect in cast("dict[str, Any]", stated).items():
        if isinstance(effect, dict):
            raise ConfigError(
                f"{file}: {tool[:80]!r} is a table", remedy=f'put names with a dot in quotes: "{tool[:40]}.…"'
            )
        if effect not in _STATABLE:
            raise ConfigError(f"{file}: {tool[:80]!r} is {effect!r:.40}", remedy=f"use one of {', '.join(_STATABLE)}")
        found[tool] = effect
    if len(found) > MAX_TOOLS or sum("*" in tool for tool in found) > MAX_PATTERNS:
        raise ConfigError(
            f"{file} names over {MAX_TOOLS} tools or holds over {MAX_PATTERNS} patterns", remedy="join patterns"
        )
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    """`*` is any run of characters; runs are never given back, so that no name takes long to compare."""
    first, *rest = pattern.split("*")
    if not rest:
        return re.compile(re.escape(pattern))
    *middle, last = rest
    parts = "".join(f"(?>(?s:.)*?{re.escape(part)})" for part in middle if part)
    return re.compile(f"{re.escape(first)}{parts}(?s:.)*{re.escape(last)}")


@lru_cache(maxsize=4096)
def _guessed(tool: str) -> int:
    return int(effect_of(tool))
