"""What behaviour analysis needs of prompts, arguments and outputs, without their text.

A sender calls this beside its agent and puts the results on its spans (`tocsin.tool.args`, `tocsin.prompt.signature`);
the receiver calls it on raw text that arrives all the same. Kept are keyed hashes, coarse types, lengths, and whether
an argument's value had been seen in the user's request or in an earlier tool output of the session: the trace that
injected instructions leave (an argument that came from a document rather than from the user).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast

MAX_ARGUMENTS: Final = 64  # per call
MAX_ITEMS: Final = 16  # of one list argument
MAX_NAME_CHARS: Final = 64
MAX_TEXT_CHARS: Final = 65_536  # of one prompt, value or output
MAX_SEEN: Final = 50_000  # words and pairs of words remembered per side of a session
MAX_PROMPT_WORDS: Final = 64
PROMPT_BUCKETS: Final = 4_096
SHORT_CHARS: Final = 24
MID_CHARS: Final = 80

_TYPES: Final = (
    ("num", re.compile(r"[+-]?\d{1,18}(?:\.\d{1,18})?")),
    ("date", re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?(?:Z|[+-]\d{2}:?\d{2})?")),
    ("email", re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}\.[A-Za-z]{2,24}")),
    ("iban", re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{10,30}")),
    ("url", re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.)\S{1,2048}")),
    ("path", re.compile(r"(?:~?/|\.{1,2}/|[A-Za-z]:\\)[^\n]{0,1024}")),
)
# Runs of ASCII letters and digits, or single other letters: scripts without blanks still split.
_TOKENS: Final = re.compile(r"[a-z0-9_]+|[^\x00-\x7f\s]")
_WORDS: Final = re.compile(r"[^\W\d_]{4,}")
# Words of a request that say nothing about the task.
_COMMON: Final = frozenset(
    re.findall(
        r"\w+",
        """
        about above after again also been before being below between both could does doing down during each from further
        have having here into itself just more most much must need only other over please same should some such than
        that their them then there these they this those through under until very want were what when where which while
        will with would your yours
        """,
    )
)
_RESERVED: Final = str.maketrans({":": "_", "|": "_"})


class SessionDigest:
    """Digests of one session, in the order in which things happen. `salt` is the deployment's secret key.

    With one salt per fleet the same value has the same hash at every agent, which is what lets a coordinated attack
    show; without the salt short values cannot be guessed from their hashes. Text is not retained: only hashes of
    words and of pairs of neighbouring words, so 'seen before' is decided word by word.
    """

    def __init__(self, salt: bytes, max_seen: int = MAX_SEEN) -> None:
        self._max_seen = max_seen
        self._key = hashlib.blake2b(salt, digest_size=32).digest()
        self._prompt: set[int] = set()
        self._output: set[int] = set()

    def prompt(self, text: str) -> str:
        """Take in a user's request; returns its signature: blank-separated, rising numbers of hashed words."""
        text = text[:MAX_TEXT_CHARS].casefold()
        self._remember(self._prompt, text)
        words = sorted({word for word in _WORDS.findall(text) if word not in _COMMON})[:MAX_PROMPT_WORDS]
        return " ".join(map(str, sorted({self._hash("word", word, 4) % PROMPT_BUCKETS for word in words})))

    def call(self, name: str, args: Mapping[str, Any]) -> str:
        """Digest of the arguments of a call of tool `name`: `name:type:hash:P:T:len|...`, '' where it has none.

        List items count as arguments of the same name; maps within become `name.key`.
        """
        del name  # the argument's own name is enough; the tool's name is on the span
        parts: list[str] = []
        for key, value in _flattened(args):
            text = str(value)[:MAX_TEXT_CHARS]
            seen = _tokens(text.casefold())
            in_prompt = len(text) > 1 and _within(seen, self._prompt)
            in_output = len(text) > 1 and _within(seen, self._output)
            digest = f"{self._hash('value', text, 8):016x}"
            label = key.translate(_RESERVED)[:MAX_NAME_CHARS]
            parts.append(f"{label}:{type_of(value)}:{digest}:{in_prompt:d}:{in_output:d}:{len(text)}")
            if len(parts) == MAX_ARGUMENTS:
                break
        return "|".join(parts)

    def output(self, text: str) -> None:
        """Take in what a tool returned."""
        self._remember(self._output, text[:MAX_TEXT_CHARS].casefold())

    def _remember(self, seen: set[int], text: str) -> None:
        kept = _tokens(text)[: max(0, self._max_seen - len(seen)) // 2]
        seen.update(map(hash, kept))
        seen.update(map(hash, pairwise(kept)))

    def _hash(self, domain: str, text: str, size: int) -> int:
        data = domain.encode() + b"\x00" + text.encode("utf-8", "replace")
        return int.from_bytes(hashlib.blake2b(data, digest_size=size, key=self._key).digest(), "big")


def type_of(value: Any) -> str:
    """Coarse type of an argument's value: one of `ARG_TYPES`."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "num"
    if isinstance(value, list | tuple):
        return "list"
    if not isinstance(value, str) or not value.strip():
        return "other"
    stripped = value.strip()
    for name, pattern in _TYPES:
        if pattern.fullmatch(stripped):
            return name
    if len(value) <= SHORT_CHARS:
        return "short"
    return "mid" if len(value) <= MID_CHARS else "long"


def _flattened(args: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in args.items():
        name = f"{prefix}{key}"
        for item in cast(Sequence[Any], value)[:MAX_ITEMS] if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Mapping) and depth < 2:
                yield from _flattened(cast(Mapping[str, Any], item), f"{name}.", depth + 1)
            else:
                yield name, item


def _tokens(text: str) -> list[str]:
    return _TOKENS.findall(text)


def _within(tokens: list[str], seen: set[int]) -> bool:
    """All words, and all pairs of neighbours, were seen."""
    if not tokens:
        return False
    return all(hash(token) in seen for token in tokens) and all(hash(pair) in seen for pair in pairwise(tokens))
