"""The commands and their help. What they do is in one module each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.options import TOKEN_VARIABLE, DataOption, Json, TokenOption, UrlOption

app = typer.Typer(
    name="tocsin",
    help="""Watch a fleet of AI agents, and have independent monitors agree, with signatures, before anyone acts.

    Start with `tocsin demo`. Then `tocsin up`, point your agents' OpenTelemetry exporter at the address it prints, and
    ask `tocsin agents` and `tocsin explain AGENT`.

    Exit codes: 0 done, 1 failure, 2 usage, 3 verification failed, 4 unreachable or no quorum.
    """,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from tocsin import __version__

        print(f"tocsin {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""


@app.command()
def up(
    data: DataOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 lets the system choose.  [default: 4318]")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Bearer token to ask of everybody; better given as the variable.", envvar=TOKEN_VARIABLE),
    ] = None,
    monitors: Annotated[int | None, typer.Option(help="Monitors that analyse and vote.  [default: 4]")] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Events of an agent that are learned before it is judged.  [default: 200]")
    ] = None,
    accept_any_time: Annotated[
        bool, typer.Option("--accept-any-time", help="Take event times as they come: for recorded telemetry.")
    ] = False,
) -> None:
    """Run tocsin until interrupted: receive OpenTelemetry, learn, judge, certify.

    Prints where it listens and the exact environment variables to give your agents. One process, several monitors with
    a key each: it tolerates lying monitors, not the loss of this machine.
    """
    from tocsin.cli.up import run_up

    flags: dict[str, str | int | None] = {
        "data.dir": str(data) if data else None,
        "server.host": host,
        "server.port": port,
        "server.token": token,
        "consensus.monitors": monitors,
        "learning.warmup_events": warmup,
    }
    run_up(flags, accelerated=accept_any_time)


@app.command()
def demo(
    fleet: Annotated[
        str,
        typer.Option(
            help="agentdojo: real tool calls of language models; synthetic: a generator that ships with tocsin."
        ),
    ] = "agentdojo",
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Where the demo keeps its data.")] = Path(
        "tocsin-demo"
    ),
    agents: Annotated[int, typer.Option(help="Size of the fleet.", min=20, max=600)] = 600,
    seed: Annotated[int, typer.Option(help="Which fleet: equal seeds give equal fleets.")] = 0,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The AgentDojo archive, if you have it already.", exists=True)
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the status page on a terminal.")] = True,
    as_json: Json = False,
) -> None:
    """Start tocsin, send it a fleet in which some agents get hijacked, let one monitor lie, and see who is believed.

    The default fleet is made of published traces of real language models under real prompt injections. Takes minutes
    the first time (kernels are compiled), longer on a busy machine; needs the network once, for 20 MB. Epochs and
    delays vary from run to run: the monitors agree in real time.
    """
    from tocsin.cli.demo import run_demo_command

    run_demo_command(
        fleet=fleet, data=data, agents=agents, seed=seed, archive=archive, browser=browser, as_json=as_json
    )


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Table of events: .parquet, .csv or .jsonl.")],
    mapping: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML that says what the columns mean; see docs/replay.md.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="OUT.csv", help="Write agent_id,seq,score,alarm: one row an event.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keep certificates and the fleet's picture there.")
    ] = None,
    monitors: Annotated[int, typer.Option(help="Monitors that analyse and vote.", min=1, max=100)] = 4,
    alpha: Annotated[float, typer.Option(help="Target share of false alarms among alarms.", min=1e-6, max=0.5)] = 0.01,
    as_json: Json = False,
) -> None:
    """Run recorded events through the monitors, as fast as they go.

    A table needs `agent_id` and `seq` or a time; `phase` (0 = baseline) is optional. Numeric columns become features,
    text columns actions, unless a mapping says otherwise; mappings for common tables are found by the columns.
    """
    from tocsin.cli.replay import run_replay

    run_replay(
        file, mapping=mapping, predictions=predictions, data=data, monitors=monitors, alpha=alpha, as_json=as_json
    )


@app.command()
def agents(
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    limit: Annotated[int, typer.Option(help="How many, most suspicious first.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """List the observed agents, the most suspicious first, with what the monitors agreed about each.

    `log e` is the evidence that alarms are decided by, over the whole fleet; `belief` is the probability, now, that the
    agent is compromised. Agents that are still being learned show the prior. An agent that is called like a span or a
    service gave no name: set gen_ai.agent.id or gen_ai.agent.name.
    """
    from tocsin.cli.look import run_agents

    run_agents(data, url, token, limit=limit, as_json=as_json)


@app.command()
def explain(
    agent: Annotated[str, typer.Argument(help="Agent id, as `tocsin agents` prints it.")],
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Json = False,
) -> None:
    """Say in one sentence why an agent is believed compromised or not, then show the evidence."""
    from tocsin.cli.look import run_explain

    run_explain(agent, data, url, token, as_json=as_json)


baseline = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(baseline, name="baseline", help="Give orders about what a running tocsin has learned.")


@baseline.command("refit")
def baseline_refit(
    discard: Annotated[
        bool, typer.Option("--discard", help="Yes: give up what was learned. Without it the cost is said, and no more.")
    ] = False,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Json = False,
) -> None:
    """Begin the baselines' sums anew, in ranges fitted to the latest events.

    For when most agents' measurements have left the ranges that were fitted at first: the status names such features
    under `saturating`. Sums in other ranges cannot be converted exactly, so what was learned is lost for good. Verdicts
    and beliefs are not touched: detectors learn from the events themselves.
    """
    from tocsin.cli.baseline import run_refit

    run_refit(data, url, token, discard=discard, as_json=as_json)


@baseline.command("retire")
def baseline_retire(
    agents: Annotated[list[str], typer.Argument(help="Agent ids, as `tocsin agents` prints them.")],
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Json = False,
) -> None:
    """Take agents that are no more out of every sum, exactly. Whoever acts again is back, with its history."""
    from tocsin.cli.baseline import run_retire

    run_retire(agents, data, url, token, as_json=as_json)


@app.command()
def feedback(
    agent: Annotated[str, typer.Argument(help="Agent id, as `tocsin agents` prints it.")],
    outcome: Annotated[str, typer.Argument(help="benign: the alarm was false; confirmed: it was right.")],
    note: Annotated[str, typer.Option(help="Why, for whoever reads it later.")] = "",
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Json = False,
) -> None:
    """Say whether an agent's latest alarm was right; `tocsin quality` then shows the realised share of false ones.

    The last word on an alarm counts. Feedback changes no belief, baseline or verdict: one person cannot silence an
    agent. `confirmed` of an agent without an alarm counts as one that was missed.
    """
    from tocsin.cli.quality import run_feedback

    run_feedback(agent, outcome, note, data, url, token, as_json=as_json)


@app.command()
def quality(
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Json = False,
) -> None:
    """Show how good the alarms are: target and realised share of false ones, and what is found on labelled fleets."""
    from tocsin.cli.quality import run_quality

    run_quality(data, url, token, as_json=as_json)


@app.command()
def verify(
    certificate: Annotated[Path, typer.Argument(help="A *.cert.json file.")],
    roster: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The monitors you trust: roster.json, or a data directory. Without it the certificate is only checked "
            "against the keys it names itself.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a verdict's certificate offline: signatures, quorum, and that the verdict is what was signed.

    Exit code 3 when it does not hold.
    """
    from tocsin.cli.verify import run_verify

    run_verify(certificate, roster, as_json=as_json)


@app.command()
def sim(
    seed: Annotated[int, typer.Option(help="Which run: equal seeds give equal runs, on every machine.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds, from --seed on.", min=1)] = 1,
    monitors: Annotated[int, typer.Option(help="Monitors; (n - 1) / 3 of them may lie.", min=1, max=100)] = 4,
    only: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of the seed's faults, only these: 0,3,5 or none.")
    ] = None,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="Reduce what failed to few faults.")] = True,
    as_json: Json = False,
) -> None:
    """Simulate monitors that agree while everything goes wrong, and check that what must hold holds.

    The real monitors run on a simulated network, clock, processor and disk. Each seed draws its own mixture of loss,
    delay, partitions, crashes, slow machines, wrong clocks and lying monitors. Then the network heals, and everything
    that honest monitors stated must be decided by all of them.

    Without --seeds the faults of one seed are listed. A violation prints the command that repeats it, exit code 1.
    """
    from tocsin.cli.sim import run_sim

    run_sim(seed=seed, seeds=seeds, monitors=monitors, only=only, shrink=shrink, as_json=as_json)


@app.command()
def config(as_json: Json = False) -> None:
    """Print every setting: its value, where that came from, what it does and what it trades."""
    from tocsin.cli.config import run_config

    run_config(as_json=as_json)


@app.command()
def doctor(
    data: DataOption = None,
    port: Annotated[int | None, typer.Option(help="Port to check.  [default: that of the settings, 4318]")] = None,
    as_json: Json = False,
) -> None:
    """Check that this machine can run tocsin: versions, signatures, the data directory, the port."""
    from tocsin.cli.doctor import run_doctor

    run_doctor(data, port, as_json=as_json)


def main() -> None:
    """Entry point: errors of tocsin's own become a sentence and an exit code, never a traceback."""
    from tocsin.cli.out import fail, note
    from tocsin.errors import InternalError, TocsinError

    # Before numpy is loaded. Matrices here are small, and threads that wait for each other beside the engine's and the
    # web server's triple the processor time of a round of screening.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except InternalError:
        raise
    except TocsinError as error:
        fail(error, as_json="--json" in sys.argv)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
