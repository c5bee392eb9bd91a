"""`tocsin replay`."""

from __future__ import annotations

import csv
import os
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tocsin.cli.out import bold, counted, decided_by, note, percent, safe, say, say_json
from tocsin.model.evidence import Q32

if TYPE_CHECKING:
    from tocsin.ingest.tables import Decoded
    from tocsin.runtime.engine import Engine
    from tocsin.runtime.replay import Predicted, ReplayResult, Rows

SHOWN = 10
PROGRESS_SECONDS = 1.0
BATCH_ROWS = 4096  # judged and agreed on together: the grain of verdicts, not of predictions
BASELINE_SHARE = 0.3  # of each agent's events, where the table has no phase column


def run_replay(
    file: Path,
    *,
    mapping: Path | None,
    predictions: Path | None,
    data: Path | None,
    monitors: int,
    alpha: float,
    as_json: bool,
) -> None:
    """Replay a table and print what the monitors found."""
    from tocsin.ingest.tables import decode_table, load_table
    from tocsin.runtime.clock import VirtualClock
    from tocsin.runtime.datadir import open_datadir
    from tocsin.runtime.engine import Engine
    from tocsin.runtime.rehearsal import NOTICE, rehearse_once
    from tocsin.runtime.replay import replay
    from tocsin.trust.keyring import deterministic_signers, roster_of

    started = time.monotonic()
    if predictions:
        _demand_writable(predictions)
    if data:
        _demand_new(data)
    table = decode_table(load_table(file), mapping, BASELINE_SHARE, str(file))
    for line in table.notes:
        note(safe(line))
    rehearse_once(lambda: note(NOTICE))
    alpha_ppm = round(alpha * 1e6)
    with ExitStack() as stack:
        if data is None:
            signers = deterministic_signers(secrets.token_bytes(32), monitors)
            roster = roster_of("replay", signers, alpha_ppm=alpha_ppm)
        else:
            _demand_new(data)  # again: reading a large table takes long enough for another replay to finish here
            directory = open_datadir(data, monitors=monitors, alpha_ppm=alpha_ppm, prior_ppm=10_000)
            stack.callback(directory.close)
            roster, signers = directory.roster, directory.signers
        engine = Engine(roster, signers, VirtualClock())
        write = stack.enter_context(_predictions(predictions)) if predictions else None
        result = replay(
            engine,
            _batches(table),
            fleet_size=len(table.agents),
            predicted=write,
            progress=_progress(len(table.seq)),
        )
        certificates = _keep(engine, data, result) if data is not None else []
    seconds = time.monotonic() - started
    _report(result, file, seconds, predictions, data, certificates, table.refused, as_json=as_json)


def _batches(table: Decoded) -> Iterator[Rows]:
    for start in range(0, len(table.seq), BATCH_ROWS):
        stop = min(start + BATCH_ROWS, len(table.seq))
        yield table.batch(start, stop), table.seq[start:stop]


def _keep(engine: Engine, data: Path, result: ReplayResult) -> list[Path]:
    """Write certificates, roster and the fleet's picture into the data directory."""
    from tocsin.runtime.certificates import certificate_file, store_verdict
    from tocsin.runtime.pictures import fleet_picture
    from tocsin.runtime.store import Store

    store = Store(data / "store.db")
    try:
        for verdict in result.verdicts:
            store_verdict(store, data / "certificates", verdict, engine.roster)
        store.put_picture("fleet", time.time_ns() // 1_000_000, fleet_picture(engine, store))
    finally:
        store.close()
    return [certificate_file(data / "certificates", verdict) for verdict in result.verdicts]


def _demand_new(data: Path) -> None:
    """Raise InputError unless `data` is absent or empty: its keys must not certify two histories."""
    from tocsin.errors import InputError, StorageError

    try:
        used = data.is_dir() and any(data.iterdir())
    except OSError as error:
        raise StorageError(f"cannot read {data}: {error.strerror}", remedy="choose another --data directory") from error
    if used:
        raise InputError(
            f"{data} is not empty: its keys would certify a second history beside the first",
            remedy="give --data a new or empty directory for every replay",
        )


def _demand_writable(file: Path) -> None:
    """Raise InputError where predictions cannot go, before a long read."""
    from tocsin.errors import InputError

    try:
        directory, beside = file.is_dir(), file.parent.is_dir()
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", remedy="choose a writable place") from error
    if directory:
        raise InputError(f"cannot write {file}: it is a directory", remedy="name a file for --predictions")
    if not beside:
        raise InputError(f"cannot write {file}: {file.parent} is not a directory", remedy="choose a writable place")


@contextmanager
def _predictions(file: Path) -> Generator[Callable[[Predicted], None]]:
    """A writer of agent_id,seq,score,alarm rows. A file appears under its name only when it is whole.

    Devices and pipes are written to as they are, and so is standard output under any of its names.
    """
    from tocsin.errors import InputError

    shared = _is_standard_output(file)
    straight = shared or (file.exists() and not file.is_file())
    target = Path(os.path.realpath(file))  # a link keeps pointing where it does
    temporary = target.with_name(target.name + ".part")
    try:
        if shared:
            out = os.fdopen(os.dup(sys.stdout.fileno()), "w", newline="")
        else:
            out = (file if straight else temporary).open("w", newline="")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", remedy="choose a writable place") from error
    try:
        with _closing(out, file):
            yield _writer(out, file)
        if not straight:
            temporary.replace(target)
    except BaseException:
        if not straight:
            temporary.unlink()
        raise


def _is_standard_output(file: Path) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such file yet, or a standard output that is no file
        return False


def _writer(out: TextIO, file: Path) -> Callable[[Predicted], None]:
    lines = csv.writer(out, lineterminator="\n")
    with _full(file):
        lines.writerow(("agent_id", "seq", "score", "alarm"))

    def write(rows: Predicted) -> None:
        codes: list[int] = rows.agent.tolist()
        agents = [rows.agents[code] for code in codes]
        scores = [f"{score:.6g}" for score in rows.score.tolist()]
        with _full(file):
            lines.writerows(zip(agents, rows.seq.tolist(), scores, rows.alarm.astype(int).tolist(), strict=True))

    return write


@contextmanager
def _closing(out: TextIO, file: Path) -> Generator[None]:
    """Close `out` at the end; what could not be written is an error unless there is one already."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            out.close()
        raise
    with _full(file):
        out.close()


@contextmanager
def _full(file: Path) -> Generator[None]:
    """A full disk or device is a sentence; a reader who has gone is not an error of the file."""
    from tocsin.errors import StorageError

    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}", remedy="make room, or write elsewhere") from error


def _progress(total: int) -> Callable[[int], None]:
    shown = time.monotonic()

    def progress(done: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PROGRESS_SECONDS and sys.stderr.isatty():
            shown = time.monotonic()
            print(f"\r  {done:,} of {total:,} events", end="", file=sys.stderr, flush=True)
        if done >= total and sys.stderr.isatty():
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)

    return progress


def _say_unconfirmed(alarms: Mapping[str, int], certified: set[str]) -> None:
    """Agents with alarms, event by event, of which the monitors certified none; docs/replay.md says how that comes."""
    left = sorted(((name, events) for name, events in alarms.items() if name not in certified), key=lambda a: -a[1])
    if left:
        shown = ", ".join(f"{safe(name, 60)}, {counted(events, 'event')}" for name, events in left[:SHOWN])
        more = f"; and {len(left) - SHOWN:,} more" if len(left) > SHOWN else ""
        say(f"{counted(len(left), 'agent')} had alarms that no verdict confirmed: {shown}{more}")


def _report(
    result: ReplayResult,
    file: Path,
    seconds: float,
    predictions: Path | None,
    data: Path | None,
    certificates: list[Path],
    refused: dict[str, int],
    *,
    as_json: bool,
) -> None:
    from tocsin.runtime.hints import explain_command, verify_command

    flagged = [v for v in result.verdicts if v.decision == "compromised"]
    if as_json:
        say_json(
            {
                "file": str(file),
                "events": result.events,
                "live_events": result.live_events,
                "agents": result.agents,
                "refused_values": refused,
                "alarmed_agents": sorted(result.alarms),
                "verdicts": [
                    {
                        "verdict_id": v.verdict_id,
                        "agent_id": v.agent_id,
                        "decision": v.decision,
                        "confidence": v.confidence,
                        "epoch": v.epoch,
                        "signers": list(v.certificate.monitors),
                        "reasons": [{"feature": feature, "log_bf_q32": nats} for feature, nats in v.reasons],
                    }
                    for v in result.verdicts
                ],
                "certificates": [str(path) for path in certificates],
                "predictions": str(predictions) if predictions else None,
                "seconds": round(seconds, 3),
            }
        )
        return
    say(
        bold(f"{counted(result.events, 'event')} of {counted(result.agents, 'agent')} replayed in {seconds:.1f} s")
        + f" ({result.live_events:,} judged)"
    )
    agents = len({v.agent_id for v in flagged})
    say(
        f"{counted(agents, 'agent')} certified as compromised"
        + (", the first of them:" if agents > SHOWN else ":" if agents else ".")
    )
    for verdict in flagged[:SHOWN]:
        why = ", ".join(safe(feature, 40) for feature, nats in verdict.reasons[:2] if nats > 0)
        entry = verdict.entry
        decided = decided_by(entry.log_e_q32 / Q32, entry.fleet_size, entry.alpha_ppm)
        say(f"  {safe(verdict.agent_id, 60):<32} {decided}; belief then {percent(verdict.confidence)}   {why}")
    _say_unconfirmed(result.alarms, {verdict.agent_id for verdict in flagged})
    if predictions:
        say(f"predictions: {predictions}")
    if data and certificates:
        say(f"certificates: {data / 'certificates'}")
        say(f"next: {explain_command(flagged[0].agent_id, data)}" if flagged else "")
        say(f"      {verify_command(certificates[0], data)}")
    elif flagged:
        note("nothing was kept; give --data DIR to keep certificates and explanations")
