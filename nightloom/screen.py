"""What the command line shows: progress while a night runs, and results as tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from nightloom.metering import Usage
from nightloom.progress import Snapshot, watcher
from nightloom.report import RunReport, plain, scores_in_words
from nightloom.rows import Hit

WIDE = 10_000
"""Characters; more than any table of ours has in a line."""
SHOWN_TEXT = 600
"""Characters of a passage that a terminal shows; --json gives all."""


@contextmanager
def watch_night(console: Console) -> Iterator[None]:
    """Show the shards of a night that runs inside the block, with rate and time left."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TextColumn("{task.fields[says]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    row = bar.add_task("starting", total=None, says="")

    def show(snapshot: Snapshot) -> None:
        says = f"{snapshot.nodes_per_second:.1f} nodes/s" if snapshot.nodes else ""
        if snapshot.seconds_left:
            says += f", {snapshot.seconds_left:.0f} s left"
        bar.update(
            row,
            description=snapshot.stage,
            completed=snapshot.shards_done,
            total=snapshot.shards or None,
            says=says,
        )

    token = watcher.set(show)
    try:
        with bar:
            yield
    finally:
        watcher.reset(token)


def show_whole(console: Console, rows: Sequence[Mapping[str, str]], styles: Sequence[str]) -> None:
    """A table whose cells are never cut: where it is too wide for a terminal, its last columns are left out.

    Args:
        console: Where to; what is no terminal, such as a pipe, takes every column.
        rows: Cells by column; the first is always shown.
        styles: Of the rows.
    """
    columns = list(rows[0]) if rows else []
    while columns:
        table = Table(*(Column(name, no_wrap=True) for name in columns))
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*(Text(row[name]) for name in columns), style=style)
        width = Measurement.get(console, console.options.update_width(WIDE), table).maximum
        if not console.is_terminal:
            Console(file=console.file, width=width).print(table)
            return
        if width <= console.width:
            console.print(table)
            return
        columns.pop()
    for row in rows:
        console.print(Text(next(iter(row.values()))), soft_wrap=True)


def show_report(console: Console, report: RunReport) -> None:
    """A night in a few lines."""
    colour = {"promoted": "green", "unchanged": "green", "held": "yellow"}.get(report.outcome, "red")
    console.print(f"[bold]{plain(report.corpus)}[/]: [bold {colour}]{report.outcome}[/]")
    console.print(plain(report.reason), markup=False, highlight=False, emoji=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if report.generation:
        table.add_row("generation", report.generation)
    for what, part in (("documents", report.documents), ("nodes", report.nodes)):
        counts = part.model_dump()
        table.add_row(what, ", ".join(f"{count} {which}" for which, count in counts.items()))
    for left in report.left_out:
        table.add_row("left out", Text(plain(left.says)))
    table.add_row("truncated tokens", str(report.truncated_tokens))
    if report.scores is not None:
        table.add_row("scores", scores_in_words(report))
    spent = {stage: value for stage, value in report.seconds.items() if value >= 0.1}  # noqa: PLR2004  what people feel
    table.add_row("seconds", ", ".join(f"{stage} {value:.1f}" for stage, value in spent.items()))
    if report.file:
        table.add_row("report", Text(report.file))
    console.print(table)
    for warning in report.warnings:
        console.print(f"warning: {plain(warning)}", style="yellow", markup=False, highlight=False, emoji=False)
    for entry in report.quarantine[:10]:
        console.print(
            f"quarantined {plain(entry.uri)}: {plain(entry.reason)}", markup=False, highlight=False, emoji=False
        )
    if len(report.quarantine) > 10:  # noqa: PLR2004  as many as above
        console.print(f"and {len(report.quarantine) - 10} more; the report names them all")


def show_hits(console: Console, hits: list[Hit]) -> None:
    """Passages, best first."""
    for rank, hit in enumerate(hits, 1):
        name = Text(plain(hit.uri), style="cyan")
        where = f"  page {hit.page}" if hit.page is not None else ""
        console.print(Text(f"{rank}  ").append(name).append(f"{where}  node {hit.position}  score {hit.score:.4f}"))
        if hit.section:
            console.print(Text(plain(hit.section), style="dim"))
        text = plain(hit.text)
        cut = f"{text[:SHOWN_TEXT]} ..." if len(text) > SHOWN_TEXT else text
        console.print(cut + "\n", markup=False, highlight=False, emoji=False)


def show_citations(console: Console, hits: list[Hit], cited: Collection[int]) -> None:
    """The passages that an answer cites, by their numbers, with where they stand; the others in a line below."""
    for number, hit in enumerate(hits, 1):
        if number in cited:
            where = f"  page {hit.page}" if hit.page is not None else ""
            section = f"  {plain(hit.section)}" if hit.section else ""
            line = Text(f"[{number}] ").append(plain(hit.uri), style="cyan").append(where).append(section, style="dim")
            console.print(line)
    others = [f"[{number}] {plain(hit.uri)}" for number, hit in enumerate(hits, 1) if number not in cited]
    if others:
        console.print(Text(f"not cited: {', '.join(others)}", style="dim"))


def show_usage(console: Console, usage: Usage) -> None:
    """What an answer took, in a line."""
    about = "about " if usage.estimated else ""
    cost = "" if usage.cost_usd is None else f", ${usage.cost_usd:.4f}"
    tokens = f"{about}{usage.input_tokens} tokens read, {usage.output_tokens} written"
    console.print(Text(f"{tokens}{cost}", style="dim"))
