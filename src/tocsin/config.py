"""Settings: what an operator may turn, what turning it does, and where a value came from.

Order of precedence: flags, then `TOCSIN_SECTION_KEY` in the environment, then `tocsin.toml`, then the defaults below.
Nothing here reads a file or the environment: `resolve` is given both, so that a test or another host can give its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from tocsin.errors import ConfigError

ENVIRONMENT_PREFIX = "TOCSIN_"
CONFIG_FILE_VARIABLE = "TOCSIN_CONFIG"  # names the TOML file; read by the command line, not a setting
_LOOPBACK = ("localhost", "::1")


def _knob(effect: str, *, unit: str = "", trade_off: str = "", secret: bool = False, **bounds: Any) -> Meta:
    """Bounds that msgspec enforces, and the words that `tocsin config` prints."""
    return Meta(
        description=effect, extra={"unit": unit, "trade_off": trade_off, "secret": secret, "bounds": bounds}, **bounds
    )


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where telemetry is received and the interface is served."""

    host: Annotated[str, _knob("address to listen on", min_length=1)] = "127.0.0.1"
    port: Annotated[
        int, _knob("TCP port of OTLP/HTTP and of the interface; 0 lets the system choose", ge=0, le=65535)
    ] = 4318
    token: Annotated[
        str,
        _knob(
            "bearer token that senders and readers must present; empty asks for none",
            trade_off="may be empty only on a loopback address, where every local user can then send and read",
            secret=True,
        ),
    ] = ""

    def __repr__(self) -> str:  # a settings object gets logged; its token must not be
        token = "***" if self.token else ""
        return f"Server(host={self.host!r}, port={self.port}, token={token!r})"


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where what must survive a restart is kept."""

    dir: Annotated[str, _knob("directory of the ingest log, monitor journals, keys and certificates", min_length=1)] = (
        "tocsin-data"
    )


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an agent's behaviour stops being learned and starts being judged."""

    warmup_events: Annotated[
        int,
        _knob(
            "events of an agent taken as its normal behaviour, before any of it is judged",
            unit="events",
            trade_off="more: baselines are sharper but an agent goes unwatched longer, and an attack during warm-up is "
            "learned as normal; fewer: more is borrowed from its peers",
            ge=1,
            le=10_000_000,
        ),
    ] = 200


class Tools(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator knows of the agents' tools."""

    effects_file: Annotated[
        str,
        _knob(
            "TOML file whose table [effects] says which tools read, write or send (egress); empty: none",
            trade_off="comes before what spans say of themselves, so an agent cannot call its upload a read",
        ),
    ] = ""


class Detection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much evidence it takes."""

    alpha_ppm: Annotated[
        int,
        _knob(
            "target share of false alarms among alarms over the whole fleet (closed e-BH, Xu and others 2025)",
            unit="parts per million",
            trade_off="lower: fewer false alarms, later and fewer detections; needs e-values of fleet size / alpha",
            ge=1,
            le=500_000,
        ),
    ] = 10_000
    prior_ppm: Annotated[
        int,
        _knob(
            "probability, before any evidence, that an agent is compromised; shifts displayed confidence only",
            unit="parts per million",
            trade_off="changes what confidence people see, never which agents are flagged",
            ge=1,
            le=999_999,
        ),
    ] = 10_000


class Consensus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How independent monitors come to one verdict."""

    monitors: Annotated[
        int,
        _knob(
            "monitors that analyse and vote; floor((n - 1) / 3) of them may lie or be silent",
            trade_off="each analyses every event, so the cost is n-fold; below 4 no lie is tolerated",
            ge=1,
            le=100,
        ),
    ] = 4
    proposal_delay_ms: Annotated[
        int,
        _knob(
            "how long a leader gathers evidence before it proposes",
            unit="milliseconds",
            trade_off="longer: fewer, larger certificates; added in full to the time from behaviour to verdict",
            ge=0,
            le=10_000,
        ),
    ] = 10
    view_timeout_ms: Annotated[
        int,
        _knob(
            "how long monitors wait for a leader before they replace it; doubles with each replacement",
            unit="milliseconds",
            trade_off="shorter: a dead leader costs less time; too short for the network: good leaders are replaced",
            ge=50,
            le=600_000,
        ),
    ] = 500
    leader_timeout_ms: Annotated[
        int,
        _knob(
            "how long monitors wait for a leader of whom they hear nothing; the view timeout where that is shorter",
            unit="milliseconds",
            trade_off="shorter: a dead leader costs less; shorter than proposals take: good leaders are replaced",
            ge=50,
            le=600_000,
        ),
    ] = 500


class Coordination(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agents that move together are looked for in what each did in windows of event time, a round at a time."""

    window_seconds: Annotated[
        int,
        _knob(
            "length of the windows in which what an agent does is counted",
            unit="seconds",
            trade_off="agents that do something in less than half of the windows are not seen; longer windows see "
            "slower groups, later",
            ge=1,
            le=86_400,
        ),
    ] = 10
    windows: Annotated[
        int,
        _knob(
            "windows that a round looks back on; what agents do in their first round counts as normal",
            unit="windows",
            trade_off="more: weaker groups are seen, later; memory and time of a round grow in proportion",
            ge=64,
            le=1024,
        ),
    ] = 256
    every_windows: Annotated[
        int,
        _knob(
            "windows from one round to the next; at most as many as a round looks back on count",
            unit="windows",
            trade_off="fewer: groups are seen sooner, at the price of seconds of a core each time with 10,000 agents",
            ge=1,
            le=1024,
        ),
    ] = 64


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that keep hostile or runaway telemetry from exhausting the machine."""

    max_agents: Annotated[
        int,
        _knob(
            "agents followed; events of further ones are refused and counted",
            unit="agents",
            trade_off="memory grows in proportion, in every monitor",
            ge=1,
            le=1_000_000,
        ),
    ] = 20_000
    late_seconds: Annotated[
        int,
        _knob(
            "how far behind its agent's newest event an event may be",
            unit="seconds",
            trade_off="longer: slow exporters lose nothing; a replayed event is recognised for that long only",
            ge=0,
            le=86_400,
        ),
    ] = 900
    queue_events: Annotated[
        int,
        _knob(
            "events waiting to be analysed before senders are told to come back later",
            unit="events",
            trade_off="longer: bursts are absorbed, at the price of memory and of a later verdict",
            ge=1,
            le=100_000_000,
        ),
    ] = 200_000


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Immutable: a process runs on the ones it started with."""

    server: Server = Server()
    data: Data = Data()
    learning: Learning = Learning()
    tools: Tools = Tools()
    detection: Detection = Detection()
    consensus: Consensus = Consensus()
    coordination: Coordination = Coordination()
    limits: Limits = Limits()


class Knob(msgspec.Struct, frozen=True):
    """One documented setting, as `tocsin config` prints it."""

    key: str  # 'section.name'
    type: type
    default: str | int
    effect: str
    unit: str
    trade_off: str
    bounds: dict[str, Any]  # msgspec's names: ge, le, min_length
    secret: bool

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.key.replace(".", "_").upper()


class Resolved(msgspec.Struct, frozen=True):
    """Settings, and for each key where its value came from."""

    settings: Settings
    origins: dict[str, str]  # key -> 'default', name of the file, name of the variable, or 'flag'


def knobs() -> tuple[Knob, ...]:
    """Every setting there is, in the order of declaration."""
    found: list[Knob] = []
    defaults = Settings()
    for section in Settings.__struct_fields__:
        group: msgspec.Struct = getattr(defaults, section)
        hints = get_type_hints(type(group), include_extras=True)
        for name in group.__struct_fields__:
            kind, meta = get_args(hints[name])
            found.append(
                Knob(
                    key=f"{section}.{name}",
                    type=kind,
                    default=getattr(group, name),
                    effect=meta.description,
                    unit=meta.extra["unit"],
                    trade_off=meta.extra["trade_off"],
                    bounds=meta.extra["bounds"],
                    secret=meta.extra["secret"],
                )
            )
    return tuple(found)


def resolve(
    *,
    flags: Mapping[str, str | int | None] | None = None,
    environ: Mapping[str, str] | None = None,
    toml_text: str = "",
    toml_name: str = "tocsin.toml",
) -> Resolved:
    """Settings from all sources.

    `flags` maps 'section.name' to a value; None means that the flag was not given. `environ` is the process
    environment: only names that start with TOCSIN_ are looked at. Raises ConfigError that names the setting,
    its source, what is wrong, and for an unknown one the nearest known.
    """
    known = {knob.key: knob for knob in knobs()}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")

    def take(entries: Mapping[str, Any], origin_of: Mapping[str, str], *, strict: bool) -> None:
        for key, value in entries.items():
            values[key] = _converted(known[key], value, origin_of[key], strict=strict)
            origins[key] = origin_of[key]

    from_file = _flattened(toml_text, toml_name, known)
    take(from_file, dict.fromkeys(from_file, toml_name), strict=True)
    from_environ = _from_environ(environ or {}, known)
    take(from_environ, {key: known[key].variable for key in from_environ}, strict=False)
    from_flags = {key: value for key, value in (flags or {}).items() if value is not None}
    for key in from_flags:
        _require_known(key, known, "flag")
    take(from_flags, dict.fromkeys(from_flags, "flag"), strict=False)

    sections: dict[str, dict[str, Any]] = {section: {} for section in Settings.__struct_fields__}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    settings = msgspec.convert(sections, Settings)
    _require_token_beyond_loopback(settings)
    return Resolved(settings=settings, origins=origins)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost is taken to be reachable."""
    octets = host.split(".")
    return host in _LOOPBACK or (octets[0] == "127" and len(octets) == 4 and all(one.isdigit() for one in octets))


def _converted(knob: Knob, value: Any, origin: str, *, strict: bool) -> Any:
    annotation = Annotated[knob.type, Meta(**knob.bounds)]
    try:
        return msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError as error:
        shown = "***" if knob.secret else repr(value)[:80]
        raise ConfigError(
            f"{knob.key} = {shown} (from {origin}): {error}", remedy=f"{knob.effect}; the default is {knob.default!r}"
        ) from error


def _flattened(toml_text: str, toml_name: str, known: Mapping[str, Knob]) -> dict[str, Any]:
    """'section.name' -> value of a TOML document, every key known."""
    try:
        document = tomllib.loads(toml_text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{toml_name} is not valid TOML: {error}", remedy="correct the file") from error
    flat: dict[str, Any] = {}
    sections = Settings.__struct_fields__
    for section, table in document.items():
        if section not in sections:
            raise _unknown(section, "section", sections, toml_name)
        if not isinstance(table, dict):
            raise ConfigError(f"{section} in {toml_name} is not a table", remedy=f"write it as [{section}]")
        for name, value in table.items():  # pyright: ignore[reportUnknownVariableType]: TOML values are anything
            key = f"{section}.{name}"
            _require_known(key, known, toml_name)
            flat[key] = value
    return flat


def _from_environ(environ: Mapping[str, str], known: Mapping[str, Knob]) -> dict[str, str]:
    by_variable = {knob.variable: key for key, knob in known.items()}
    found: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_FILE_VARIABLE:
            continue
        if variable not in by_variable:
            raise _unknown(variable, "variable", by_variable, "the environment")
        found[by_variable[variable]] = environ[variable]
    return found


def _require_known(key: str, known: Mapping[str, Knob], origin: str) -> None:
    if key not in known:
        raise _unknown(key, "setting", known, origin)


def _unknown(name: str, what: str, known: Iterable[str], origin: str) -> ConfigError:
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "`tocsin config` lists every setting"
    return ConfigError(f"unknown {what} {name[:80]!r} in {origin}", remedy=remedy)


def _require_token_beyond_loopback(settings: Settings) -> None:
    server = settings.server
    if not server.token and not is_loopback(server.host):
        raise ConfigError(
            f"server.host = {server.host!r} is reachable from other machines and server.token is empty",
            remedy="set server.token (or TOCSIN_SERVER_TOKEN), or listen on 127.0.0.1",
        )
