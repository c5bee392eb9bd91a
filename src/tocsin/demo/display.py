"""What a demonstration shows: one live panel on a terminal, plain lines anywhere else.

Names of agents, tools and features come from telemetry and are hostile: they are shown as literal text, control
characters replaced, never as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tocsin.demo.score import Judged, Score
from tocsin.model.evidence import Q32
from tocsin.model.verdict import Verdict

MAX_NAME_CHARS = 48
MAX_LINE_CHARS = 2_000  # of a line for logs and pipes, where nothing is cut that fits
_SHOWN_VERDICTS = 12
_LINE_EVERY_EVENTS = 5_000


def printable(text: str, limit: int = MAX_NAME_CHARS) -> str:
    """`text` with everything that is not printable replaced by '?', and at most `limit` characters of it."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """A certified verdict as it is shown."""

    agent_id: str
    log_e_nats: float  # what decided
    confidence: float  # the belief, which is about now
    epoch: int
    signers: tuple[int, ...]
    monitors: int
    why: str
    judged: Judged | None

    @classmethod
    def of(cls, verdict: Verdict, monitors: int, judged: Judged | None) -> VerdictLine:
        """The line of `verdict`, signed by some of `monitors`."""
        reasons = ", ".join(name for name, _ in verdict.reasons[:3])
        signers = verdict.certificate.monitors
        log_e = verdict.entry.log_e_q32 / Q32
        return cls(verdict.agent_id, log_e, verdict.confidence, verdict.epoch, signers, monitors, reasons, judged)

    @property
    def truth(self) -> str:
        """Whether it is right, as the labels say."""
        if self.judged is None:
            return ""
        return f"right: {self.judged.attack}" if self.judged.correct else "FALSE ALARM"

    def __str__(self) -> str:
        why = f"; {printable(self.why, MAX_LINE_CHARS)}" if self.why else ""
        return (
            f"{printable(self.agent_id, MAX_LINE_CHARS)} is compromised (log e {self.log_e_nats:.1f}, "
            f"belief now {self.confidence:.4f}): certificate of epoch {self.epoch}, "
            f"signed by {len(self.signers)} of {self.monitors} monitors{why} [{self.truth or 'unlabelled'}]"
        )


@dataclass(frozen=True, slots=True)
class LieLine:
    """A monitor's lie and how it fared."""

    claim: str
    accused: str
    against: int  # monitors that stated otherwise
    believed: bool = False

    def __str__(self) -> str:
        fate = "BELIEVED" if self.believed else f"outvoted {self.against} to 1"
        return f"{printable(self.claim, MAX_LINE_CHARS)}; {fate}"


@dataclass
class DemoState:
    """All that is shown. The demonstration changes it and calls `Display.update`."""

    fleet: str
    agents: int
    monitors: int
    stage: str = "starting"
    sent_events: int = 0
    total_events: int = 0  # of the part being sent; 0 while not known
    analysed_events: int = 0
    windows: int = 0  # of behaviour: an agent's events in one batch
    learned_agents: int = 0
    evidence: int = 0
    verdicts: list[VerdictLine] = field(default_factory=list[VerdictLine])
    lies: list[LieLine] = field(default_factory=list[LieLine])
    notes: list[str] = field(default_factory=list[str])
    score: Score | None = None


class Display(Protocol):
    """Shows a `DemoState`; a context manager around the demonstration."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, state: DemoState) -> None: ...


def open_display(console: Console) -> Display:
    """A live panel where `console` is a terminal that can be redrawn, else lines."""
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else LineDisplay(console)


class LiveDisplay:
    """Redraws one panel, eight times a second."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, state: DemoState) -> None:
        """Show `state` at the next redraw."""
        self._live.update(render(state))


class LineDisplay:
    """Prints a line when something happened: for logs, pipes and terminals that cannot be redrawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._shown = [0, 0, 0]  # verdicts, lies, notes
        self._next_progress = _LINE_EVERY_EVENTS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, state: DemoState) -> None:
        """Print what is new in `state`."""
        if state.stage != self._stage:
            self._stage = state.stage
            self._next_progress = state.analysed_events + _LINE_EVERY_EVENTS
            self._line(f"{state.stage} ({state.agents} agents, {state.monitors} monitors)")
        if state.analysed_events >= self._next_progress:
            self._next_progress = state.analysed_events + _LINE_EVERY_EVENTS
            analysed = f"{state.analysed_events} events analysed in {state.windows} windows"
            self._line(f"{analysed}, {state.evidence} statements of evidence")
        for index, items in enumerate((state.verdicts, state.lies, state.notes)):
            self._news(index, items)

    def _news(self, index: int, items: Sequence[object]) -> None:
        for item in items[self._shown[index] :]:
            self._line(str(item))
        self._shown[index] = len(items)

    def _line(self, text: str) -> None:
        self._console.print(Text(printable(text, MAX_LINE_CHARS)), soft_wrap=True)


def render(state: DemoState) -> RenderableType:
    """The panel of a state."""
    parts: list[RenderableType] = [
        Text.assemble(("tocsin demo  ", "bold"), printable(state.fleet, 100)),
        Text.assemble(("now  ", "dim"), (printable(state.stage, 100), "bold")),
        _figures(state),
    ]
    if state.total_events:
        parts.append(_progress(state.sent_events, state.total_events))
    parts.append(_verdict_table(state))
    parts.extend(
        Text.assemble(("lie  ", "bold red" if lie.believed else "bold yellow"), printable(str(lie), 220))
        for lie in state.lies
    )
    parts.extend(Text(printable(note, 220)) for note in state.notes[-4:])
    if state.score is not None:
        parts.append(Text.assemble(("precision  ", "dim"), str(state.score.precision)))
        parts.append(Text.assemble(("recall     ", "dim"), str(state.score.recall)))
    return Group(*parts)


def _progress(done: int, total: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=total, completed=min(done, total), width=60), f"{done:,} of {total:,} events sent")
    return row


def _figures(state: DemoState) -> Text:
    return Text.assemble(
        ("learned ", "dim"),
        f"{state.learned_agents}/{state.agents} agents",
        ("   sent ", "dim"),
        f"{state.sent_events:,}",
        ("   analysed ", "dim"),
        f"{state.analysed_events:,} events in {state.windows:,} windows",
        ("   evidence ", "dim"),
        f"{state.evidence:,} statements by {state.monitors} monitors",
    )


def _verdict_table(state: DemoState) -> Table:
    table = Table(title=f"{len(state.verdicts)} certified verdicts", title_justify="left", box=None, pad_edge=False)
    for heading in ("agent", "log e", "belief", "certificate", "why", "truth"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for line in state.verdicts[-_SHOWN_VERDICTS:]:
        right = line.judged is None or line.judged.correct
        table.add_row(
            Text(printable(line.agent_id)),
            Text(f"{line.log_e_nats:.1f}"),
            Text(f"{line.confidence:.4f}"),
            Text(f"epoch {line.epoch}, monitors {' '.join(map(str, line.signers))} of {line.monitors}"),
            Text(printable(line.why, 40)),
            Text(line.truth, style="green" if right else "bold red"),
        )
    return table
