"""Charts of the last nights, as pictures that hold all they need: no script, no address, readable on any page."""

import base64
import math
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

from nightloom.history import NIGHTS, NightRecord

LABELLED_DAYS, LABELLED_TIMES = 10, 6
"""As many stand beside each other."""
WIDTH, HEIGHT = 760, 320
"""In pixels."""
SCORE_STEP = 0.1
"""The scale of scores begins and ends at a multiple of this."""
LEGENDS_ABREAST = 5
LARGE_DOT = 6
"""Its radius in pixels."""
SEEN_BY_READERS = frozenset({"promoted", "unchanged"})

STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    foreground="#333333",
    foreground_strong="#111111",
    foreground_subtle="#888888",
    guide_stroke_color="#dddddd",
    major_guide_stroke_color="#cccccc",
    colors=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a67c00", "#000000"),
    font_family="sans-serif",
    title_font_size=16,
    legend_font_size=13,
    label_font_size=12,
    major_label_font_size=12,
    no_data_font_size=14,
)
"""A card of its own colour is read on a dark page and on a light one. The colours differ for the colour-blind, too."""


def scores_chart(nights: Sequence[NightRecord]) -> str:
    """The scores of the last nights by metric, as SVG; a night that lacks a metric leaves a gap in its line."""
    shown = _last(nights)
    metrics = list(dict.fromkeys(metric for night in shown for metric in night.scores))
    unseen = any(night.outcome not in SEEN_BY_READERS for night in shown)
    chart = _chart("Scores (large dots: not promoted)" if unseen else "Scores", shown, len(metrics))
    values = [value for night in shown for value in night.scores.values()]
    if values:
        upper = max(math.ceil(max(values) / SCORE_STEP), 1)
        lower = min(math.floor(min(values) / SCORE_STEP), upper - 1)
        chart.range = (lower * SCORE_STEP, upper * SCORE_STEP)
    chart.value_formatter = "{:.2f}".format
    for metric in metrics:
        chart.add(metric, [_point(night, night.scores.get(metric)) for night in shown])
    return str(chart.render())


def work_chart(nights: Sequence[NightRecord]) -> str:
    """Nodes, nodes embedded, and on a scale of their own the seconds of the last nights, as SVG."""
    shown = _last(nights)
    chart = _chart("Nodes, and seconds (scale at the right)", shown, 3)
    chart.value_formatter = "{:,.0f}".format
    chart.include_x_axis = True
    if shown:  # it fails on a scale of nothing
        chart.add("nodes", [night.nodes for night in shown])
        chart.add("embedded that night", [night.embedded for night in shown])
        chart.add("seconds", [night.seconds for night in shown], secondary=True)
    return str(chart.render())


def as_data_uri(svg: str) -> str:
    """An address that holds the picture itself: `![scores](data:image/svg+xml;base64,...)`."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _last(nights: Sequence[NightRecord]) -> list[NightRecord]:
    return sorted(nights, key=lambda night: night.started)[-NIGHTS:]


def _chart(title: str, nights: Sequence[NightRecord], lines: int) -> Any:
    chart = pygal.Line(
        title=title,
        style=STYLE,
        width=WIDTH,
        height=HEIGHT,
        explicit_size=True,
        allow_interruptions=True,
        margin_right=40,  # the last date is wider than what is left beside its night
        legend_at_bottom=True,
        legend_at_bottom_columns=max(1, min(lines, LEGENDS_ABREAST)),
        truncate_legend=-1,
        truncate_label=-1,
        min_scale=3,
        max_scale=6,
        show_minor_x_labels=False,
        no_data_text="nothing yet",
        no_prefix=True,
        disable_xml_declaration=True,
        js=(),
    )
    days = [night.started.astimezone(UTC) for night in nights]
    one_a_day = len({day.date() for day in days}) == len(days)
    shape, room = ("%b %d", LABELLED_DAYS) if one_a_day else ("%b %d %H:%M", LABELLED_TIMES)
    chart.x_labels = [day.strftime(shape) for day in days]
    chart.x_labels_major_every = max(1, math.ceil(len(nights) / room))
    chart.add_xml_filter(without_scripts)
    return chart


def _point(night: NightRecord, value: float | None) -> Any:
    """A value of a night; those of a night that readers never saw have a large dot."""
    return value if night.outcome in SEEN_BY_READERS else {"value": value, "node": {"r": LARGE_DOT}}


def without_scripts(root: Any) -> Any:
    """The picture without the settings, as script, and the comments that pygal puts into each."""
    for element in list(root.iter()):
        if not isinstance(element.tag, str) or element.tag.endswith("script"):
            element.getparent().remove(element)
    return root
