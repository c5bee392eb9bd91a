"""`tocsin config`."""

from __future__ import annotations

from typing import Any

from tocsin.cli.options import settings
from tocsin.cli.out import bold, say, say_json


def run_config(*, as_json: bool) -> None:
    """Print every setting with its value, origin, effect and trade-off."""
    from tocsin.config import knobs

    resolved = settings({})

    def value(key: str, secret: bool) -> Any:
        section, _, name = key.partition(".")
        found = getattr(getattr(resolved.settings, section), name)
        return "***" if secret and found else found

    if as_json:
        say_json(
            [
                {
                    "key": knob.key,
                    "value": value(knob.key, knob.secret),
                    "origin": resolved.origins[knob.key],
                    "default": knob.default,
                    "unit": knob.unit,
                    "effect": knob.effect,
                    "trade_off": knob.trade_off,
                    "variable": knob.variable,
                }
                for knob in knobs()
            ]
        )
        return
    for knob in knobs():
        unit = f" {knob.unit}" if knob.unit else ""
        say(
            bold(f"{knob.key} = {value(knob.key, knob.secret)!r}{unit}")
            + f"   ({resolved.origins[knob.key]}; {knob.variable})"
        )
        say(f"    {knob.effect}")
        if knob.trade_off:
            say(f"    {knob.trade_off}")
