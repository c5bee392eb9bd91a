"""Settings: precedence, bounds, and errors that name the cause and the nearest known key."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config import Knob, Settings, is_loopback, knobs, resolve
from tocsin.errors import ConfigError

KNOBS = {knob.key: knob for knob in knobs()}
BOUNDED = [knob for knob in KNOBS.values() if knob.type is int]


def value_of(settings: Settings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def test_defaults_hold_where_nothing_is_said():
    resolved = resolve()
    assert resolved.settings == Settings()
    assert set(resolved.origins.values()) == {"default"}
    assert set(resolved.origins) == set(KNOBS)


@given(
    flag=st.none() | st.integers(1, 100),
    variable=st.none() | st.integers(1, 100),
    in_file=st.none() | st.integers(1, 100),
)
def test_flag_over_environment_over_file_over_default(flag: int | None, variable: int | None, in_file: int | None):
    resolved = resolve(
        flags={"consensus.monitors": flag},
        environ={} if variable is None else {"TOCSIN_CONSENSUS_MONITORS": str(variable)},
        toml_text="" if in_file is None else f"[consensus]\nmonitors = {in_file}",
        toml_name="here.toml",
    )
    candidates = [
        (flag, "flag"),
        (variable, "TOCSIN_CONSENSUS_MONITORS"),
        (in_file, "here.toml"),
        (4, "default"),
    ]
    value, origin = next(one for one in candidates if one[0] is not None)
    assert resolved.settings.consensus.monitors == value
    assert resolved.origins["consensus.monitors"] == origin


@pytest.mark.parametrize("knob", BOUNDED, ids=lambda knob: knob.key)
def test_every_number_is_held_to_its_bounds(knob: Knob):
    for edge, beyond in ((knob.bounds["ge"], -1), (knob.bounds["le"], +1)):
        assert value_of(resolve(flags={knob.key: edge}).settings, knob.key) == edge
        with pytest.raises(ConfigError, match=knob.key):
            resolve(flags={knob.key: edge + beyond})


@pytest.mark.parametrize("knob", KNOBS.values(), ids=lambda knob: knob.key)
def test_every_knob_says_what_it_does(knob: Knob):
    assert len(knob.effect) > 10
    assert knob.variable == "TOCSIN_" + knob.key.upper().replace(".", "_")
    if knob.type is int and knob.key not in ("server.port", "consensus.monitors"):
        assert knob.unit, f"{knob.key} is a number of what?"
        assert knob.trade_off, f"{knob.key}: what does turning it cost?"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"toml_text": "[server]\nprot = 1"}, "did you mean 'server.port'"),
        ({"toml_text": "[sever]\nport = 1"}, "did you mean 'server'"),
        ({"toml_text": "server = 1"}, r"write it as \[server\]"),
        ({"toml_text": "[server"}, "not valid TOML"),
        ({"toml_text": "[server]\nport = '1'"}, "Expected `int`"),
        ({"environ": {"TOCSIN_SERVER_PROT": "1"}}, "did you mean 'TOCSIN_SERVER_PORT'"),
        ({"environ": {"TOCSIN_SERVER_PORT": "many"}}, "from TOCSIN_SERVER_PORT"),
        ({"flags": {"server.colour": "red"}}, "unknown setting 'server.colour'"),
        ({"flags": {"server.host": "0.0.0.0"}}, "set server.token"),
        ({"flags": {"data.dir": ""}}, "data.dir"),
    ],
)
def test_what_is_wrong_is_named(sources: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        resolve(**sources)


def test_variables_of_others_are_left_alone():
    assert resolve(environ={"HOME": "/", "TOCSIN_CONFIG": "elsewhere.toml"}).settings == Settings()


def test_another_address_is_allowed_with_a_token_and_the_token_is_never_shown():
    resolved = resolve(flags={"server.host": "0.0.0.0", "server.token": "hunter2"})
    assert resolved.settings.server.token == "hunter2"
    assert "hunter2" not in repr(resolved)
    with pytest.raises(ConfigError) as raised:
        resolve(toml_text="[server]\ntoken = ['hunter2']")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_loopback(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example.org", "127.0.0.1.example.org", ""])
def test_not_loopback(host: str):
    assert not is_loopback(host)


@given(text=st.text(max_size=200))
def test_no_text_in_a_file_escapes_as_another_error(text: str):
    with suppress(ConfigError):
        assert isinstance(resolve(toml_text=text).settings, Settings)
