"""What a session's earlier spans said, for those that follow: prompt words, and digests of raw text that was sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import msgspec

from tocsin.ingest import names
from tocsin.ingest.digest import SessionDigest

MAX_SESSIONS = 16_384  # prompt words remembered
MAX_DIGESTS = 512  # sessions whose raw text is being digested: each may take most of a megabyte
SEEN_PER_DIGEST = 5_000
MAX_WORDS = 256


@lru_cache(maxsize=4096)  # every span of a session repeats it
def _small_numbers(text: str) -> tuple[int, ...]:
    words = text[: 8 * MAX_WORDS].split()[:MAX_WORDS]
    return tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 10)


class Sessions:
    """Bounded, least recently used first. `key` is whatever names a session to the caller."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._words: OrderedDict[bytes | str, tuple[int, ...]] = OrderedDict()
        self._digests: OrderedDict[bytes | str, SessionDigest] = OrderedDict()
        self._unsaved: dict[bytes | str, tuple[int, ...]] = {}
        self._forgotten: list[bytes | str] = []

    def words(self, key: bytes | str) -> tuple[int, ...]:
        """Hashed words of the session's request; () while unknown."""
        return self._words.get(key, ())

    def signature(self, key: bytes | str, text: str) -> None:
        """Take in a `tocsin.prompt.signature`; what is not a small number in it is left out."""
        found = _small_numbers(text)
        if self._words.get(key) != found:
            self._unsaved[key] = found
        self.restore(key, found)

    def restore(self, key: bytes | str, words: tuple[int, ...]) -> None:
        """The words of a session, as written down earlier."""
        self._words[key] = words
        self._words.move_to_end(key)
        if len(self._words) > MAX_SESSIONS:
            self._forgotten.append(self._words.popitem(last=False)[0])

    def take_unsaved(self) -> tuple[list[bytes | str], dict[bytes | str, tuple[int, ...]]]:
        """Sessions forgotten, and words learned of those still known, since this was asked last."""
        forgotten, unsaved = self._forgotten, self._unsaved
        self._forgotten, self._unsaved = [], {}
        return forgotten, {key: words for key, words in unsaved.items() if key in self._words}

    def digest(self, key: bytes | str) -> SessionDigest:
        """The running digest of a session whose spans carry raw text."""
        digest = self._digests.get(key)
        if digest is None:
            digest = self._digests[key] = SessionDigest(self._salt, SEEN_PER_DIGEST)
            if len(self._digests) > MAX_DIGESTS:
                self._digests.popitem(last=False)
        self._digests.move_to_end(key)
        return digest

    def messages(self, key: bytes | str, raw: Any) -> None:
        """Take in the input messages of a model call: the user's are the request, a tool's are outputs."""
        requests: list[str] = []
        digest = self.digest(key)
        for role, text in _by_role(structure(raw)):
            if role == "user":
                requests.append(text)
            elif role == "tool":
                digest.output(text)
        if requests:
            self.signature(key, digest.prompt("\n".join(requests)))


def structure(raw: Any) -> Any:
    """A value that may be JSON text, decoded; the value itself where it is not."""
    if not isinstance(raw, str) or raw[:1] not in "{[":
        return raw
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return raw


def plain_text(value: Any, depth: int = 0) -> str:
    """All text in a message, part or result, in order."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        parts = cast(Mapping[Any, Any], value)
        named = [parts[key] for key in ("parts", "content", "text", "result", "response") if key in parts]
        value = named or list(parts.values())
    if isinstance(value, list | tuple) and depth < 8:
        return "\n".join(filter(None, (plain_text(item, depth + 1) for item in cast("list[Any]", value))))
    return "" if value is None or isinstance(value, Mapping | list | tuple) else str(value)


def output_length(attributes: Mapping[str, Any]) -> int | None:
    """Characters of a model's or agent's raw output messages, None where there are none."""
    raw = names.first(attributes, names.RAW_OUTPUT)
    return None if raw is None else len(plain_text(structure(raw)))


def _by_role(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        out: list[tuple[str, str]] = []
        for item in cast(list[Any], value):
            role = cast(Mapping[str, Any], item).get("role") if isinstance(item, Mapping) else "user"
            out.append((str(role), plain_text(item)))
        return out
    return [("user", plain_text(value))]
