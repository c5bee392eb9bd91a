"""Asking a running tocsin over its JSON interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from tocsin.errors import InputError, TocsinError, UnknownAgent, Unreachable

TIMEOUT_SECONDS = 30
MAX_ERROR_BYTES = 1 << 16


def ask(url: str, path: str, *, token: str = "", body: bytes | None = None) -> Any:
    """GET, or POST where there is a body; the decoded JSON answer.

    Raises:
        InputError: `url` is not an HTTP address.
        Unreachable: nothing answers there, or not as a tocsin does.
        TocsinError: what the service itself reported (UnknownAgent where that is the reason).
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r:.200} is not an HTTP address", remedy="for example http://127.0.0.1:4318")
    request = urllib.request.Request(url.rstrip("/") + path, data=body, headers={"accept": "application/json"})  # noqa: S310 - scheme checked
    if body is not None:
        request.add_header("content-type", "application/json")
    if token:
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - scheme checked
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _reported(url, error) from error
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"no tocsin answers at {url}: {error}", remedy="start one with `tocsin up`, or name it with --url"
        ) from error


def _reported(url: str, error: urllib.error.HTTPError) -> TocsinError:
    if error.code == 401:
        return Unreachable(f"{url} asks for a token", remedy="give it with --token or TOCSIN_SERVER_TOKEN")
    try:
        told = json.loads(error.read(MAX_ERROR_BYTES))
        kind = UnknownAgent if told["error"] == "UnknownAgent" else TocsinError
        return kind(str(told["cause"]), remedy=str(told["remedy"]))
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"{url} answered {error.code}", remedy="is it a tocsin?")
