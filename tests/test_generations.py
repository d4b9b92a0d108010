"""Generations: names that parse back, an order that no clock can turn round, and a live one that nobody drops."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom.generations import Generation, disposable, half_built, new_name, parse_name

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
