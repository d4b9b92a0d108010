"""Generations: names that parse back, an order that no clock can turn round, and a live one that nobody drops."""

import dataclasses
import io
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nightloom.errors import IndexInputError
from nightloom.generations import Generation, disposable, half_built, new_name, parse_name
from nightloom.operate import find_generation
from nightloom.screen import show_whole

ALIASES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,30}", fullmatch=True)
FINGERPRINTS = st.text("0123456789abcdef", min_size=64, max_size=64)
CLOCKS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  made aware
FEW_FINGERPRINTS = st.sampled_from(["a" * 64, "b" * 64])


@st.composite
def histories(draw: st.DrawFn) -> list[Generation]:
    """Generations of one index, at most one of them live, in any order."""
    states = draw(st.lists(st.tuples(FEW_FINGERPRINTS, st.booleans()), max_size=8))
    live = draw(st.none() | st.integers(0, len(states) - 1)) if states else None
    start = datetime(2026, 11, 22, tzinfo=UTC)
    generations = [
        Generation(f"docs_{at}", "docs", fingerprint, start + timedelta(hours=at), at == live, promoted)
        for at, (fingerprint, promoted) in enumerate(states)
    ]
    return draw(st.permutations(generations))


@given(ALIASES, FINGERPRINTS, CLOCKS)
def test_a_name_parses_back(alias: str, fingerprint: str, now: datetime) -> None:
    name, created = new_name(alias, fingerprint, [], now)
    assert parse_name(name) == (alias, created)
    assert created == now.replace(microsecond=0)
    assert name.endswith(f"_{fingerprint[:8]}")
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    assert len(name) == len(alias) + 26


@given(st.lists(CLOCKS, min_size=2, max_size=10), FINGERPRINTS)
def test_order_is_age_whatever_the_clock_says(clock: list[datetime], fingerprint: str) -> None:
    made: list[Generation] = []
    for now in clock:
        name, created = new_name("docs", fingerprint, made, now)
        made.append(Generation(name, "docs", fingerprint, created))
    assert len({generation.name for generation in made}) == len(made)
    assert made == sorted(made, key=lambda generation: generation.created)
    assert made == sorted(made, key=lambda generation: generation.name), "also for who only sees the names"


def test_the_time_in_a_name_is_utc() -> None:
    east = datetime(2026, 11, 23, 7, tzinfo=timezone(timedelta(hours=9)))
    assert new_name("docs", "3f9a1c2b" + "0" * 56, [], east)[0] == "docs_20261122t220000z_3f9a1c2b"


@pytest.mark.parametrize(
    "name",
    [
        "docs",
        "docs_20261122t220000z",
        "docs_20261322t220000z_3f9a1c2b",
        "docs_20261122t220000z_3f9a1c2",
        "docs_20261122t220000z_3F9A1C2B",
        "docs_20261122t220000z_3f9a1c2b_copy",
        "docs_20261122t220000z_3f9a1c2b\n",
        "_20261122t220000z_3f9a1c2b"[1:],
        "",
    ],
)
def test_other_names_are_nobodys_generation(name: str) -> None:
    assert parse_name(name) is None


@given(histories(), FEW_FINGERPRINTS)
def test_only_what_readers_never_saw_is_taken_up_again(generations: list[Generation], fingerprint: str) -> None:
    found = half_built(generations, fingerprint)
    possible = [one for one in generations if not one.live and not one.promoted and one.fingerprint == fingerprint]
    assert found == max(possible, key=lambda one: one.created, default=None)


@given(histories(), st.integers(0, 4))
def test_the_live_one_and_the_newest_seen_are_never_dropped(generations: list[Generation], keep: int) -> None:
    dropped = disposable(generations, keep)
    stays = [one for one in generations if one not in dropped]
    assert not any(one.live for one in dropped)
    assert all(one.promoted or one.live for one in stays), "what readers never saw goes"
    seen = [one for one in stays if not one.live]
    assert len(seen) == min(keep, sum(one.promoted and not one.live for one in generations))
    gone = [one for one in dropped if one.promoted]
    assert all(old.created < kept.created for old in gone for kept in seen), "the newest stay"
    assert len(dropped) == len(set(dropped))


OLDER = Generation("docs_20261101t000000z_aaaaaaaa", "docs", "a" * 64, datetime(2026, 11, 1, tzinfo=UTC), promoted=True)
OLD = Generation("docs_20261102t000000z_aaaaaaaa", "docs", "a" * 64, datetime(2026, 11, 2, tzinfo=UTC), promoted=True)
SEEN = Generation(
    "docs_20261103t000000z_bbbbbbbb", "docs", "b" * 64, datetime(2026, 11, 3, tzinfo=UTC), live=True, promoted=True
)
HELD = Generation("docs_20261104t000000z_cccccccc", "docs", "c" * 64, datetime(2026, 11, 4, tzinfo=UTC), held="lost")
HELD_TOO = Generation("docs_20261105t000000z_cccccccc", "docs", "c" * 64, datetime(2026, 11, 5, tzinfo=UTC), held="too")
ALL = [OLDER, HELD_TOO, OLD, SEEN, HELD]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (OLD.name, OLD),
        (f" {OLD.name}\n", OLD),
        ("docs_20261102", OLD),
        ("live", SEEN),
        ("previous", OLD),
    ],
)
def test_a_generation_is_found_by_name_beginning_or_word(given: str, found: Generation) -> None:
    assert find_generation(ALL, "docs", given) is found


def test_a_whole_name_is_meant_where_another_begins_with_it() -> None:
    longer = dataclasses.replace(OLD, name=OLD.name + "0")
    assert find_generation([longer, OLD], "docs", OLD.name) is OLD


@pytest.mark.parametrize(
    ("generations", "given", "says"),
    [
        (ALL, "docs_20261101t1", f"docs_20261101t1: no generation of 'docs'; there are: {HELD_TOO.name} (held)"),
        (ALL, "held", f"several generations of 'docs' fit, so name one of them: {HELD_TOO.name} (held), {HELD.name}"),
        (
            ALL,
            "docs_202611",
            f"so give more of the name: {HELD_TOO.name} (held), {HELD.name} (held), {SEEN.name} (live)",
        ),
        ([SEEN], " ", "an empty name: no generation of 'docs'"),
        ([SEEN], "held", f"held: no generation of 'docs'; there are: {SEEN.name} (live)"),
        ([SEEN, HELD], "previous", "previous: no generation of 'docs'"),
        ([HELD], "live", f"live: no generation of 'docs'; there are: {HELD.name} (held)"),
        ([], "live", "there are: none"),
    ],
)
def test_what_fits_none_or_several_names_what_there_is(generations: list[Generation], given: str, says: str) -> None:
    with pytest.raises(IndexInputError, match=re.escape(says)):
        find_generation(generations, "docs", given)


@pytest.mark.parametrize("width", [10, 40, 60, 80, 200])
def test_a_narrow_terminal_cuts_no_name(width: int) -> None:
    rows = [{"generation": one.name, "state": "earlier", "scores": "nDCG@10 0.9000, R@10 0.9000"} for one in ALL]
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    show_whole(console, rows, [""] * len(rows))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(one.name in shown for one in ALL)
    assert ("nDCG@10" in shown) is (width >= 80)
    assert width < 40 or max(map(len, shown.splitlines())) <= width + len("\x1b[1m") * 20, "with its colours"
