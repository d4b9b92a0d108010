"""What the benchmarks share: arms measured in turns, processes of their own, medians with their spread, tables."""

import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pygal  # type: ignore[import-untyped]

from nightloom.charts import STYLE, without_scripts

Arm = Callable[[], Awaitable[None]]
Result = TypeVar("Result")

CHART = {"width": 760, "explicit_size": True, "disable_xml_declaration": True, "js": (), "truncate_label": -1}

RUNS = 5
"""Of every arm, in turns: what disturbs the machine disturbs all of them."""


@dataclass
class Timing:
    """Seconds of one arm, run by run.

    Attributes:
        times: What one run counts: where an arm was run over a part of the work, the whole is so many times as much.
    """

    times: int = 1
    parts: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Of the whole work, run by run."""
        return [part * self.times for part in self.parts]

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """As a cell of a table: median and spread, a part marked as such."""
        mark = f" (x{self.times})" if self.times > 1 else ""
        return f"{self.median:.3g} s [{min(self.seconds):.3g}, {max(self.seconds):.3g}]{mark}"

    def rate(self, count: float) -> str:
        """So many things a second, as a cell of a table: median and spread."""
        middle, least, most = (
            spoken(count / seconds) for seconds in (self.median, max(self.seconds), min(self.seconds))
        )
        return f"{middle} [{least}, {most}]"

    def ratio(self, other: "Timing") -> float:
        """How many times as long as another arm: the median of the pairs of one turn."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def spoken(value: float) -> str:
    """A number of three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004  three digits


async def in_turns(arms: Mapping[str, Arm], runs: int, times: Mapping[str, int] | None = None) -> dict[str, Timing]:
    """Run every arm once in each turn.

    Args:
        arms: What is measured, by name.
        runs: Turns.
        times: How often the part that an arm does goes into the whole; 1 where an arm is not named.
    """
    timings = {name: Timing((times or {}).get(name, 1)) for name in arms}
    for _ in range(runs):
        for name, arm in arms.items():
            started = time.perf_counter()
            await arm()
            timings[name].parts.append(time.perf_counter() - started)
    return timings


def own_process() -> ProcessPoolExecutor:
    """A process that has imported nothing yet, and stays the same for all that is submitted to it."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """What a function gives in a process of its own."""
    with own_process() as process:
        return process.submit(function, *arguments).result()


def peak_megabytes() -> float:
    """The most memory that this process has held; its children are not counted."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bars(title: str, values: Mapping[str, float], file: Path) -> None:
    """Draw values as bars."""
    chart = pygal.HorizontalBar(
        title=title, style=STYLE, show_legend=False, print_values=True, height=60 + 40 * len(values), **CHART
    )
    chart.value_formatter = "{:.1f}".format
    chart.x_labels = list(values)
    chart.add("", list(values.values()))
    save(chart, file)


def line(title: str, points: Mapping[int, float], file: Path) -> None:
    """Draw values against a size, as a line."""
    chart = pygal.XY(title=title, style=STYLE, show_legend=False, height=320, **CHART)
    chart.x_value_formatter = "{:,.0f}".format
    chart.value_formatter = "{:,.0f}".format
    chart.add("", sorted(points.items()))
    save(chart, file)


def save(chart: Any, file: Path) -> None:
    """Write a chart as a picture without scripts."""
    chart.add_xml_filter(without_scripts)
    file.write_text(chart.render(is_unicode=True), encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
