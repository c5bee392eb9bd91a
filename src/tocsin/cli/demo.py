"""`tocsin demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from tocsin.cli.out import bold, note, say, say_json


def run_demo_command(
    *, fleet: str, data: Path, agents: int, seed: int, archive: Path | None, browser: bool, as_json: bool
) -> None:
    """Run the demonstration and print what to try next."""
    from rich.console import Console

    from tocsin.demo.display import DemoState, open_display
    from tocsin.demo.fleets import FleetOptions
    from tocsin.demo.run import DemoOptions, iter_next_commands, run_demo

    console = Console(stderr=as_json, highlight=False)
    options = DemoOptions(
        FleetOptions(fleet=fleet, size=agents, seed=seed, archive=archive),
        data,
        browser=browser and sys.stdout.isatty() and not as_json,
    )
    state = DemoState(fleet=fleet, agents=agents, monitors=4)
    with open_display(console) as display:
        result = run_demo(options, state, display)
    if as_json:
        say_json(result.to_json())
        return
    score = result.score
    assert score is not None
    say()
    say(bold(f"{result.agents} agents, {result.compromised} of them hijacked; {result.source}"))
    counts = f"{result.baseline_events:,} learned from, {result.live_events:,} judged"
    say(f"  events      {counts}, in {result.seconds:.0f} s")
    say(f"  verdicts    {len(score.judged)} agents certified as compromised, each by 3 of 4 monitors at least")
    say(f"  precision   {score.precision}")
    say(f"  recall      {score.recall}")
    delay = score.median_delay_events()
    if delay is not None:
        say(f"  delay       {delay:.0f} events after the first malicious one (median)")
    say(f"  the lie     {result.lie}")
    say()
    say(bold("try next:"))
    for command in iter_next_commands(result):
        say(f"  {command}")
    if not result.verdicts:
        note("no verdict was certified: the evidence never reached the alarm level")
        sys.exit(1)
