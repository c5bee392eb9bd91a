"""`tocsin replay`."""

from __future__ import annotations

import csv
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tocsin.cli.out import bold, note, percent, safe, say, say_json

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
    from tocsin.runtime.replay import replay
    from tocsin.trust.keyring import deterministic_signers, roster_of

    started = time.monotonic()
    table = decode_table(load_table(file), mapping, BASELINE_SHARE, str(file))
    for line in table.notes:
        note(safe(line))
    alpha_ppm = round(alpha * 1e6)
    with ExitStack() as stack:
        if data is None:
            signers = deterministic_signers(secrets.token_bytes(32), monitors)
            roster = roster_of("replay", signers, alpha_ppm=alpha_ppm)
        else:
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
    _report(result, file, time.monotonic() - started, predictions, data, certificates, as_json=as_json)


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


@contextmanager
def _predictions(file: Path) -> Generator[Callable[[Predicted], None]]:
    """A writer of agent_id,seq,score,alarm rows. The file appears under its name only when it is whole."""
    from tocsin.errors import InputError

    temporary = file.with_name(file.name + ".part")
    try:
        out = temporary.open("w", newline="")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", remedy="choose a writable place") from error
    with out:
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(("agent_id", "seq", "score", "alarm"))

        def write(rows: Predicted) -> None:
            codes: list[int] = rows.agent.tolist()
            agents = [rows.agents[code] for code in codes]
            scores = [f"{score:.6g}" for score in rows.score.tolist()]
            lines.writerows(zip(agents, rows.seq.tolist(), scores, rows.alarm.astype(int).tolist(), strict=True))

        try:
            yield write
        except BaseException:
            temporary.unlink()
            raise
    temporary.replace(file)


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


def _report(
    result: ReplayResult,
    file: Path,
    seconds: float,
    predictions: Path | None,
    data: Path | None,
    certificates: list[Path],
    *,
    as_json: bool,
) -> None:
    flagged = [v for v in result.verdicts if v.decision == "compromised"]
    if as_json:
        say_json(
            {
                "file": str(file),
                "events": result.events,
                "live_events": result.live_events,
                "agents": result.agents,
                "alarmed_agents": sorted(result.alarmed_agents),
                "verdicts": [
                    {
                        "verdict_id": v.verdict_id,
                        "agent_id": v.agent_id,
                        "decision": v.decision,
                        "confidence": v.confidence,
                        "epoch": v.epoch,
                        "signers": sorted(v.certificate.signatures),
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
        bold(f"{result.events:,} events of {result.agents:,} agents replayed in {seconds:.1f} s")
        + f" ({result.live_events:,} judged)"
    )
    agents = len({v.agent_id for v in flagged})
    say(
        f"{agents} agents certified as compromised"
        + (", the first of them:" if agents > SHOWN else ":" if agents else ".")
    )
    for verdict in flagged[:SHOWN]:
        why = ", ".join(safe(feature, 40) for feature, nats in verdict.reasons[:2] if nats > 0)
        say(f"  {safe(verdict.agent_id, 60):<32} confidence {percent(verdict.confidence):>9}   {why}")
    if predictions:
        say(f"predictions: {predictions}")
    if data and certificates:
        say(f"certificates: {data / 'certificates'}")
        say(f"next: tocsin explain {safe(flagged[0].agent_id, 60)} --data {data}" if flagged else "")
        say(f"      tocsin verify {certificates[0]} --roster {data}")
    elif flagged:
        note("nothing was kept; give --data DIR to keep certificates and explanations")
