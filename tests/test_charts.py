"""Charts: what they show of one night, of many, and of nights that lack something; and that they need nothing else."""

import base64
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from nightloom.charts import LARGE_DOT, as_data_uri, scores_chart, work_chart
from nightloom.errors import Outcome
from nightloom.history import NIGHTS, NightRecord

Chart = Callable[[Sequence[NightRecord]], str]
FIRST = datetime(2026, 11, 1, 22, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def record(day: float, scores: dict[str, float] | None = None, outcome: Outcome = "promoted") -> NightRecord:
    started = FIRST + timedelta(days=day)
    return NightRecord(started=started, outcome=outcome, scores=scores or {}, nodes=900, embedded=30, seconds=12.5)


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def dots(svg: str) -> list[float]:
    return [float(dot.attrib["r"]) for dot in drawn(svg).iter(f"{SVG}circle")]


def words(svg: str) -> list[str]:
    return [text.text or "" for text in drawn(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("chart", [scores_chart, work_chart])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_a_chart_holds_all_that_it_needs_and_runs_nothing(chart: Chart, count: int) -> None:
    svg = chart([record(day, {"nDCG@10": 0.7}) for day in range(count)])
    assert not list(drawn(svg).iter(f"{SVG}script"))
    assert "<!--" not in svg
    assert "<?" not in svg
    assert not [name for element in drawn(svg).iter() for name in element.attrib if name.startswith("on")]
    assert re.findall(r"https?:[^\"' >]*", svg.replace("http://www.w3.org/2000/svg", "")) in (
        [],
        ["http://www.w3.org/1999/xlink"],
    )
    assert "url(" not in svg
    assert chart([record(day, {"nDCG@10": 0.7}) for day in range(count)]) == svg, "the same nights, the same picture"


def test_a_night_is_a_dot_of_each_metric_and_a_missing_one_leaves_a_gap() -> None:
    found = scores_chart([record(0, {"R@10": 0.9, "RR@10": 0.6}), record(1, {"R@10": 0.8}), record(2, {"R@10": 0.7})])
    assert len(dots(found)) == 4
    assert {"R@10", "RR@10", "Nov 01", "Nov 03"} <= set(words(found))
    whole, broken = ([{"R@10": 0.9}] * 4, [{"R@10": 0.9}] * 2 + [{}] + [{"R@10": 0.9}] * 2)
    pictures = [drawn(scores_chart([record(day, one) for day, one in enumerate(nights)])) for nights in (whole, broken)]
    lines = [len(picture.findall(".//*[@class='line reactive nofill']")) for picture in pictures]
    assert lines == [1, 2]


def test_the_scale_of_scores_leaves_room_for_small_changes() -> None:
    found = words(scores_chart([record(0, {"R@10": 0.84}), record(1, {"R@10": 0.86})]))
    assert next(word for word in found if re.fullmatch(r"\d\.\d\d", word)) == "0.80"
    assert "0.00" not in found
    assert "0.90" in found


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_score_that_never_changes_is_drawn(value: float) -> None:
    found = scores_chart([record(day, {"R@10": value}) for day in range(3)])
    assert len(dots(found)) == 3
    scale = [float(word) for word in words(found) if re.fullmatch(r"-?\d\.\d\d", word)]
    assert 0 <= min(scale) <= value <= max(scale) <= 1


def test_a_night_that_was_held_stands_out() -> None:
    found = scores_chart([record(0, {"R@10": 0.9}), record(1, {"R@10": 0.2}, "held"), record(2, {"R@10": 0.9})])
    assert dots(found).count(LARGE_DOT) == 1
    assert "Scores (large dots: not promoted)" in words(found)


def test_the_last_nights_are_shown_in_their_order() -> None:
    nights = [record(day, {"R@10": 0.9}) for day in range(NIGHTS + 5)]
    found = scores_chart(nights[::-1])
    assert len(dots(found)) == NIGHTS
    assert found == scores_chart(nights[5:])
    labels = [word for word in words(found) if word.startswith(("Nov", "Dec"))]
    assert labels[0] == "Nov 06"
    assert len(labels) <= 10


def test_two_nights_of_a_day_are_told_apart_by_the_hour() -> None:
    assert {"Nov 01 22:00", "Nov 01 23:12"} <= set(
        words(scores_chart([record(0, {"R": 1.0}), record(0.05, {"R": 1.0})]))
    )


def test_work_has_two_scales() -> None:
    found = words(work_chart([record(0), record(1)]))
    assert {"nodes", "embedded that night", "seconds", "0"} <= set(found)
    assert max(int(word.replace(",", "")) for word in found if word.replace(",", "").isdigit()) >= 600


def test_a_name_in_a_chart_is_text() -> None:
    name = '<script>alert(1)</script>"&'
    found = scores_chart([record(0, {name: 0.5})])
    assert name in words(found)
    assert "<script" not in found


def test_an_address_holds_the_picture() -> None:
    svg = scores_chart([record(0, {"größe": 0.5})])
    kind, _, data = as_data_uri(svg).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data).decode() == svg
